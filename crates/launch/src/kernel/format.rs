// SPDX-License-Identifier: Apache-2.0
//! Recognising kernel files by their first bytes.

use super::error::KernelProblem;
use super::pe::{Headers, Part};

/// Bytes of a file that are needed to recognise it: up to the end of `cmdline_size` in the setup header.
pub(super) const HEAD: usize = 0x23c;
/// First boot protocol with `xloadflags`.
const MIN_PROTOCOL: u16 = 0x20c;

/// Format of a kernel file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A bzImage with an EFI stub.
    BzImage {
        /// Boot protocol: major in the high byte.
        protocol: u16,
        /// Longest command line the kernel takes, in bytes without the NUL.
        cmdline_max: u32,
    },
    /// A unified kernel image.
    Uki,
}

/// The format of `file` by its first bytes: a bzImage, or `None` for another EFI program.
pub(super) fn recognise(file: &Part<'_>) -> Result<Option<Format>, KernelProblem> {
    if file.len() < HEAD as u64 {
        return Err(KernelProblem::Short(file.len()));
    }
    let mut head = [0; HEAD];
    file.read(&mut head, 0)?;
    // Every bzImage has the boot-sector mark and "HdrS"; a unified kernel image has neither.
    if head[0x1fe..0x200] == [0x55, 0xaa] && &head[0x202..0x206] == b"HdrS" {
        return bzimage(file, &head).map(Some);
    }
    match &head[..4] {
        [b'M', b'Z', ..] => Ok(None),
        [0x7f, b'E', b'L', b'F'] => Err(KernelProblem::Unknown("an ELF file (a vmlinux?)")),
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] | [0xfd, b'7', b'z', b'X'] => {
            Err(KernelProblem::Unknown("a compressed file (an initrd?)"))
        }
        b"0707" => Err(KernelProblem::Unknown("a cpio archive (an initrd?)")),
        _ => Err(KernelProblem::Unknown("of unknown format")),
    }
}

fn bzimage(file: &Part<'_>, head: &[u8; HEAD]) -> Result<Format, KernelProblem> {
    // Offsets of the setup header: boot.rst, "The Real-Mode Kernel Header". All are below HEAD.
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let protocol = u16_at(0x206);
    if protocol < MIN_PROTOCOL {
        return Err(KernelProblem::Protocol(protocol));
    }
    if u16_at(0x236) & 1 == 0 {
        return Err(KernelProblem::Not64Bit);
    }
    if &head[..2] != b"MZ" {
        return Err(KernelProblem::NoEfiStub);
    }
    // setup_sects counts 512-byte sectors after the first, 0 means 4; syssize counts 16-byte units.
    let setup = if head[0x1f1] == 0 { 4 } else { u64::from(head[0x1f1]) };
    let needed = (setup + 1) * 512 + u64::from(u32_at(0x1f4)) * 16;
    if needed > file.len() {
        return Err(KernelProblem::Truncated { needed, len: file.len() });
    }
    Headers::read(file)?;
    Ok(Format::BzImage { protocol, cmdline_max: u32_at(0x238) })
}

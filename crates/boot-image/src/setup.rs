// SPDX-License-Identifier: Apache-2.0
//! The setup header of a bzImage.

use cvmm_kernel_stub::payload::SETUP_MAX;

use crate::error::KernelError;

/// Offset of the setup header in the file, and in the zero page.
const SETUP: usize = 0x1f1;
/// First boot protocol with `xloadflags`.
const MIN_PROTOCOL: u16 = 0x20c;
/// Bit of `xloadflags`: a 64-bit kernel with its entry point 0x200 bytes after the 32-bit one.
const KERNEL_64: u16 = 1;

/// What the setup header says.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The header itself, for the zero page.
    pub header: [u8; SETUP_MAX],
    /// Its length.
    pub len: u32,
    /// Alignment in memory.
    pub alignment: u64,
    /// Memory that the kernel needs.
    pub init_size: u64,
}

/// Whether `file` begins like a bzImage.
pub(crate) fn is_bzimage(file: &[u8]) -> bool {
    file.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && file.get(0x202..0x206) == Some(b"HdrS")
}

fn number<const LEN: usize>(file: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(bytes) = file.get(at..at + LEN) {
        word[..LEN].copy_from_slice(bytes);
    }
    u64::from_le_bytes(word)
}

/// Reads the setup header of the bzImage `file`; the result is the header and the compressed payload.
pub(crate) fn read(file: &[u8]) -> Result<(Setup, &[u8]), KernelError> {
    // At 0x201 is the distance of a jump over the header.
    let end = 0x202 + number::<1>(file, 0x201) as usize;
    let len = end.saturating_sub(SETUP).min(SETUP_MAX);
    let mut header = [0; SETUP_MAX];
    let Some(bytes) = file.get(SETUP..SETUP + len) else {
        return Err(KernelError::Truncated { what: "setup header", end: end as u64, len: file.len() as u64 });
    };
    header[..len].copy_from_slice(bytes);
    let protocol = number::<2>(file, 0x206) as u16;
    // init_size, the last field that is read, ends at 0x264.
    if protocol < MIN_PROTOCOL || end < 0x264 {
        return Err(KernelError::Protocol(protocol));
    }
    if number::<2>(file, 0x236) as u16 & KERNEL_64 == 0 {
        return Err(KernelError::Not64Bit);
    }
    if number::<1>(file, 0x234) == 0 {
        return Err(KernelError::Fixed);
    }
    let alignment = number::<4>(file, 0x230);
    if !alignment.is_power_of_two() {
        let rule = "it must be a power of two";
        return Err(KernelError::Field { field: "kernel_alignment", offset: 0x230, value: alignment, rule });
    }
    // 512-byte sectors after the first; 0 means 4.
    let sectors = match number::<1>(file, 0x1f1) {
        0 => 4,
        sectors => sectors,
    };
    let start = (sectors + 1) * 512 + number::<4>(file, 0x248);
    let payload_len = number::<4>(file, 0x24c);
    let end = start + payload_len;
    let payload = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let Some(payload) = payload.and_then(|(start, end)| file.get(start..end)) else {
        return Err(KernelError::Truncated { what: "payload", end, len: file.len() as u64 });
    };
    let init_size = number::<4>(file, 0x260);
    // A header that this version does not know to the end is cut: the kernel gets what it can rely on.
    Ok((Setup { header, len: len as u32, alignment, init_size }, payload))
}

/// The setup header for a vmlinux, which has none: what the kernel reads of it.
pub(crate) fn for_vmlinux() -> Setup {
    let mut header = [0; SETUP_MAX];
    let mut put =
        |at: usize, bytes: &[u8]| header[at - SETUP..at - SETUP + bytes.len()].copy_from_slice(bytes);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x200, &[0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    // The kernel is above 1 MiB.
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21]);
    put(0x236, &(KERNEL_64 | 2).to_le_bytes());
    put(0x238, &2047_u32.to_le_bytes());
    let len = (0x268 - SETUP) as u32;
    Setup { header, len, alignment: 0x20_0000, init_size: 0 }
}

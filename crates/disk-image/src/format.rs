// SPDX-License-Identifier: Apache-2.0
//! Recognises image files that are not raw, by their headers and footers.
//!
//! A guest that is given such a file as a raw disk finds no partition table, and what it writes destroys the
//! image. The header of a raw disk belongs to its guest, however: a guest could write one of these and would
//! then not start again. For that the operator can say that a disk is raw ([`ImageFormat::Raw`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that are looked at, at the start and at the end.
const PROBED: usize = 4096;
/// A footer is at the start of the last sector.
const FOOTER: usize = 512;

/// What is known of a disk's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageFormat {
    /// Raw, unless its content says otherwise.
    #[default]
    Probe,
    /// Raw, whatever its content.
    Raw,
}

/// A format that is not raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// As people call it.
    name: &'static str,
    tool: Tool,
}

/// What makes a raw image of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    /// `qemu-img`, with its name of the format.
    QemuImg(&'static str),
    /// A decompressor that writes to standard output.
    Decompress(&'static str),
}

impl Foreign {
    const fn image(name: &'static str, format: &'static str) -> Self {
        Self { name, tool: Tool::QemuImg(format) }
    }

    const fn compressed(name: &'static str, tool: &'static str) -> Self {
        Self { name, tool: Tool::Decompress(tool) }
    }

    /// The name of the format.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The shell command that makes a raw image of the file at `path`.
    #[must_use]
    pub fn command(self, path: &Path) -> String {
        let from = quoted(&path.to_string_lossy());
        let to = quoted(&format!("{}.raw", path.to_string_lossy()));
        match self.tool {
            Tool::QemuImg(format) => format!("qemu-img convert -f {format} -O raw {from} {to}"),
            Tool::Decompress(tool) => format!("{tool} -dc {from} > {to}"),
        }
    }
}

/// `text` as one shell word.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+=:@,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

const VPC: Foreign = Foreign::image("VHD", "vpc");

/// Signatures at an offset from the start.
///
/// Sources: QEMU docs/interop/qcow2.txt and qed_spec.txt, docs/interop/parallels.txt, VMware Virtual Disk
/// Format 5.0, MS-VHDX 2.2, Microsoft's Virtual Hard Disk Image Format Specification, VirtualBox's VDICore.h,
/// and the formats of the compressors.
const HEADERS: &[(usize, &[u8], Foreign)] = &[
    (0, b"QFI\xfb\0\0\0\x01", Foreign::image("qcow", "qcow")),
    (0, b"QFI\xfb", Foreign::image("qcow2", "qcow2")),
    (0, b"QED\0", Foreign::image("QED", "qed")),
    (0, b"KDMV", Foreign::image("VMDK", "vmdk")),
    (0, b"COWD", Foreign::image("VMDK", "vmdk")),
    (0, b"# Disk DescriptorFile", Foreign::image("VMDK", "vmdk")),
    (0x40, b"\x7f\x10\xda\xbe", Foreign::image("VDI", "vdi")),
    (0, b"vhdxfile", Foreign::image("VHDX", "vhdx")),
    (0, b"conectix", VPC),
    (0, b"WithoutFreeSpace", Foreign::image("Parallels", "parallels")),
    (0, b"WithouFreSpacExt", Foreign::image("Parallels", "parallels")),
    (0, b"Bochs Virtual HD Image", Foreign::image("Bochs", "bochs")),
    (0, b"\x1f\x8b\x08", Foreign::compressed("gzip-compressed", "gzip")),
    (0, b"\xfd7zXZ\0", Foreign::compressed("xz-compressed", "xz")),
    (0, b"\x28\xb5\x2f\xfd", Foreign::compressed("Zstandard-compressed", "zstd")),
];

/// Signatures at the start of the last sector, or one byte later: footers of old VHD files have 511 bytes.
const FOOTERS: &[(&[u8], Foreign)] = &[(b"conectix", VPC), (b"koly", Foreign::image("DMG", "dmg"))];

/// Which format the start and the end of a file show, if it is not raw.
fn recognise(start: &[u8], last_sector: &[u8]) -> Option<Foreign> {
    let at_start = |(at, signature, format): &(usize, &[u8], Foreign)| {
        start.get(*at..).is_some_and(|rest| rest.starts_with(signature)).then_some(*format)
    };
    let at_end = |(signature, format): &(&[u8], Foreign)| {
        let found =
            [0, 1].iter().any(|at| last_sector.get(*at..).is_some_and(|rest| rest.starts_with(signature)));
        found.then_some(*format)
    };
    HEADERS.iter().find_map(at_start).or_else(|| FOOTERS.iter().find_map(at_end))
}

/// Reads start and end of a file of `len` bytes, and says which format they show. `align` is what direct I/O
/// wants of offsets, lengths and addresses; 1 without it.
pub(crate) fn probe(file: &File, len: u64, align: usize) -> io::Result<Option<Foreign>> {
    let unit = align.max(PROBED);
    let mut buffer = vec![0; 2 * unit];
    let skip = buffer.as_ptr().align_offset(unit).min(unit);
    let block = buffer.get_mut(skip..skip + unit).unwrap_or_default();
    let got = read_up_to(file, block, 0)?;
    let start = block.get(..got).unwrap_or_default().to_vec();
    let unit = unit as u64;
    // The last sector may lie across two blocks of a file whose length is odd.
    let sector = len.saturating_sub(FOOTER as u64);
    let mut end = Vec::new();
    let mut at = sector - sector % unit;
    let skipped = usize::try_from(sector - at).unwrap_or_default();
    while at < len {
        let got = read_up_to(file, block, at)?;
        end.extend_from_slice(block.get(..got).unwrap_or_default());
        if got < block.len() {
            break;
        }
        at += unit;
    }
    Ok(recognise(&start, end.get(skipped..).unwrap_or_default()))
}

/// Fills `block` from `offset`, or as much of it as there is in the file.
fn read_up_to(file: &File, block: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(block, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Regular files and block devices give all there is.
            read => return read,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn probed(content: &[u8], align: usize) -> Option<&'static str> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        probe(&file, content.len() as u64, align).unwrap().map(Foreign::name)
    }

    fn with(len: usize, at: usize, signature: &[u8]) -> Vec<u8> {
        let mut content = vec![0; len];
        content[at..at + signature.len()].copy_from_slice(signature);
        content
    }

    #[test]
    fn foreign_images_are_recognised_wherever_their_signature_is() {
        for (at, signature, format) in HEADERS {
            for len in [512, 4096, 1 << 20] {
                assert_eq!(
                    probed(&with(len, *at, signature), 1),
                    Some(format.name()),
                    "{signature:?} in {len}"
                );
            }
        }
        // A fixed VHD is a raw image with a footer, whatever the length before it.
        for disk in [0, 512, 3584, 4096, 1 << 20, (1 << 20) + 100] {
            for (signature, format) in FOOTERS {
                let file = with(disk + 512, disk, signature);
                for align in [1, 512, 4096, 16_384] {
                    assert_eq!(probed(&file, align), Some(format.name()), "{disk} {align}");
                }
            }
        }
        assert_eq!(probed(&with(4096 + 511, 4096, b"conectix"), 1), Some("VHD"));
        assert_eq!(HEADERS[0].2.name(), "qcow");
    }

    #[test]
    fn raw_images_are_not_mistaken_for_others() {
        for raw in [
            with(1 << 20, 0, b"LUKS\xba\xbe\0\x02"),
            with(1 << 20, 32_769, b"CD001"),
            with(1 << 20, 510, b"\x55\xaa"),
            with(1 << 20, 512, b"EFI PART"),
            with(1 << 20, 1080, b"\x53\xef"),
            // Signatures elsewhere are data.
            with(1 << 20, 512, b"QFI\xfb"),
            with(1 << 20, (1 << 20) - 1024, b"conectix"),
            vec![0; 512],
        ] {
            assert_eq!(probed(&raw, 1), None);
        }
    }

    #[test]
    fn the_command_can_be_pasted() {
        let command = |path: &str| HEADERS[1].2.command(Path::new(path));
        assert_eq!(command("/a/b.qcow2"), "qemu-img convert -f qcow2 -O raw /a/b.qcow2 /a/b.qcow2.raw");
        assert_eq!(command("it's"), "qemu-img convert -f qcow2 -O raw 'it'\\''s' 'it'\\''s.raw'");
    }
}

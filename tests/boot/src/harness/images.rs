// SPDX-License-Identifier: Apache-2.0
//! Changes to the guest's images: another command line in a UKI, one flipped bit in places where the guest
//! would not mind, so that only verification can stop it.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Ctx;

/// `NAME.efi` in the case's folder: the guest's UKI with another command line.
pub fn uki(ctx: &Ctx, name: &str, cmdline: &str) -> Result<PathBuf> {
    uki_of(ctx, &ctx.guest.join("guest.efi"), name, cmdline)
}

/// The same for a second UKI.
pub fn uki_of(ctx: &Ctx, path: &Path, name: &str, cmdline: &str) -> Result<PathBuf> {
    let mut image = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    set_cmdline(&mut image, cmdline)?;
    let out = ctx.path(&format!("{name}.efi"));
    fs::write(&out, image)?;
    Ok(out)
}

fn u16_at(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 2).context("the UKI is cut off")?;
    Ok(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
}

/// The number at an offset of a PE image.
pub fn u32_at(image: &[u8], at: usize) -> Result<usize> {
    let bytes = image.get(at..at + 4).context("the UKI is cut off")?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

/// Writes a number at an offset of a PE image.
pub fn put_u32(image: &mut [u8], at: usize, value: usize) -> Result<()> {
    let value = u32::try_from(value).context("the UKI is too large")?;
    image.get_mut(at..at + 4).context("the UKI is cut off")?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Where a PE image has the header of the section `name`.
pub fn section_header(image: &[u8], name: [u8; 8]) -> Result<usize> {
    // PE: COFF header after the signature, optional header, then section headers of 40 bytes.
    let pe = u32_at(image, 0x3c)?;
    let sections = u16_at(image, pe + 6)?;
    let table = pe + 24 + u16_at(image, pe + 20)?;
    (0..sections)
        .map(|index| table + 40 * index)
        .find(|header| image.get(*header..header + 8) == Some(&name))
        .with_context(|| format!("the UKI has no section {}", name.escape_ascii()))
}

/// Writes `cmdline` over the section `.cmdline` of a PE image, within the room that file alignment leaves.
fn set_cmdline(image: &mut [u8], cmdline: &str) -> Result<()> {
    let header = section_header(image, *b".cmdline")?;
    let (room, start) = (u32_at(image, header + 16)?, u32_at(image, header + 20)?);
    ensure!(
        cmdline.len() <= room,
        "the UKI has room for {room} bytes of command line, not {}",
        cmdline.len()
    );
    let section = image.get_mut(start..start + room).context("the UKI is cut off")?;
    section.fill(0);
    section[..cmdline.len()].copy_from_slice(cmdline.as_bytes());
    put_u32(image, header + 8, cmdline.len())
}

/// The kernel with one bit flipped in its version text, which nothing in the boot depends on.
pub fn flip_kernel(kernel: &Path, out: &Path) -> Result<()> {
    let mut image = fs::read(kernel).with_context(|| format!("read {}", kernel.display()))?;
    // x86 boot protocol: kernel_version at 0x20e, an offset from 0x200.
    let version = image.get(0x20e..0x210).context("the kernel is cut off")?;
    let at = 0x200 + usize::from(u16::from_le_bytes([version[0], version[1]]));
    ensure!(
        image.get(at).is_some_and(u8::is_ascii_digit),
        "no version text at {at:#x} of {}",
        kernel.display()
    );
    image[at] ^= 1;
    fs::write(out, image)?;
    Ok(())
}

/// The text in the file that [`marked_initrd`] adds.
const MARK: &[u8; 8] = b"original";

/// The initrd with a small archive before it (the kernel reads any number of them): in `flipped` one bit of
/// its only file's contents differs.
pub fn marked_initrd(initrd: &Path, out: &Path, flipped: bool) -> Result<()> {
    let mut mark = *MARK;
    if flipped {
        mark[0] ^= 1;
    }
    fs::write(out, initrd_with_mark(initrd, &mark)?)?;
    Ok(())
}

/// The initrd with a file `mark`, whose contents the guest prints.
pub fn initrd_with_mark(initrd: &Path, mark: &[u8]) -> Result<Vec<u8>> {
    let rest = fs::read(initrd).with_context(|| format!("read {}", initrd.display()))?;
    let mut archive = cpio_entry("mark", mark, 0o100_444);
    archive.extend(cpio_entry("TRAILER!!!", &[], 0));
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive.extend(rest);
    Ok(archive)
}

/// One entry of a `newc` archive (Documentation/driver-api/early-userspace/buffer-format.rst).
fn cpio_entry(name: &str, body: &[u8], mode: u32) -> Vec<u8> {
    let mut entry = b"070701".to_vec();
    // inode, mode, uid, gid, links, mtime, size, device numbers (4), length of the name with NUL, checksum
    let links = 1;
    let fields = [7, mode, 0, 0, links, 0, body.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    for field in fields {
        entry.extend(format!("{field:08x}").bytes());
    }
    entry.extend(name.bytes());
    entry.push(0);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry.extend(body);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}

/// An empty disk image of `mib` MiB.
pub fn blank(path: &Path, mib: u64) -> Result<PathBuf> {
    let file = fs::File::create_new(path).with_context(|| format!("make {}", path.display()))?;
    file.set_len(mib << 20)?;
    Ok(path.to_path_buf())
}

/// A disk image of `mib` MiB with `text` in its first sector.
pub fn labelled(path: &Path, mib: u64, text: &str) -> Result<PathBuf> {
    let mut file = fs::File::create_new(path).with_context(|| format!("make {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    file.set_len(mib << 20)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pe() -> Vec<u8> {
        let mut image = vec![0; 0x600];
        image[0x3c] = 0x80;
        image[0x86] = 2; // sections
        image[0x94] = 0x10; // optional header
        let table = 0x80 + 24 + 0x10;
        image[table..table + 8].copy_from_slice(b".osrel\0\0");
        let header = table + 40;
        image[header..header + 8].copy_from_slice(b".cmdline");
        image[header + 8] = 5;
        image[header + 17] = 2; // 512 bytes
        image[header + 21] = 4; // at 0x400
        image[0x400..0x405].copy_from_slice(b"quiet");
        image
    }

    #[test]
    fn replaces_the_command_line() {
        let mut image = pe();
        set_cmdline(&mut image, "console=hvc0").unwrap();
        assert_eq!(&image[0x400..0x40d], b"console=hvc0\0");
        assert_eq!(image[0x80 + 24 + 0x10 + 40 + 8], 12);
        set_cmdline(&mut image, "a").unwrap();
        assert_eq!(&image[0x400..0x402], b"a\0");
        assert!(set_cmdline(&mut image, &"x".repeat(513)).is_err());
        assert!(set_cmdline(&mut image[..0x500], "a").is_err(), "section outside the file");
        assert!(set_cmdline(&mut [0; 16], "a").is_err());
    }

    #[test]
    fn archives_differ_in_one_bit() {
        let dir = tempfile::tempdir().unwrap();
        let (initrd, a, b) = (dir.path().join("i"), dir.path().join("a"), dir.path().join("b"));
        fs::write(&initrd, b"rest").unwrap();
        marked_initrd(&initrd, &a, false).unwrap();
        marked_initrd(&initrd, &b, true).unwrap();
        let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
        assert_eq!(a.len(), b.len());
        let bits: u32 = a.iter().zip(&b).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(bits, 1);
        assert_eq!(a.len(), 512 + 4);
        assert!(a.starts_with(b"070701") && a.ends_with(b"rest"));
    }

    #[test]
    fn the_flipped_kernel_differs_in_one_bit_of_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, out) = (dir.path().join("k"), dir.path().join("o"));
        let mut image = vec![0; 0x400];
        image[0x20e] = 0x20;
        image[0x220..0x224].copy_from_slice(b"6.12");
        fs::write(&kernel, &image).unwrap();
        flip_kernel(&kernel, &out).unwrap();
        assert_eq!(&fs::read(&out).unwrap()[0x220..0x224], b"7.12");
        image[0x220] = 0;
        fs::write(&kernel, &image).unwrap();
        assert!(flip_kernel(&kernel, &out).is_err());
    }
}

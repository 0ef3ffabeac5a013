// SPDX-License-Identifier: Apache-2.0
//! Guests of a few instructions: a firmware image of 64 KiB that does what a list of [`Step`]s says, launched
//! within milliseconds. It also has what an SNP launch needs (SEV sections of three kinds), and shows its end
//! by a termination request.
#![expect(unsafe_code, reason = "the payload is between two symbols")]

use std::fs;

use anyhow::{Result, ensure};

use super::{Boot, Ctx, Disk, Spec, images};

// The interpreter of the steps, assembled into this program's read-only data.
std::arch::global_asm!(include_str!("payload.s"), options(att_syntax, raw));

unsafe extern "C" {
    static snp_payload_start: u8;
    static snp_payload_end: u8;
}

/// Size of the image; it ends at 4 GiB.
pub const SIZE: u64 = 64 << 10;
/// Where it begins.
pub const BASE: u64 = (1 << 32) - SIZE;
/// Where the interpreter begins.
const CODE: usize = 0xf000;
/// Where it finds the address of its first record.
const RECORDS: usize = 0xff00;
/// End of the GUID table, before the reset vector's last 32 bytes.
const TABLE_END: usize = 0xffe0;

/// End of RAM.
pub const RAM_END: u64 = 96 << 20;
/// RAM that is zeroed, measured and validated.
pub const RAM: u64 = 0x1000;
/// Its size.
pub const RAM_SIZE: u64 = 0x8000;
/// The CPUID page.
pub const CPUID: u64 = 0xa000;
/// Reason of a guest whose steps all went well.
pub const DONE: u32 = 0x42;

/// What the guest does next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Asks for a page to become private or shared, and demands that the answer is yes or no.
    Change {
        /// Page frame number.
        gfn: u64,
        /// Wanted.
        private: bool,
        /// Whether that must be granted.
        granted: bool,
    },
    /// Reads there.
    Touch(u32),
    /// Waits indefinitely.
    Hold,
    /// Makes [`secret`] of the seed at the address.
    Secret(u32, u32),
    /// Goes back to the step of this number.
    Again(u32),
    /// Terminates itself with a reason.
    End(u32),
}

impl Step {
    fn record(self) -> [u32; 4] {
        match self {
            Self::End(reason) => [0, reason, 0, 0],
            Self::Change { gfn, private, granted } => {
                // GHCB specification 2.3.1: code 0x14, GFN in bits 51:12, operation in 55:52 (1 private, 2
                // shared).
                let value = 0x14 | gfn << 12 & 0xf_ffff_ffff_f000 | if private { 1 } else { 2 } << 52;
                [1, value as u32, (value >> 32) as u32, u32::from(!granted)]
            }
            Self::Touch(address) => [2, address, 0, 0],
            Self::Hold => [3, 0, 0, 0],
            Self::Secret(seed, address) => [4, seed, address, 0],
            Self::Again(step) => [5, step, 0, 0],
        }
    }
}

/// The 32-bit words of a secret.
pub fn secret(seed: u32) -> impl Iterator<Item = u32> {
    let next = |word: &u32| Some(word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(seed), next).skip(1).take(16)
}

/// `NAME.fd` in the case's folder, a guest that takes `steps` and then ends with [`DONE`]; and the machine
/// for it.
pub fn spec(ctx: &Ctx, name: &str, steps: &[Step]) -> Result<Spec> {
    let path = ctx.own_path(&format!("{name}.fd"));
    fs::write(&path, image(steps)?)?;
    let disk = ctx.own_path("payload.img");
    if !disk.exists() {
        images::blank(&disk, 1)?;
    }
    // The profile that takes any firmware; the payload does not read the disk.
    let mut spec = Spec::disk(ctx, Disk { read_only: true, ..Disk::data(&disk) }).snp();
    spec.boot = Boot::Disk;
    spec.memory = "96MiB";
    spec.firmware = path;
    Ok(spec)
}

/// The image.
fn image(steps: &[Step]) -> Result<Vec<u8>> {
    let mut image = vec![0_u8; SIZE as usize];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    ensure!((steps.len() + 1) * 16 <= CODE - 0x100, "{} steps are too many", steps.len());
    for (index, step) in steps.iter().chain([&Step::End(DONE)]).enumerate() {
        for (word, value) in step.record().into_iter().enumerate() {
            put(index * 16 + word * 4, &value.to_le_bytes());
        }
    }
    // SEV metadata: signature, length, version, count; then address, length and kind of each section.
    let sections = [(RAM, RAM_SIZE, 1), (RAM + RAM_SIZE, 0x1000, 2), (CPUID, 0x1000, 3)];
    let mut metadata = b"ASEV".to_vec();
    for word in [16 + 12 * sections.len() as u32, 1, sections.len() as u32] {
        metadata.extend(word.to_le_bytes());
    }
    for (start, len, kind) in sections {
        metadata.extend([start as u32, len as u32, kind].iter().flat_map(|word| word.to_le_bytes()));
    }
    let metadata_at = CODE - 0x100;
    put(metadata_at, &metadata);
    put(CODE, interpreter());
    put(RECORDS, &(BASE as u32).to_le_bytes());
    // The GUID table, read from its end: footer with the length of all, the place of the metadata, and where
    // vCPUs after the first would start (none does).
    let guid = |data1: u32, data2: u16, data3: u16, data4: [u8; 8]| {
        let mut bytes = data1.to_le_bytes().to_vec();
        bytes.extend(data2.to_le_bytes());
        bytes.extend(data3.to_le_bytes());
        bytes.extend(data4);
        bytes
    };
    let metadata_guid = guid(0xdc88_6566, 0x984a, 0x4798, [0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc]);
    let reset_guid = guid(0x00f7_71de, 0x1a7e, 0x4fcb, [0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e]);
    let footer = guid(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);
    let mut table = Vec::new();
    for (value, guid) in
        [(BASE as u32 + CODE as u32, reset_guid), ((SIZE as usize - metadata_at) as u32, metadata_guid)]
    {
        table.extend(value.to_le_bytes());
        table.extend(22_u16.to_le_bytes());
        table.extend(guid);
    }
    let len = table.len() as u16 + 18;
    table.extend(len.to_le_bytes());
    table.extend(footer);
    put(TABLE_END - table.len(), &table);
    // The reset vector: a near jump, with its distance from the next instruction.
    let distance = (CODE as u16).wrapping_sub(0xfff3);
    put(0xfff0, &[0xe9, distance as u8, (distance >> 8) as u8]);
    Ok(image)
}

fn interpreter() -> &'static [u8] {
    let start = &raw const snp_payload_start;
    let end = &raw const snp_payload_end;
    // SAFETY: both symbols are in one read-only section, assembled above, with the interpreter between them.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_starts_and_ends_as_firmware_does() {
        let steps = [Step::Change { gfn: 0x12_3456_789a, private: false, granted: false }, Step::Hold];
        let image = image(&steps).unwrap();
        assert_eq!(image.len(), 0x1_0000);
        assert_eq!(image[0xfff0], 0xe9);
        let distance = u16::from_le_bytes([image[0xfff1], image[0xfff2]]);
        assert_eq!(usize::from(0xfff3_u16.wrapping_add(distance)), CODE);
        assert_eq!(&image[CODE..CODE + interpreter().len()], interpreter());
        assert!(interpreter().len() < RECORDS - CODE);
        // Request 0x14 for that page, shared, to be refused.
        assert_eq!(image[..8], [1, 0, 0, 0, 0x14, 0xa0, 0x89, 0x67]);
        assert_eq!(image[8..16], [0x45, 0x23, 0x21, 0, 1, 0, 0, 0]);
        assert_eq!(image[32..40], [0, 0, 0, 0, 0x42, 0, 0, 0]);
        assert!(super::image(&[Step::Hold; 4096]).is_err());
    }

    #[test]
    fn a_secret_is_of_its_seed() {
        let words: Vec<u32> = secret(0).collect();
        assert_eq!((words.len(), words[0], words[1]), (16, 1_013_904_223, 1_196_435_762));
        assert!(secret(1).zip(words).all(|(a, b)| a != b));
    }
}

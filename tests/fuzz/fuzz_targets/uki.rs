// SPDX-License-Identifier: Apache-2.0
//! Unified kernel images, made from a small valid one by changing fields of its headers, its sections and
//! their order. What is accepted is placed by a model of the firmware's loader: everything in bounds, nothing
//! overlaps, and the stub finds a kernel.
#![no_main]

use cvmm_fuzz::Input;
use cvmm_launch::blob::Blob;
use cvmm_launch::kernel::{Format, Kernel};
use cvmm_launch::samples;
use libfuzzer_sys::fuzz_target;

const PE: usize = 0x80;
const OPTIONAL: usize = PE + 24;
const TABLE: usize = OPTIONAL + 0x70;
const SECTION: usize = 40;
const NAMES: [&str; 12] = [
    ".linux", ".cmdline", ".initrd", ".osrel", ".profile", ".dtb", ".dtbauto", ".ucode", ".sbat", ".uname",
    ".pcrsig", ".vendor",
];

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 4)
        .map_or(0, |field| u64::from(u32::from_le_bytes([field[0], field[1], field[2], field[3]])))
}

/// An image with sections that the input chooses.
fn base(input: &mut Input<'_>) -> Vec<u8> {
    let kernel = samples::bzimage(2048);
    let count = usize::from(input.u8() % 7);
    let chosen: Vec<(&str, Vec<u8>)> = (0..count)
        .map(|_| {
            let name = NAMES[usize::from(input.u8()) % NAMES.len()];
            let content = match name {
                ".linux" => kernel.clone(),
                _ => {
                    let len = usize::from(input.u8());
                    input.bytes(len).to_vec()
                }
            };
            (name, content)
        })
        .collect();
    let mut sections: Vec<(&str, &[u8])> =
        chosen.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    sections.push((".linux", &kernel));
    samples::uki(&sections)
}

/// What the firmware and the stub do with an accepted image.
fn load(bytes: &[u8], loaded: u64) {
    let (entry, image, headers) =
        (u32_at(bytes, OPTIONAL + 16), u32_at(bytes, OPTIONAL + 56), u32_at(bytes, OPTIONAL + 60));
    assert_eq!(image, loaded);
    assert!(headers < image && headers <= bytes.len() as u64);
    let number = usize::from(u16::from_le_bytes([bytes[PE + 6], bytes[PE + 7]]));
    let optional = usize::from(u16::from_le_bytes([bytes[PE + 20], bytes[PE + 21]]));
    let mut placed = vec![(0, headers)];
    let (mut entered, mut kernel) = (false, false);
    for header in (0..number).map(|index| OPTIONAL + optional + SECTION * index) {
        let [size, address, raw, offset] = [8, 12, 16, 20].map(|field| u32_at(bytes, header + field));
        assert!((header + SECTION) as u64 <= headers, "a header that is not loaded");
        if raw != 0 {
            assert!(offset >= headers && offset + raw <= bytes.len() as u64, "content outside the file");
        }
        // BasePeCoffLib: no size in memory means that of the content.
        let size = if size == 0 { raw } else { size };
        if size == 0 {
            continue;
        }
        assert!(address + size <= image, "copied over other memory");
        entered |= (address..address + size).contains(&entry);
        kernel |= bytes[header..header + 8] == *b".linux\0\0" && raw != 0;
        placed.push((address, address + size));
    }
    placed.sort_unstable();
    for pair in placed.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:x?} overlap");
    }
    assert!(entered && kernel);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mut bytes = base(&mut input);
    let good = Kernel::recognise(Blob::from_bytes("good.efi", bytes.clone()));
    if let Ok(kernel) = &good {
        load(&bytes, kernel.image_size());
    }
    while input.more() {
        let (place, value) = (usize::from(input.u16()), input.u32());
        // Mostly header fields, sometimes any byte.
        let at = match place % 4 {
            0 => OPTIONAL + [16, 32, 36, 56, 60, 68][place / 4 % 6],
            1 | 2 => TABLE + SECTION * (place / 4 % 8) + [8, 12, 16, 20, 0][place / 64 % 5],
            _ => place / 4,
        };
        let Some(field) = bytes.get_mut(at..at + 4) else { continue };
        // Small changes stay near what is valid.
        let old = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
        let new = match value & 3 {
            0 => old.wrapping_add(value >> 2 & 0xfff),
            1 => old.wrapping_add((value >> 2 & 0xf) << 12),
            2 => old.wrapping_sub((value >> 2 & 0xff) << 4),
            _ => value,
        };
        field.copy_from_slice(&new.to_le_bytes());
    }
    match Kernel::recognise(Blob::from_bytes("fuzz.efi", bytes.clone())) {
        Ok(kernel) if kernel.format() == Format::Uki && bytes[0x3c..0x40] == [PE as u8, 0, 0, 0] => {
            load(&bytes, kernel.image_size());
        }
        Ok(_) => {}
        Err(error) => {
            assert!(error.to_string().starts_with("kernel fuzz.efi: ") && !error.problem.code().is_empty())
        }
    }
});

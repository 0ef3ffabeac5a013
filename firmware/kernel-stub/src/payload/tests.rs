// SPDX-License-Identifier: Apache-2.0
use proptest::prelude::*;
use std::vec::Vec;
use std::{format, vec};
use zerocopy::FromZeros;

use super::*;

fn header(image: u64) -> Header {
    let mut header = Header::new_zeroed();
    header.magic = MAGIC;
    header.version = U32::new(VERSION);
    header.image = U64::new(image);
    header.memory = U64::new(image + 0x1000);
    header.base = U64::new(16 << 20);
    header.alignment = U64::new(MIN_ALIGNMENT);
    header
}

fn section(mut header: Header, content: &[u8], compression: Compression) -> Vec<u8> {
    let stored = match compression {
        Compression::None => content.to_vec(),
        Compression::Lz4 => lz4_flex::block::compress(content),
    };
    header.compression = U32::new(u32::from(compression == Compression::Lz4));
    header.stored = U64::new(stored.len() as u64);
    [header.as_bytes(), &stored].concat()
}

#[test]
fn relocations_move_each_kind_of_field_by_the_shift() {
    let mut content = vec![0; 64];
    content[8..16].copy_from_slice(&0xffff_ffff_8100_0010_u64.to_le_bytes());
    content[20..24].copy_from_slice(&0x8200_0000_u32.to_le_bytes());
    content[30..34].copy_from_slice(&0x8300_0000_u32.to_le_bytes());
    for at in [8_u32, 20, 30] {
        content.extend(at.to_le_bytes());
    }
    let mut header = header(64);
    header.relocations = [U32::new(1); 3];
    for compression in [Compression::None, Compression::Lz4] {
        let section = section(header.clone(), &content, compression);
        let payload = Payload::parse(&section).unwrap();
        let mut memory = vec![0xaa; 0x1040];
        payload.unpack(&mut memory, 0x60_0000).unwrap();
        assert_eq!(memory[8..16], 0xffff_ffff_8160_0010_u64.to_le_bytes());
        assert_eq!(memory[20..24], 0x81a0_0000_u32.to_le_bytes());
        assert_eq!(memory[30..34], 0x8360_0000_u32.to_le_bytes());
        assert!(memory[64..].iter().all(|byte| *byte == 0), "the memory behind the image is not cleared");
        payload.unpack(&mut memory, 0).unwrap();
        assert_eq!(memory[..64], content[..64], "without a shift the image stays as it is");
    }
}

#[test]
fn a_relocation_outside_the_image_is_refused() {
    for at in [57_u32, 64, u32::MAX] {
        let mut content = vec![0; 64];
        content.extend(at.to_le_bytes());
        let mut header = header(64);
        header.relocations[0] = U32::new(1);
        let section = section(header, &content, Compression::None);
        let mut memory = vec![0; 0x1040];
        let defect = Payload::parse(&section).unwrap().unpack(&mut memory, MIN_ALIGNMENT).unwrap_err();
        assert_eq!(defect.field, "relocations");
    }
}

type Change = fn(&mut Header);

#[test]
fn each_field_out_of_range_is_refused_by_name() {
    let changes: [(&str, Change); 16] = [
        ("magic", |header| header.magic[0] = b'X'),
        ("version", |header| header.version = U32::new(2)),
        ("compression", |header| header.compression = U32::new(2)),
        ("flags", |header| header.flags = U32::new(2)),
        ("setup_len", |header| header.setup_len = U32::new(SETUP_MAX as u32 + 1)),
        ("image", |header| header.image = U64::ZERO),
        ("image", |header| header.image = U64::new(MEMORY_MAX + 1)),
        ("memory", |header| header.memory = U64::new(63)),
        ("memory", |header| header.memory = U64::new(u64::MAX)),
        ("alignment", |header| header.alignment = U64::new(0x1000)),
        ("alignment", |header| header.alignment = U64::new(3 << 20)),
        ("base", |header| header.base = U64::new(0x1000)),
        ("base", |header| header.base = U64::new(u64::MAX)),
        ("base", |header| header.base = U64::new(VIRTUAL_SIZE)),
        ("entry", |header| header.entry = U64::new(64)),
        ("relocations", |header| header.relocations[1] = U32::new(u32::MAX)),
    ];
    assert!(header(64).check().is_err(), "nothing is stored");
    for (field, change) in changes {
        let mut header = header(64);
        header.stored = U64::new(64);
        assert!(header.check().is_ok());
        change(&mut header);
        let defect = header.check().unwrap_err();
        assert_eq!(defect.field, field);
        let text = format!("{defect}");
        assert!(text.contains(field), "{text}");
    }
}

#[test]
fn a_cut_section_is_refused() {
    let whole = section(header(64), &[1; 64], Compression::Lz4);
    for len in [0, 8, HEADER_LEN - 1, HEADER_LEN, whole.len() - 1] {
        assert!(Payload::parse(&whole[..len]).is_err(), "{len}");
    }
    let mut memory = vec![0; 63];
    assert!(Payload::parse(&whole).unwrap().unpack(&mut memory, 0).is_err(), "too little memory");
}

proptest! {
    #[test]
    fn any_bytes_are_unpacked_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
        shift: u64,
    ) {
        let good = header(64);
        for (to, from) in bytes.iter_mut().zip(good.as_bytes()).skip(usize::from(shift as u8 & 1) * 24) {
            *to = *from;
        }
        if let Ok(payload) = Payload::parse(&bytes) {
            let mut memory = vec![0; payload.header().working_memory().min(1 << 20) as usize];
            let _ = payload.unpack(&mut memory, shift);
        }
    }
}

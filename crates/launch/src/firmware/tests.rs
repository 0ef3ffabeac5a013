// SPDX-License-Identifier: Apache-2.0
use proptest::prelude::*;

use super::*;
use crate::samples::firmware::{IGVM, Image, SECTIONS, metadata, pair};

fn parse(image: &Image) -> Result<Firmware, FirmwareProblem> {
    parse_bytes(image.bytes())
}

fn parse_bytes(bytes: Vec<u8>) -> Result<Firmware, FirmwareProblem> {
    Firmware::parse(Blob::from_bytes("test.fd", bytes)).map_err(|error| {
        assert!(error.to_string().starts_with("firmware test.fd: "), "{error}");
        error.problem
    })
}

fn with_sections(sections: &[(u32, u32, u32)]) -> Result<Firmware, FirmwareProblem> {
    parse(&Image { sections: Some(sections.to_vec()), ..Image::amdsev() })
}

fn with_igvm(records: &[(u32, u32, u32)]) -> Result<Firmware, FirmwareProblem> {
    parse(&Image { igvm: Some(records.to_vec()), ..Image::amdsev() })
}

fn with_entry(guid: Guid, data: Vec<u8>) -> Result<Firmware, FirmwareProblem> {
    let mut image = Image::amdsev();
    image.entries.retain(|(other, _)| *other != guid);
    image.entries.push((guid, data));
    parse(&image)
}

#[test]
fn a_build_without_metadata_is_accepted() {
    let firmware = parse(&Image::plain()).unwrap();
    assert_eq!(firmware.sections(), None);
    assert_eq!(firmware.igvm(), None);
    assert_eq!((firmware.ap_start(), firmware.kernel_hashes(), firmware.secret_area()), (None, None, None));
    let zero = with_entry(KERNEL_HASHES_GUID, pair(0, 0)).unwrap();
    assert_eq!(zero.kernel_hashes(), None);
}

#[test]
fn sizes_are_checked() {
    for size in [0, 1, 48, 4095, 4097, (16 << 20) + 4096] {
        assert!(matches!(parse_bytes(vec![0; size]), Err(FirmwareProblem::Size(s)) if s == size as u64));
    }
    let largest = Image { size: 16 << 20, ..Image::amdsev() };
    assert_eq!(parse(&largest).unwrap().gpa(), 0xff00_0000);
}

#[test]
fn a_truncated_image_has_no_table() {
    let bytes = Image::amdsev().bytes();
    assert!(matches!(
        parse_bytes(bytes[..4096].to_vec()),
        Err(FirmwareProblem::NoTable { offset: 0xfd0, .. })
    ));
    assert!(matches!(parse_bytes(vec![0; 4096]), Err(FirmwareProblem::NoTable { .. })));
}

#[test]
fn table_lengths_are_checked() {
    let good = Image::amdsev().bytes();
    let footer = good.len() - 32 - 18;
    let with_len = |at: usize, len: u16| {
        let mut bytes = good.clone();
        bytes[at..at + 2].copy_from_slice(&len.to_le_bytes());
        parse_bytes(bytes)
    };
    for len in [0, 17, 0xffff] {
        assert!(matches!(with_len(footer, len), Err(FirmwareProblem::TableLength { .. })), "{len}");
    }
    // 17 bytes before the footer: no room for a trailer.
    assert!(matches!(with_len(footer, 18 + 17), Err(FirmwareProblem::EntryLength { len: 17, .. })));
    // The first entry read, its length just before its GUID.
    for len in [0, 17, 0x7fff] {
        assert!(matches!(
            with_len(footer - 18, len),
            Err(FirmwareProblem::EntryLength { len: l, .. }) if l == u64::from(len)
        ));
    }
}

#[test]
fn a_guid_may_appear_once() {
    let mut image = Image::amdsev();
    let again = image.entries[0].clone();
    image.entries.push(again);
    assert!(matches!(parse(&image), Err(FirmwareProblem::DuplicateGuid(KERNEL_HASHES_GUID))));
    assert!(matches!(
        with_entry(table::FOOTER, vec![]),
        Err(FirmwareProblem::DuplicateGuid(guid)) if guid == table::FOOTER
    ));
}

#[test]
fn entry_data_are_checked() {
    assert!(matches!(
        with_entry(RESET_BLOCK_GUID, vec![0; 3]),
        Err(FirmwareProblem::EntryData { len: 3, expected: 4, .. })
    ));
    let firmware = 0xffff_e000;
    for (gpa, len) in [(0x1000, 0), (0x1001, 0x1000), (0, 0xffff_ffff), (firmware, 0x100), (u32::MAX, 1)] {
        let parsed = with_entry(KERNEL_HASHES_GUID, pair(gpa, len));
        assert!(matches!(parsed, Err(FirmwareProblem::Area { .. })), "{gpa:#x} {len:#x}");
    }
    assert!(with_entry(KERNEL_HASHES_GUID, pair(0x1fff, 1)).is_ok());
}

#[test]
fn metadata_headers_are_checked() {
    let at = |from_end: u32| with_entry(sev::GUID, from_end.to_le_bytes().to_vec());
    let mut image = Image::amdsev();
    image.sections = None;
    let mut parse_offset = |from_end: u32| {
        image.entries.retain(|(guid, _)| *guid != sev::GUID);
        image.entries.push((sev::GUID, from_end.to_le_bytes().to_vec()));
        parse(&image)
    };
    for from_end in [0, 15, 8193, u32::MAX] {
        assert!(matches!(parse_offset(from_end), Err(FirmwareProblem::MetadataOffset { what: "SEV", .. })));
    }
    assert!(matches!(
        parse_offset(16),
        Err(FirmwareProblem::MetadataSignature { found: [0xff, 0xff, 0xff, 0xff], .. })
    ));
    // A second entry for the metadata that are already there.
    assert!(matches!(at(16), Err(FirmwareProblem::DuplicateGuid(sev::GUID))));

    let patched = |offset: usize, value: u32| {
        let mut bytes = Image::amdsev().bytes();
        bytes[256 + offset..256 + offset + 4].copy_from_slice(&value.to_le_bytes());
        parse_bytes(bytes)
    };
    assert!(matches!(patched(8, 2), Err(FirmwareProblem::MetadataVersion { version: 2, .. })));
    for (len, count) in [(0, 7), (99, 7), (101, 7), (100, 6), (100, 8), (100, u32::MAX)] {
        let mut bytes = Image::amdsev().bytes();
        bytes[260..264].copy_from_slice(&u32::to_le_bytes(len));
        bytes[268..272].copy_from_slice(&u32::to_le_bytes(count));
        assert!(matches!(parse_bytes(bytes), Err(FirmwareProblem::MetadataLength { .. })), "{len} {count}");
    }
    // More sections than allowed, consistent otherwise; then a block that leaves the image.
    let mut many = Image::amdsev();
    many.sections = Some(vec![(0, 0, 1); 257]);
    assert!(matches!(parse(&many), Err(FirmwareProblem::MetadataLength { count: 257, .. })));
    many.sections = Some(vec![(0, 0, 1); 256]);
    assert_eq!(parse(&many).unwrap().sections().unwrap().len(), 256);
    let mut bytes = vec![0xff; 4096 - 32];
    bytes.extend_from_slice(&metadata(*b"ASEV", &SECTIONS)[..32]);
    let cut = metadata::read(&Blob::from_bytes("x", bytes), 32, *b"ASEV", "SEV");
    assert!(matches!(cut, Err(FirmwareProblem::MetadataLength { len: 100, count: 7, .. })));
}

#[test]
fn sections_are_checked() {
    for kind in [0, 5, 0xf, 0x11, u32::MAX] {
        let error = with_sections(&[(0x1000, 0x1000, 1), (0x2000, 0x1000, kind)]).unwrap_err();
        assert!(matches!(error, FirmwareProblem::SectionKind { index: 1, kind: k } if k == kind));
        assert!(error.to_string().contains(&format!("{kind:#x}")));
    }
    for (gpa, len) in [(0x1001, 0x1000), (0x1000, 0x1001), (0x1000, 1)] {
        let parsed = with_sections(&[(gpa, len, 1)]);
        assert!(matches!(parsed, Err(FirmwareProblem::SectionAlignment { index: 0, .. })));
    }
    for (gpa, len) in
        [(0xffff_d000, 0x2000), (0xffff_e000, 0x1000), (0xffff_f000, 0xffff_f000), (0, 0xffff_f000)]
    {
        let parsed = with_sections(&[(gpa, len, 1)]);
        assert!(matches!(parsed, Err(FirmwareProblem::SectionRange { .. })), "{gpa:#x} {len:#x}");
    }
    assert!(with_sections(&[(0xffff_d000, 0x1000, 1)]).is_ok());
    assert!(matches!(
        with_sections(&[(0x3000, 0x1000, 1), (0x1000, 0x3000, 1)]),
        Err(FirmwareProblem::SectionsOverlap { first: 0, second: 1, gpa: 0x3000, .. })
    ));
    assert!(matches!(
        with_sections(&[(0x1000, 0x1000, 3), (0x3000, 0x1000, 3)]),
        Err(FirmwareProblem::SectionNotOnePage { index: 1, kind: SectionKind::Cpuid, .. })
    ));
    for kind in [2, 3, 4, 0x10] {
        let parsed = with_sections(&[(0x1000, 0x2000, kind)]);
        assert!(matches!(parsed, Err(FirmwareProblem::SectionNotOnePage { len: 0x2000, .. })));
    }
}

#[test]
fn an_empty_section_claims_nothing() {
    let firmware = with_sections(&[
        (0x1000, 0x3000, 1),
        (0x2001, 0, 1),
        (u32::MAX, 0, 2),
        (0x8000, 0x1000, 2),
        (0, 0, 2),
    ]);
    assert_eq!(firmware.unwrap().sections().unwrap().len(), 5);
}

#[test]
fn igvm_records_are_checked() {
    let [params, map, count, hobs] = IGVM;
    let areas = |records: &[_]| with_igvm(records).unwrap().igvm().unwrap();
    assert_eq!(areas(&[]), IgvmAreas::default());
    assert_eq!(areas(&[params, hobs]).parameters, None);
    assert!(areas(&[params, map, count]).parameters.is_some());
    // Places for what cvmm does not provide.
    assert_eq!(areas(&[(0x55, 0x77, 0x103), hobs]).hobs, Some(HobArea { gpa: 0x81_3000, len: 0x1000 }));

    for records in [
        &[params, params, map, count][..],
        &[params, (0, 0x1001, 0x101), count],
        &[params, (u32::MAX, u32::MAX, 0x101), count],
        &[params, (0, 23, 0x101), count],
        &[params, map, (0xc0, 3, 0x102)],
        &[params, map, (0xbf, 4, 0x102)],
        &[params, map, (0xffd, 4, 0x102)],
    ] {
        assert!(matches!(with_igvm(records), Err(FirmwareProblem::Igvm { .. })), "{records:x?}");
    }
    assert!(matches!(
        with_igvm(&[params, (params.0, 0x1000, 0x200)]),
        Err(FirmwareProblem::SectionsOverlap { what: "IGVM", .. })
    ));
    assert!(matches!(
        with_igvm(&[(0x81_2001, 0x1000, 0x100)]),
        Err(FirmwareProblem::SectionAlignment { what: "IGVM", .. })
    ));
    assert!(matches!(
        with_igvm(&[(0xffff_e000, 0x1000, 0x200)]),
        Err(FirmwareProblem::SectionRange { what: "IGVM", .. })
    ));
}

proptest! {
    /// Any bytes give an answer, and an accepted image keeps its promises.
    #[test]
    fn mutated_images_never_break_the_parser(
        edits in prop::collection::vec((0usize..8192, any::<u8>()), 1..6),
        tail in prop::collection::vec((1usize..260, any::<u8>()), 0..4),
        block in prop::collection::vec((256usize..440, prop_oneof![Just(0u8), Just(0x10), Just(0xff), any::<u8>()]), 0..4),
    ) {
        let mut bytes = Image::amdsev().bytes();
        for (at, value) in edits.into_iter().chain(block) {
            bytes[at] = value;
        }
        for (from_end, value) in tail {
            bytes[8192 - from_end] = value;
        }
        if let Ok(firmware) = parse_bytes(bytes) {
            for section in firmware.sections().unwrap_or_default() {
                prop_assert!(section.len == 0 || section.gpa % 4096 == 0 && section.len % 4096 == 0);
                prop_assert!(section.len == 0 || section.gpa + section.len <= firmware.gpa());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_break_the_parser(
        mut bytes in prop::collection::vec(any::<u8>(), 4096),
        footer in any::<bool>(),
        len in 0u16..4096,
    ) {
        if footer {
            let at = 4096 - 32 - 18;
            bytes[at..at + 2].copy_from_slice(&len.to_le_bytes());
            bytes[at + 2..at + 18].copy_from_slice(&Image::plain().bytes()[at + 2..at + 18]);
        }
        let parsed = parse_bytes(bytes);
        prop_assert!(footer || parsed.is_err());
    }
}

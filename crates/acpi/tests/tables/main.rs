// SPDX-License-Identifier: Apache-2.0
//! The ACPI tables as firmware and guest see them. The tests play the firmware: they load the blobs into a
//! memory of their own, run the loader commands and follow the pointers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod checkers;

use std::collections::BTreeMap;

use cvmm_acpi::{AcpiBlobs, AcpiConfig, RSDP_FILE, TABLES_FILE, TpmRegion, VMGENID_FILE, build};
use cvmm_test_support::suite;

fn config(vcpus: u32, com1: bool) -> AcpiConfig {
    AcpiConfig {
        vcpus,
        mem32: 0x8000_0000..0xe000_0000,
        mem64: 0x10_0000_0000..0x20_0000_0000,
        com1,
        tpm: None,
        vm_generation_id: *b"0123456789abcdef",
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).expect("names end in NUL");
    assert!(bytes[end..].iter().all(|byte| *byte == 0), "padding is zero");
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// A sparse guest memory: blobs far apart, one of them above 4 GiB.
#[derive(Default)]
struct Memory {
    blobs: BTreeMap<u64, Vec<u8>>,
    by_name: BTreeMap<String, u64>,
    pointers: Vec<(String, u64)>,
}

impl Memory {
    fn load(blobs: &AcpiBlobs) -> Self {
        let mut memory = Self::default();
        assert_eq!(blobs.loader.len() % 128, 0);
        for command in blobs.loader.chunks_exact(128) {
            memory.run(command, blobs);
        }
        memory
    }

    fn run(&mut self, command: &[u8], files: &AcpiBlobs) {
        let name = text(&command[4..60]);
        match u32_at(command, 0) {
            1 => {
                let (align, zone) = (u32_at(command, 60), command[64]);
                assert!(align.is_power_of_two());
                assert!(command[65..].iter().all(|byte| *byte == 0));
                let (data, address) = match name.as_str() {
                    TABLES_FILE => (&files.tables, 0x7e00_0040),
                    RSDP_FILE => (&files.rsdp, 0xf_5a10),
                    VMGENID_FILE => (&files.vmgenid, 0x1_2345_6000),
                    other => panic!("allocates {other}"),
                };
                assert_eq!(zone, if name == RSDP_FILE { 2 } else { 1 });
                assert_eq!(address % u64::from(align), 0);
                assert!(self.by_name.insert(name, address).is_none(), "allocated once");
                self.blobs.insert(address, data.clone());
            }
            2 => {
                let target = text(&command[60..116]);
                let (offset, size) = (u32_at(command, 116) as usize, command[120]);
                assert_eq!(size, 8);
                let base = self.by_name[&target];
                let length = self.blobs[&base].len() as u64;
                let field = self.blobs.get_mut(&self.by_name[&name]).unwrap();
                let inner = u64_at(field, offset);
                assert!(inner < length, "points into its target");
                let value = base + inner;
                field[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
                self.pointers.push((target, value));
            }
            3 => {
                let (at, start, length) = (
                    u32_at(command, 60) as usize,
                    u32_at(command, 64) as usize,
                    u32_at(command, 68) as usize,
                );
                let blob = self.blobs.get_mut(&self.by_name[&name]).unwrap();
                assert_eq!(blob[at], 0, "the sum includes the checksum byte");
                assert!((start..start + length).contains(&at));
                let sum = blob[start..start + length].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                blob[at] = sum.wrapping_neg();
            }
            other => panic!("unknown command {other}"),
        }
    }

    fn at(&self, address: u64) -> &[u8] {
        let (base, blob) = self.blobs.range(..=address).next_back().unwrap();
        &blob[(address - base) as usize..]
    }

    /// All tables by signature, with their addresses, as an operating system finds them.
    fn all(&self) -> Vec<(String, u64, &[u8])> {
        let rsdp = self.by_name[RSDP_FILE];
        let xsdt = u64_at(self.at(rsdp), 24);
        let entries = self.table(xsdt, b"XSDT")[36..].chunks(8).map(|entry| u64_at(entry, 0));
        let mut addresses: Vec<u64> = std::iter::once(xsdt).chain(entries).collect();
        addresses.push(u64_at(self.at(addresses[1]), 140));
        let mut all = vec![("RSD PTR".to_owned(), rsdp, &self.at(rsdp)[..36])];
        for address in addresses {
            let signature: [u8; 4] = self.at(address)[..4].try_into().unwrap();
            let name = String::from_utf8_lossy(&signature).into_owned();
            all.push((name, address, self.table(address, &signature)));
        }
        all
    }

    fn table(&self, address: u64, signature: &[u8; 4]) -> &[u8] {
        let bytes = self.at(address);
        assert_eq!(&bytes[..4], signature);
        assert_eq!(address % 16, 0);
        let table = &bytes[..u32_at(bytes, 4) as usize];
        assert_eq!(sum(table), 0, "checksum of {}", String::from_utf8_lossy(signature));
        table
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The loaded tables in the order RSDP → XSDT → FADT → DSDT, and the MADT.
fn walk(memory: &Memory) -> (&[u8], &[u8], &[u8]) {
    let rsdp = memory.at(memory.by_name[RSDP_FILE]);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((rsdp[15], u32_at(rsdp, 20)), (2, 36));
    assert_eq!((sum(&rsdp[..20]), sum(&rsdp[..36])), (0, 0));
    let xsdt = memory.table(u64_at(rsdp, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 2 * 8);
    let fadt = memory.table(u64_at(xsdt, 36), b"FACP");
    let madt = memory.table(u64_at(xsdt, 44), b"APIC");
    let dsdt = memory.table(u64_at(fadt, 140), b"DSDT");
    (fadt, madt, dsdt)
}

fn the_loader_commands_connect_and_sum_up_every_table() {
    for (vcpus, com1) in [(1, false), (2, true), (64, true), (300, false)] {
        let memory = Memory::load(&build(&config(vcpus, com1)));
        walk(&memory);
        // OVMF tells tables from other data by looking where each pointer leads: all but the generation ID
        // are tables.
        for (target, address) in &memory.pointers {
            let bytes = memory.at(*address);
            let is_table = u32_at(bytes, 4) >= 36 && sum(&bytes[..u32_at(bytes, 4) as usize]) == 0;
            assert_eq!(is_table, target == TABLES_FILE, "{target}");
        }
        assert_eq!(memory.pointers.len(), 5);
    }
}

fn the_fadt_is_hardware_reduced() {
    let memory = Memory::load(&build(&config(1, true)));
    let (fadt, _, _) = walk(&memory);
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    assert_eq!(u32_at(fadt, 112), 1 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20);
    assert_eq!(fadt[109..111], [0x24, 0], "boot architecture");
    assert_eq!(fadt[116..129], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 6], "reset");
    assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x05, 0x06, 0, 0, 0, 0, 0, 0], "sleep control");
    assert_eq!(fadt[256..268], [1, 8, 0, 1, 0x01, 0x06, 0, 0, 0, 0, 0, 0], "sleep status");
    // Nothing of the fixed hardware: SCI to GPE1 and their extended blocks.
    assert!(fadt[46..90].iter().all(|byte| *byte == 0));
    assert!(fadt[148..244].iter().all(|byte| *byte == 0));
}

fn the_madt_lists_every_vcpu_once() {
    let memory = Memory::load(&build(&config(300, false)));
    let (_, madt, _) = walk(&memory);
    assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (0xfee0_0000, 0));
    let (mut at, mut ids, mut io_apics) = (44, Vec::new(), 0);
    while at < madt.len() {
        let entry = &madt[at..at + usize::from(madt[at + 1])];
        match entry[0] {
            0 => {
                assert_eq!((entry[2], u32_at(entry, 4)), (entry[3], 1));
                ids.push(u32::from(entry[3]));
            }
            9 => {
                assert_eq!((entry.len(), u32_at(entry, 4), u32_at(entry, 8)), (16, u32_at(entry, 12), 1));
                assert!(u32_at(entry, 4) > 254);
                ids.push(u32_at(entry, 4));
            }
            1 => {
                assert_eq!(entry, [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
                io_apics += 1;
            }
            other => panic!("entry of type {other}"),
        }
        at += entry.len();
    }
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
    assert_eq!(io_apics, 1);
}

fn the_generation_id_is_where_the_guest_looks() {
    let memory = Memory::load(&build(&config(1, true)));
    let (_, _, dsdt) = walk(&memory);
    let name = dsdt.windows(5).position(|window| window == b"\x08VGIA").unwrap();
    assert_eq!(dsdt[name + 5], 0x0e, "a 64-bit constant");
    let page = u64_at(dsdt, name + 6);
    assert_eq!(page, memory.by_name[VMGENID_FILE]);
    assert_eq!(page % 4096, 0);
    assert_eq!(&memory.at(page)[..40], [0; 40]);
    assert_eq!(&memory.at(page)[40..56], b"0123456789abcdef");
    assert_eq!(memory.at(page).len(), 4096);
}

/// A package length (ACPI 6.5, 20.2.4): the value and how many bytes it takes.
fn package_length(aml: &[u8]) -> (usize, usize) {
    let more = usize::from(aml[0] >> 6);
    if more == 0 {
        return (usize::from(aml[0] & 0x3f), 1);
    }
    let mut length = usize::from(aml[0] & 0x0f);
    for index in 0..more {
        length |= usize::from(aml[1 + index]) << (4 + 8 * index);
    }
    (length, 1 + more)
}

/// The length of a constant, string, buffer or package.
fn data_length(aml: &[u8]) -> usize {
    match aml[0] {
        0x00 | 0x01 | 0xff => 1,
        0x0a => 2,
        0x0b => 3,
        0x0c => 5,
        0x0e => 9,
        0x0d => 2 + aml[1..].iter().position(|byte| *byte == 0).unwrap(),
        0x11 | 0x12 => 1 + package_length(&aml[1..]).0,
        other => panic!("data object {other:#x}"),
    }
}

/// The names in a term list of scopes, devices, names and methods; panics unless every length adds up.
fn names(aml: &[u8], prefix: &str) -> Vec<String> {
    let (mut at, mut found) = (0, Vec::new());
    let full = |bytes: &[u8]| format!("{prefix}{}", std::str::from_utf8(&bytes[..4]).unwrap());
    while at < aml.len() {
        let (header, is_list) = match &aml[at..] {
            [0x08, ..] => {
                found.push(full(&aml[at + 1..]));
                at += 5 + data_length(&aml[at + 5..]);
                continue;
            }
            [0x10, ..] => (1, true),
            [0x5b, 0x82, ..] => (2, true),
            [0x14, ..] => (1, false),
            other => panic!("term {:02x?}", &other[..other.len().min(8)]),
        };
        let (length, bytes) = package_length(&aml[at + header..]);
        let (start, end) = (at + header + bytes, at + header + length);
        let name = full(&aml[start..]);
        if is_list {
            found.extend(names(&aml[start + 4..end], &format!("{name}.")));
        }
        found.push(name);
        at = end;
    }
    assert_eq!(at, aml.len());
    found
}

fn the_aml_is_well_formed_and_holds_the_devices() {
    for com1 in [false, true] {
        let memory = Memory::load(&build(&config(2, com1)));
        let (_, _, dsdt) = walk(&memory);
        let names = names(&dsdt[36..], "");
        for name in [
            "_SB_.C000._UID",
            "_SB_.C001._UID",
            "_SB_.PCI0._CRS",
            "_SB_.PCI0._OSC",
            "_SB_.PWRB._HID",
            "_SB_.GED0._EVT",
            "_SB_.VGEN.ADDR",
            "_SB_.VGEN.VGIA",
            "_S5_",
        ] {
            assert_eq!(names.iter().filter(|found| *found == name).count(), 1, "{name} in {names:?}");
        }
        assert_eq!(names.iter().any(|found| found == "_SB_.COM1._CRS"), com1);
    }
}

fn a_tpm_is_described_by_a_table_and_a_device() {
    let with = AcpiConfig {
        tpm: Some(TpmRegion { base: 0xfed4_0000, len: 0x2000, control_area: 0xfed4_0040 }),
        ..config(2, true)
    };
    let memory = Memory::load(&build(&with));
    let rsdp = memory.at(memory.by_name[RSDP_FILE]);
    let xsdt = memory.table(u64_at(rsdp, 24), b"XSDT");
    assert_eq!(xsdt.len(), 36 + 3 * 8);
    let tpm2 = memory.table(u64_at(xsdt, 52), b"TPM2");
    assert_eq!((tpm2.len(), tpm2[8]), (76, 4));
    assert_eq!((u32_at(tpm2, 36), u64_at(tpm2, 40), u32_at(tpm2, 48)), (0, 0xfed4_0040, 7));
    assert_eq!(tpm2[52..], [0; 24], "no parameters and no log area");
    let dsdt = memory.table(u64_at(memory.table(u64_at(xsdt, 36), b"FACP"), 140), b"DSDT");
    let found = names(&dsdt[36..], "");
    assert!(found.iter().any(|name| name == "_SB_.TPM_._CRS"), "{found:?}");
    // Fixed memory, 32 bit, length 9, read and write.
    let resource = [0x86, 9, 0, 1, 0, 0, 0xd4, 0xfe, 0, 0x20, 0, 0];
    assert_eq!(dsdt.windows(resource.len()).filter(|window| *window == resource).count(), 1);

    let without = build(&config(2, true)).tables;
    for text in [&b"TPM2"[..], b"MSFT0101"] {
        assert!(!without.windows(text.len()).any(|window| window == text));
    }
}

fn an_empty_window_is_left_out() {
    let mut small = config(1, false);
    small.mem64 = 0..0;
    let (with, without) = (build(&config(1, false)).tables, build(&small).tables);
    // QWord address space descriptor: tag, length 43.
    let windows = |tables: &[u8]| tables.windows(3).filter(|window| window == &[0x8a, 43, 0]).count();
    assert_eq!((windows(&with), windows(&without)), (1, 0));
}

fn every_processor_of_the_madt_has_a_device() {
    let memory = Memory::load(&build(&config(300, false)));
    let (_, _, dsdt) = walk(&memory);
    let mut uids = Vec::new();
    let hid = b"\x08_HID\x0dACPI0007\0\x08_UID";
    for at in (0..dsdt.len() - hid.len()).filter(|at| dsdt[*at..].starts_with(hid)) {
        let value = &dsdt[at + hid.len()..];
        uids.push(match value[0] {
            0x00 => 0,
            0x01 => 1,
            0x0a => u32::from(value[1]),
            0x0b => u32::from(u16::from_le_bytes([value[1], value[2]])),
            other => panic!("a _UID of kind {other:#x}"),
        });
    }
    assert_eq!(uids, (0..300).collect::<Vec<_>>());
}

suite!(
    the_loader_commands_connect_and_sum_up_every_table,
    the_fadt_is_hardware_reduced,
    the_madt_lists_every_vcpu_once,
    the_generation_id_is_where_the_guest_looks,
    the_aml_is_well_formed_and_holds_the_devices,
    a_tpm_is_described_by_a_table_and_a_device,
    an_empty_window_is_left_out,
    every_processor_of_the_madt_has_a_device,
    checkers::iasl_and_fwts_find_no_error,
    checkers::iasl_and_fwts_find_earlier_errors,
);

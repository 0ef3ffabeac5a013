// SPDX-License-Identifier: Apache-2.0
//! CPUID pages: what passes, what is corrected, and that the corrected table passes.

#![allow(clippy::unwrap_used)] // Helpers of tests.

use cvmm_psp::{Host as _, PAGE, PageState, Status};
use cvmm_test_support::psp::{Buffer, CPUID, Guest, POLICY, Rig};

/// A small processor: x87, SSE and AVX state.
fn processor(rig: &mut Rig) {
    for (inputs, outputs) in [
        ((1, 0), [0x00a0_0f11, 0, 0x1698_3203, 0x078b_fbff]),
        ((7, 0), [0, 0x219c_91a9, 0x0040_069c, 0]),
        ((0xD, 0), [7, 0x340, 0x340, 0]),
        ((0xD, 1), [0xF, 0x340, 0, 0]),
        ((0xD, 2), [0x100, 0x240, 0, 0]),
        ((0x8000_0001, 0), [0x00a0_0f11, 0, 0x75c2_37ff, 0x2fd3_fbff]),
        ((0x8000_0008, 0), [0x3030, 0x0000_1000, 0, 0]),
        ((0x8000_001F, 0), [0x43A, 0x4033, 509, 100]),
    ] {
        rig.machine.cpuid.insert(inputs, outputs);
    }
}

struct Entry {
    inputs: (u32, u32),
    xcr0: u64,
    xss: u64,
    outputs: [u32; 4],
}

fn entry(leaf: u32, subleaf: u32, outputs: [u32; 4]) -> Entry {
    Entry { inputs: (leaf, subleaf), xcr0: 0, xss: 0, outputs }
}

fn table(entries: &[Entry]) -> Vec<u8> {
    let mut table = Buffer::default().u32(entries.len() as u32).u32(0).u64(0);
    for Entry { inputs, xcr0, xss, outputs } in entries {
        table = table.u32(inputs.0).u32(inputs.1).u64(*xcr0).u64(*xss);
        for value in outputs {
            table = table.u32(*value);
        }
        table = table.u64(0);
    }
    let mut page = table.0;
    page.resize(PAGE as usize, 0);
    page
}

/// Outputs of an entry of a table.
fn outputs(page: &[u8], index: usize) -> [u32; 4] {
    [24, 28, 32, 36].map(|field| {
        let at = 16 + 48 * index + field;
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    })
}

fn rig(toml: &str) -> (Rig, Guest) {
    let mut rig = Rig::initialised(toml);
    processor(&mut rig);
    let guest = rig.launching(1, POLICY);
    (rig, guest)
}

/// Launch a table; on refusal the page as it is handed back.
fn launch(rig: &mut Rig, guest: Guest, page: &[u8]) -> Result<(), (Status, Vec<u8>)> {
    let spa = rig.machine.pre_guest(guest.asid, 0x80_E000, page);
    match rig.update(guest, spa, CPUID) {
        Status::SUCCESS => {
            assert_eq!(rig.machine.state(spa), PageState::GuestValid);
            assert_eq!(rig.machine.bytes::<{ PAGE as usize }>(spa), page);
            Ok(())
        }
        status => {
            assert_eq!(
                rig.machine.state(spa),
                PageState::PreGuest,
                "the kernel takes it back from this state"
            );
            Err((status, rig.machine.bytes::<{ PAGE as usize }>(spa).to_vec()))
        }
    }
}

#[test]
fn single_values() {
    let ones = u32::MAX;
    for (proposed, xcr0, xss, permitted) in [
        // Less than the processor has is fine.
        (entry(1, 0, [0x0080_0f12, 5, 0x1000_0001, 1]), 0, 0, [0x0080_0f12, 5, 0x1000_0001, 1]),
        // x2APIC, OSXSAVE and the hypervisor bit belong to the virtual machine.
        (entry(1, 0, [0, 0, 0x8820_0000, 0]), 0, 0, [0, 0, 0x8820_0000, 0]),
        // HTT and CmpLegacy: the emulated processor may be a single one, the virtual machine not.
        (entry(1, 0, [0, 0, 0, 1 << 28]), 0, 0, [0, 0, 0, 1 << 28]),
        (entry(0x8000_0001, 0, [0, 0, 1 << 1, 0]), 0, 0, [0, 0, 1 << 1, 0]),
        // TSC deadline (bit 24) does not: the reason why QEMU masks it.
        (entry(1, 0, [0, 0, 1 << 24, 1 << 30]), 0, 0, [0, 0, 0, 0]),
        (entry(7, 0, [1, ones, ones, 0xFC00_0000]), 0, 0, [1, 0x219c_91a9, 0x0040_069c, 0]),
        (entry(0xD, 0, [7, 0x240, 0x340, 0]), 1, 0, [7, 0x240, 0x340, 0]),
        (entry(0xD, 0, [7, 0x340, 0x340, 0]), 1, 0, [7, 0x240, 0x340, 0]),
        (entry(0xD, 0, [0xE7, 0x240, 0xA88, 0]), 7, 0, [7, 0x340, 0x340, 0]),
        (entry(0xD, 1, [0x1F, 0x240, 0x800, 0]), 7, 0x800, [0xF, 0x340, 0, 0]),
        (entry(0xD, 2, [0x100, 0x240, 0, 0]), 0, 0, [0x100, 0x240, 0, 0]),
        (entry(0xD, 2, [0x100, 0x280, 0, 0]), 0, 0, [0x100, 0x240, 0, 0]),
        (entry(0xD, 2, [0; 4]), 0, 0, [0; 4]),
        (entry(0xD, 9, [8, 0xA80, 0, 0]), 0, 0, [0; 4]),
        (entry(0x8000_0001, 0, [1, 2, ones, ones]), 0, 0, [1, 2, 0x75c2_37ff, 0x2fd3_fbff]),
        (entry(0x8000_0008, 0, [0x3928, 1 << 25, 0x100F, 0]), 0, 0, [0x3028, 0, 0x100F, 0]),
        (entry(0x8000_001F, 0, [0x1A, 0x73, 0, 0]), 0, 0, [0x1A, 0x73, 0, 0]),
        (entry(0x8000_001F, 0, [0x1B, 0x6F, 0, 0]), 0, 0, [0x1A, 0x73, 0, 0]),
        // Functions that are not checked pass with anything.
        (entry(0x4000_0000, 0, [ones; 4]), 0, 0, [ones; 4]),
        (entry(0x8000_001D, 3, [ones; 4]), 0, 0, [ones; 4]),
    ] {
        let (mut rig, guest) = rig("");
        let proposed = Entry { xcr0, xss, ..proposed };
        let page = table(&[proposed]);
        match launch(&mut rig, guest, &page) {
            Ok(()) => assert_eq!(outputs(&page, 0), permitted),
            Err((status, fixed)) => {
                assert_eq!(status, Status::INVALID_PARAM);
                assert_ne!(outputs(&page, 0), permitted, "nothing to correct");
                assert_eq!(
                    outputs(&fixed, 0).map(|v| format!("{v:#x}")),
                    permitted.map(|v| format!("{v:#x}"))
                );
                assert_eq!(launch(&mut rig, guest, &fixed), Ok(()));
            }
        }
    }
}

#[test]
fn a_refused_table_is_corrected_throughout_and_not_measured() {
    let (mut rig, guest) = rig("");
    let mut page = table(&[
        entry(0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        entry(1, 0, [0, 0, 1 << 24, 0]),
        entry(7, 0, [0, 1 << 1, 0, 0]),
    ]);
    page[4] = 1; // reserved
    page[16 + 40] = 9; // reserved
    let (status, fixed) = launch(&mut rig, guest, &page).unwrap_err();
    assert_eq!(status, Status::INVALID_PARAM);
    assert_eq!((fixed[4], fixed[16 + 40]), (0, 0));
    assert_eq!(outputs(&fixed, 0), outputs(&page, 0));
    assert_eq!((outputs(&fixed, 1)[2], outputs(&fixed, 2)[1]), (0, 0));
    assert_eq!(launch(&mut rig, guest, &fixed), Ok(()));
    assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
    let digest = rig.digest();
    // The content is not measured, and the refused attempt left no trace.
    let other = rig.launching(2, POLICY);
    assert_eq!(launch(&mut rig, other, &table(&[])), Ok(()));
    assert_eq!(rig.finish(other, None, 0, [0; 32]), Status::SUCCESS);
    assert_eq!(rig.digest(), digest);
}

#[test]
fn too_many_entries_are_refused_as_they_are() {
    let (mut rig, guest) = rig("");
    let mut page = table(&[]);
    page[0] = 65;
    assert_eq!(launch(&mut rig, guest, &page), Err((Status::INVALID_PARAM, page.clone())));
    page[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(launch(&mut rig, guest, &page), Err((Status::INVALID_PARAM, page.clone())));
}

#[test]
fn the_check_can_be_widened_and_switched_off() {
    let page = table(&[entry(7, 0, [0, 1 << 1, 0, 1 << 26])]);
    let (mut rig_, guest) = rig("[[cpuid_allow]]\nleaf = 7\nebx = 2\nedx = 0x04000000");
    assert_eq!(launch(&mut rig_, guest, &page), Ok(()));
    let (mut rig_, guest) = rig("[[cpuid_allow]]\nleaf = 7\nsubleaf = 1\nebx = 2\nedx = 0x04000000");
    assert!(launch(&mut rig_, guest, &page).is_err());
    let (mut rig_, guest) = rig("cpuid_check = 'off'");
    assert_eq!(launch(&mut rig_, guest, &page), Ok(()));
    assert!(rig_.machine.read(0, &mut [0; 8]).is_ok());
}

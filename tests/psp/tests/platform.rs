// SPDX-License-Identifier: Apache-2.0
//! The platform: status, reported and committed TCB, VLEK, ASIDs, debug rule, and faults by configuration.
#![allow(clippy::unwrap_used)] // Helpers of tests.

mod common;

use common::verify::World;
use cvmm_psp::{PageState, Pki, Product, Status, Tcb, command};
use cvmm_test_support::psp::{Buffer, POLICY, Rig};

/// The answer of SNP_PLATFORM_STATUS.
struct Info {
    state: u8,
    rmp_initialised: bool,
    bits: u32,
    guests: u32,
    current: Tcb,
    reported: Tcb,
}

fn status(rig: &mut Rig) -> Info {
    let page = rig.machine.firmware_page();
    assert_eq!(rig.run_address(command::SNP_PLATFORM_STATUS, page), Status::SUCCESS);
    let out: [u8; 32] = rig.machine.bytes(page);
    assert_eq!((out[0], out[1]), rig.psp.config().api);
    let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
    let tcb = |at: usize| Tcb::from_bytes(out[at..at + 8].try_into().unwrap(), Product::Milan).unwrap();
    assert_eq!(word(4), u32::from(rig.psp.config().build));
    Info {
        state: out[2],
        rmp_initialised: out[3] == 1,
        bits: word(8),
        guests: word(12),
        current: tcb(16),
        reported: tcb(24),
    }
}

/// MASK_CHIP_ID, MASK_CHIP_KEY, VLEK_EN.
fn low_bits(rig: &mut Rig) -> u32 {
    status(rig).bits & 7
}

fn bytes(tcb: Tcb) -> [u8; 8] {
    tcb.to_bytes(Product::Milan)
}

fn commit(rig: &mut Rig) -> Status {
    rig.run(command::SNP_COMMIT, &4_u32.to_le_bytes())
}

const OUTDATED: &str = "[tcb]\nsnp = 22\n[committed_tcb]\nsnp = 20\n[reported_tcb]\nsnp = 18";

#[test]
fn status_tells_what_the_platform_is() {
    let mut rig = Rig::new("");
    let before = status(&mut rig);
    assert_eq!((before.state, before.rmp_initialised, before.guests), (0, false, 0));
    assert_eq!(rig.init(), Status::SUCCESS);
    rig.launching(1, POLICY);
    rig.gctx();
    let after = status(&mut rig);
    assert_eq!((after.state, after.rmp_initialised, after.guests), (1, true, 2));
    assert_eq!((after.current, after.reported), (Product::Milan.default_tcb(), Product::Milan.default_tcb()));
    // The answer goes to a firmware page, within one page.
    let hypervisor = rig.machine.alloc();
    assert_eq!(rig.run_address(command::SNP_PLATFORM_STATUS, hypervisor), Status::INVALID_PAGE_STATE);
    let page = rig.machine.firmware_page();
    assert_eq!(rig.run_address(command::SNP_PLATFORM_STATUS, page + 0xFF0), Status::INVALID_ADDRESS);
}

#[test]
fn the_older_commands_work_beside_snp() {
    let mut rig = Rig::new("api = '1.58'\nbuild = 9");
    let legacy = |rig: &mut Rig, at| {
        let status = rig.psp.execute(&mut rig.machine, command::PLATFORM_STATUS, at);
        (status, rig.machine.bytes::<12>(at))
    };
    assert_eq!(legacy(&mut rig, 0x5000), (Status::SUCCESS, [1, 58, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0]));
    assert_eq!(rig.init(), Status::SUCCESS);
    assert_eq!(legacy(&mut rig, 0x5000).0, Status::INVALID_PAGE_STATE);
    // INIT with the region of SEV-ES: the kernel gives its pages to the firmware first.
    let tmr = 0x40_0000;
    let init = Buffer::default().u32(1).u32(0).u64(tmr).u32(0x20_0000);
    assert_eq!(rig.run(command::INIT, &init.0), Status::INVALID_PAGE_STATE);
    let entry = cvmm_psp::RmpEntry { large: true, ..cvmm_psp::RmpEntry::firmware() };
    assert!(rig.machine.rmpupdate(tmr, entry));
    assert_eq!(rig.run(command::INIT, &init.0), Status::SUCCESS);
    assert_eq!(rig.run(command::INIT, &init.0), Status::INVALID_PLATFORM_STATE);
    let page = rig.machine.firmware_page();
    assert_eq!(legacy(&mut rig, page), (Status::SUCCESS, [1, 58, 1, 0, 1, 0, 0, 9, 0, 0, 0, 0]));
    assert_eq!(rig.run(command::SHUTDOWN, &[]), Status::SUCCESS);
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, tmr | 1), Status::SUCCESS);
    assert_eq!(rig.machine.state(tmr + 0x1F_F000), PageState::Reclaim);
    assert_eq!(rig.run(command::SNP_SHUTDOWN_EX, &[8, 0, 0, 0, 0, 0, 0, 0]), Status::SUCCESS);
    assert_eq!(status(&mut rig).state, 0);
}

#[test]
fn a_list_of_endless_ranges_ends() {
    let mut rig = Rig::new("");
    let mut list = Buffer::default().u32(255).u32(0);
    for _ in 0..255 {
        list = list.u64(0).u32(u32::MAX).u32(0);
    }
    cvmm_psp::Host::write(&mut rig.machine, 0x8000, &list.0).unwrap();
    let buffer = Buffer::default().u32(3).u32(0).u64(0x8000).bytes(&[0; 48]);
    assert_eq!(rig.run(command::SNP_INIT_EX, &buffer.0), Status::RESOURCE_LIMIT);
    assert_eq!(rig.machine.state(0x10_0000), PageState::Hypervisor);
    assert_eq!(rig.init(), Status::SUCCESS);
}

#[test]
fn the_reported_tcb_is_never_newer_than_the_committed_one() {
    let mut rig = Rig::initialised(OUTDATED);
    let full = rig.psp.config().tcb;
    let with = |snp| Tcb { snp, ..full };
    let info = status(&mut rig);
    assert_eq!((info.current.snp, info.reported.snp), (22, 18));
    for (tcb, expected, reported) in [
        (bytes(with(19)), Status::SUCCESS, 19),
        (bytes(with(21)), Status::INVALID_PARAM, 19),
        (bytes(Tcb { microcode: 255, ..with(1) }), Status::INVALID_PARAM, 19),
        ([0, 0, 1, 0, 0, 0, 0, 0], Status::INVALID_PARAM, 19),
        (bytes(with(3)), Status::SUCCESS, 3),
        // Zero: the committed one.
        ([0; 8], Status::SUCCESS, 20),
    ] {
        assert_eq!(rig.set_config(tcb, 0), expected, "{tcb:?}");
        assert_eq!(status(&mut rig).reported.snp, reported);
    }
    assert_eq!(rig.set_config([0; 8], 4), Status::INVALID_PARAM);
    assert_eq!(rig.set_config([0; 8], 3), Status::SUCCESS);
    assert_eq!(low_bits(&mut rig), 3);
    // A refused configuration changes none of its parts.
    assert_eq!(rig.set_config(bytes(with(21)), 0), Status::INVALID_PARAM);
    assert_eq!(low_bits(&mut rig), 3);

    assert_eq!(rig.run(command::SNP_COMMIT, &8_u32.to_le_bytes()), Status::INVALID_LEN);
    assert_eq!(commit(&mut rig), Status::SUCCESS);
    assert_eq!(status(&mut rig).reported, full);
    assert_eq!(rig.set_config(bytes(with(21)), 0), Status::SUCCESS);
    // A reset forgets the configuration, not what is committed.
    rig.psp.reset();
    assert_eq!(rig.init(), Status::SUCCESS);
    let info = status(&mut rig);
    assert_eq!((info.reported.snp, info.bits & 7, info.guests), (18, 0, 0));
    assert_eq!(rig.set_config([0; 8], 0), Status::SUCCESS);
    assert_eq!(status(&mut rig).reported, full);
}

#[test]
fn reports_carry_the_four_tcbs() {
    let mut world = World::new(OUTDATED);
    let at = |report: &[u8]| [0x38, 0x180, 0x1E0, 0x1F0].map(|at| report[at + 6]);
    assert_eq!(at(&world.report([0; 64], 0).unwrap()), [22, 18, 20, 22]);
    assert_eq!(commit(&mut world.rig), Status::SUCCESS);
    assert_eq!(at(&world.report([0; 64], 0).unwrap()), [22, 22, 22, 22]);
}

#[test]
fn a_hashstick_is_for_one_chip_and_no_newer_tcb() {
    let mut world = World::new(OUTDATED);
    let stick = std::fs::read(world.folder.path().join("vlek-hashstick.bin")).unwrap();
    assert_eq!(low_bits(&mut world.rig), 0);
    for (at, expected) in
        [(0, Status::BAD_MEASUREMENT), (0x20, Status::BAD_MEASUREMENT), (0x196, Status::BAD_MEASUREMENT)]
    {
        let mut bad = stick.clone();
        bad[at] ^= 1;
        assert_eq!(world.rig.load_vlek(&bad), expected, "byte {at:#x}");
    }
    assert_eq!(low_bits(&mut world.rig), 0);
    let other = World::new("seed = 'another chip'");
    let foreign = std::fs::read(other.folder.path().join("vlek-hashstick.bin")).unwrap();
    assert_eq!(world.rig.load_vlek(&foreign), Status::BAD_MEASUREMENT);
    for (header, expected) in [((15, 0), Status::INVALID_LEN), ((16, 1), Status::INVALID_PARAM)] {
        let buffer = Buffer::default().u32(header.0).u32(header.1).u64(0x6000);
        assert_eq!(world.rig.run(command::SNP_VLEK_LOAD, &buffer.0), expected);
    }
    // One of an older TCB than the reported one would not yield its key.
    let pki = Pki::open(world.folder.path()).unwrap();
    let full = world.rig.psp.config().tcb;
    let old = pki.hashstick(world.rig.psp.chip(), Tcb { snp: 17, ..full }).unwrap();
    assert_eq!(world.rig.load_vlek(&old), Status::INVALID_PARAM);
    let stick = pki.hashstick(world.rig.psp.chip(), Tcb { snp: 20, ..full }).unwrap();
    assert_eq!(world.rig.load_vlek(&stick), Status::SUCCESS);
    assert_eq!(low_bits(&mut world.rig), 4);
    assert!(world.report([0; 64], 2).is_ok());
    // The committed TCB is still that of the stick, after COMMIT it is not.
    assert_eq!(world.rig.set_config([0; 8], 0), Status::SUCCESS);
    assert_eq!(low_bits(&mut world.rig), 4);
    assert_eq!(commit(&mut world.rig), Status::SUCCESS);
    assert_eq!(low_bits(&mut world.rig), 0);
    assert_eq!(world.report([0; 64], 2), Err(Status::INVALID_KEY));
}

#[test]
fn debuggable_guests_can_be_forbidden() {
    for (toml, expected) in [("", Status::SUCCESS), ("debug = 'forbid'", Status::POLICY_FAILURE)] {
        let mut rig = Rig::initialised(toml);
        let gctx = rig.gctx();
        assert_eq!(rig.start(gctx, POLICY | 1 << 19), expected);
        let gctx = rig.gctx();
        assert_eq!(rig.start(gctx, POLICY), Status::SUCCESS);
    }
}

#[test]
fn asids_run_out() {
    let mut rig = Rig::initialised("asids = 6\nsnp_asids = 4");
    let guests: Vec<_> = (1..=4).map(|asid| rig.launching(asid, POLICY)).collect();
    let gctx = rig.gctx();
    assert_eq!(rig.start(gctx, POLICY), Status::SUCCESS);
    for (asid, expected) in [
        (4, Status::ASID_OWNED),
        (5, Status::INVALID_ASID),
        (6, Status::INVALID_ASID),
        (u32::MAX, Status::INVALID_ASID),
    ] {
        assert_eq!(rig.activate(gctx, asid), expected);
    }
    // An ASID comes back with a flush, and only then.
    assert_eq!(rig.run_address(command::SNP_DECOMMISSION, guests[2].gctx), Status::SUCCESS);
    assert_eq!(rig.activate(gctx, 3), Status::DFFLUSH_REQUIRED);
    assert_eq!(rig.run(command::SNP_DF_FLUSH, &[]), Status::SUCCESS);
    assert_eq!(rig.activate(gctx, 3), Status::SUCCESS);
}

#[test]
fn a_fault_hits_the_chosen_call() {
    let toml = "[[fault]]\ncommand = 0x93\nstatus = 0x17\nnth = 2\n\
                [[fault]]\ncommand = 0xA0\nstatus = 0x7777\nrepeat = true\n\
                [[fault]]\ncommand = 0x90\ndelay_ms = 250";
    let mut rig = Rig::initialised(toml);
    let gctx = rig.gctx();
    let page = rig.machine.firmware_page();
    let before = rig.machine.entry(page);
    assert_eq!(rig.run_address(command::SNP_GCTX_CREATE, page), Status::RESOURCE_LIMIT);
    assert!(rig.psp.trace().contains("injected"), "{}", rig.psp.trace());
    assert_eq!(rig.machine.entry(page), before, "the command was not executed");
    assert_eq!(rig.run_address(command::SNP_GCTX_CREATE, page), Status::SUCCESS);
    for _ in 0..3 {
        // A status that no firmware has passes through.
        assert_eq!(rig.start(gctx, POLICY), Status(0x7777));
    }
    assert_eq!(rig.psp.delay_ms(), 0);
    assert_eq!(rig.run_address(command::SNP_DECOMMISSION, gctx), Status::SUCCESS);
    assert_eq!(rig.psp.delay_ms(), 250, "a delayed command is executed");
    assert_eq!(rig.run_address(command::SNP_DECOMMISSION, page), Status::SUCCESS);
    assert_eq!(rig.psp.delay_ms(), 0);
    // The counters survive a reset: a fault of the second call does not come back with it.
    rig.psp.reset();
    assert_eq!(rig.init(), Status::SUCCESS);
    rig.gctx();
    rig.gctx();
}

#[test]
fn a_slow_failure_is_both() {
    let mut rig = Rig::new("[[fault]]\ncommand = 0x85\nstatus = 0x26\ndelay_ms = 40");
    assert_eq!(rig.init(), Status::RMP_INITIALIZATION_FAILED);
    assert_eq!(rig.psp.delay_ms(), 40);
    assert_eq!(rig.init(), Status::SUCCESS);
    assert_eq!(rig.psp.delay_ms(), 0);
}

#[test]
fn features_follow_the_configuration() {
    for (toml, hiding) in [("", 0), ("ciphertext_hiding = true", 1)] {
        let mut rig = Rig::initialised(toml);
        let page = rig.machine.firmware_page();
        let buffer = Buffer::default().u32(16).u32(0).u64(page);
        assert_eq!(rig.run(command::SNP_FEATURE_INFO, &buffer.0), Status::SUCCESS);
        let out: [u8; 16] = rig.machine.bytes(page);
        assert_eq!(out[8] >> 3 & 1, hiding);
        // A policy that asks for more than the platform has is refused.
        let gctx = rig.gctx();
        for bit in [22, 23, 24] {
            assert_eq!(rig.start(gctx, POLICY | 1 << bit), Status::POLICY_FAILURE, "bit {bit}");
        }
        assert_eq!(rig.start(gctx, POLICY | 1 << 63), Status::POLICY_FAILURE);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The launch of a guest: states, page states, policy, ID block; each refusal with its status, and with
//! nothing changed by it.

#![allow(clippy::unwrap_used)] // Helpers of tests.

mod common;

use common::identity::p384_recovery::recover;
use common::identity::{id_auth, id_block, number, pair};
use common::qemu;
use cvmm_psp::{Host as _, LARGE_PAGE, PAGE, PERM_ALL, PageState, RmpEntry, Status, command};
use cvmm_test_support::psp::{
    Buffer, CPUID, Guest, Kind, MEMORY, NORMAL, POLICY, Rig, SECRETS, UNMEASURED, VMSA, ZERO, pre_guest,
};

#[test]
fn initialisation_fixes_ranges_and_happens_once() {
    let mut rig = Rig::new("");
    rig.machine.snp = false;
    assert_eq!(rig.init(), Status::INVALID_CONFIG);
    rig.machine.snp = true;
    // Two ranges; the second reaches far beyond what the RMP covers.
    let list =
        Buffer::default().u32(2).u32(0).u64(0x10_0000).u32(4).u32(0).u64(MEMORY - PAGE).u32(0x40_0000).u32(0);
    rig.machine.write(0x8000, &list.0).unwrap();
    let buffer = |flags| Buffer::default().u32(flags).u32(0).u64(0x8000).bytes(&[0; 48]).0;
    assert_eq!(rig.run(command::SNP_INIT_EX, &buffer(0x100)), Status::INVALID_PARAM);
    assert_eq!(rig.run(command::SNP_INIT_EX, &buffer(0)), Status::RMP_INIT_REQUIRED);
    assert_eq!(rig.run(command::SNP_INIT_EX, &buffer(9)), Status::UNSUPPORTED);
    assert_eq!(rig.machine.state(0x10_0000), PageState::Hypervisor);
    assert_eq!(rig.run(command::SNP_INIT_EX, &buffer(3)), Status::SUCCESS);
    assert!(rig.psp.trace().contains("5 pages fixed"), "{}", rig.psp.trace());
    assert_eq!(rig.machine.state(0x10_3000), PageState::HvFixed);
    assert_eq!(rig.machine.state(0x10_4000), PageState::Hypervisor);
    assert_eq!(rig.init(), Status::INVALID_PLATFORM_STATE);
    // An HV-fixed page never becomes anything else.
    assert!(!rig.machine.rmpupdate(0x10_3000, pre_guest(1, 0)));
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, 0x10_3000), Status::INVALID_PAGE_STATE);
}

#[test]
fn guest_commands_need_an_initialised_platform() {
    let mut rig = Rig::new("");
    for id in [
        command::SNP_GCTX_CREATE,
        command::SNP_LAUNCH_START,
        command::SNP_ACTIVATE,
        command::SNP_LAUNCH_UPDATE,
        command::SNP_LAUNCH_FINISH,
        command::SNP_GUEST_REQUEST,
        command::SNP_GUEST_STATUS,
        command::SNP_DECOMMISSION,
        command::SNP_PAGE_RECLAIM,
        command::SNP_SHUTDOWN_EX,
        command::SNP_CONFIG,
        command::SNP_VLEK_LOAD,
        command::SNP_DBG_DECRYPT,
        command::SNP_DF_FLUSH,
    ] {
        assert_eq!(rig.run(id, &[0; 64]), Status::INVALID_PLATFORM_STATE, "{id:#x}");
    }
    assert_eq!(rig.run(0x7F0, &[]), Status::INVALID_COMMAND);
    assert_eq!(rig.run(command::SNP_DOWNLOAD_FIRMWARE_EX, &[]), Status::UNSUPPORTED);
    let status = rig.psp.execute(&mut rig.machine, command::SNP_GCTX_CREATE, u64::MAX - 3);
    assert_eq!(status, Status::INVALID_PLATFORM_STATE);
    assert_eq!(rig.init(), Status::SUCCESS);
    for address in [u64::MAX - 3, MEMORY - 4, MEMORY] {
        let status = rig.psp.execute(&mut rig.machine, command::SNP_GCTX_CREATE, address);
        assert_eq!(status, Status::INVALID_ADDRESS);
    }
}

#[test]
fn contexts_are_made_of_firmware_pages_only() {
    let mut rig = Rig::initialised("");
    let hypervisor = rig.machine.alloc();
    assert_eq!(rig.run_address(command::SNP_GCTX_CREATE, hypervisor), Status::INVALID_PAGE_STATE);
    assert_eq!(rig.run_address(command::SNP_GCTX_CREATE, hypervisor + 8), Status::INVALID_ADDRESS);
    let gctx = rig.gctx();
    assert_eq!(rig.machine.state(gctx), PageState::Context);
    assert_eq!(rig.run_address(command::SNP_GCTX_CREATE, gctx), Status::INVALID_PAGE_STATE);
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, gctx), Status::INVALID_PAGE_STATE);
    assert_eq!(rig.start(hypervisor, POLICY), Status::INVALID_GUEST);
    assert_eq!(rig.run_address(command::SNP_DECOMMISSION, gctx), Status::SUCCESS);
    assert_eq!(rig.machine.state(gctx), PageState::Firmware);
    assert_eq!(rig.run_address(command::SNP_DECOMMISSION, gctx), Status::INVALID_GUEST);
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, gctx), Status::SUCCESS);
    assert_eq!(rig.machine.state(gctx), PageState::Reclaim);
    assert!(rig.machine.rmpupdate(gctx, RmpEntry::default()));
}

#[test]
fn start_and_activate_in_order() {
    let mut rig = Rig::initialised("snp_asids = 2");
    let gctx = rig.gctx();
    assert_eq!(rig.activate(gctx, 1), Status::INVALID_GUEST_STATE);
    assert_eq!(rig.start(gctx, 0x1_0000), Status::POLICY_FAILURE);
    assert_eq!(rig.start(gctx, POLICY | 0x1FF), Status::POLICY_FAILURE);
    let imi_without_agent = Buffer::default().u64(gctx).u64(POLICY).u64(0).u32(2).u32(0).bytes(&[0; 16]);
    assert_eq!(rig.run(command::SNP_LAUNCH_START, &imi_without_agent.0), Status::INVALID_PARAM);
    assert_eq!(rig.start(gctx, POLICY), Status::SUCCESS);
    assert_eq!(rig.start(gctx, POLICY), Status::INVALID_GUEST_STATE);
    let page = rig.machine.pre_guest(1, 0, &[]);
    let guest = Guest { gctx, asid: 1 };
    assert_eq!(rig.update(guest, page, NORMAL), Status::INACTIVE);
    assert_eq!(rig.activate(gctx, 0), Status::INVALID_ASID);
    assert_eq!(rig.activate(gctx, 3), Status::INVALID_ASID);
    assert_eq!(rig.activate(gctx, 1), Status::SUCCESS);
    assert_eq!(rig.activate(gctx, 2), Status::ACTIVE);
    assert!(rig.machine.keys.contains_key(&1));
    let other = rig.gctx();
    assert_eq!(rig.start(other, POLICY), Status::SUCCESS);
    assert_eq!(rig.activate(other, 1), Status::ASID_OWNED);
    assert_eq!(rig.activate(other, 2), Status::SUCCESS);
    assert_ne!(rig.machine.keys[&1], rig.machine.keys[&2]);

    let status = rig.machine.firmware_page();
    assert_eq!(
        rig.run(command::SNP_GUEST_STATUS, &Buffer::default().u64(gctx).u64(status).0),
        Status::SUCCESS
    );
    let bytes: [u8; 16] = rig.machine.bytes(status);
    assert_eq!(bytes, [0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    let hypervisor = rig.machine.alloc();
    let buffer = Buffer::default().u64(gctx).u64(hypervisor);
    assert_eq!(rig.run(command::SNP_GUEST_STATUS, &buffer.0), Status::INVALID_PAGE_STATE);
}

#[test]
fn a_used_asid_needs_a_flush_and_a_shutdown_too() {
    let mut rig = Rig::initialised("wbinvd_check = true");
    let guest = rig.launching(1, POLICY);
    assert_eq!(rig.run(command::SNP_SHUTDOWN_EX, &[8, 0, 0, 0, 1, 0, 0, 0]), Status::ACTIVE);
    assert_eq!(rig.run_address(command::SNP_DECOMMISSION, guest.gctx), Status::SUCCESS);
    assert!(rig.machine.keys.is_empty());
    let next = rig.gctx();
    assert_eq!(rig.start(next, POLICY), Status::SUCCESS);
    assert_eq!(rig.activate(next, 1), Status::DFFLUSH_REQUIRED);
    assert_eq!(rig.run(command::SNP_DF_FLUSH, &[]), Status::WBINVD_REQUIRED);
    rig.psp.wbinvd_done();
    assert_eq!(rig.run(command::SNP_DF_FLUSH, &[]), Status::SUCCESS);
    assert_eq!(rig.activate(next, 1), Status::SUCCESS);
    assert_eq!(rig.run_address(command::SNP_DECOMMISSION, next), Status::SUCCESS);
    assert_eq!(rig.run(command::SNP_SHUTDOWN_EX, &[4, 0, 0, 0, 0, 0, 0, 0]), Status::INVALID_LEN);
    assert_eq!(rig.run(command::SNP_SHUTDOWN_EX, &[8, 0, 0, 0, 1, 0, 0, 0]), Status::DFFLUSH_REQUIRED);
    rig.psp.wbinvd_done();
    assert_eq!(rig.run(command::SNP_DF_FLUSH, &[]), Status::SUCCESS);
    assert_eq!(rig.run(command::SNP_SHUTDOWN_EX, &[8, 0, 0, 0, 1, 0, 0, 0]), Status::SUCCESS);
    assert_eq!(rig.init(), Status::SUCCESS);
}

#[test]
fn pages_are_checked_before_they_are_launched() {
    let mut rig = Rig::initialised("");
    let guest = rig.launching(1, POLICY);
    let content = [0x5A; PAGE as usize];
    let good = pre_guest(1, 0x1000);
    for (entry, kind, expected) in [
        (RmpEntry::default(), NORMAL, Status::INVALID_PAGE_STATE),
        (RmpEntry::firmware(), NORMAL, Status::INVALID_PAGE_STATE),
        (RmpEntry { immutable: false, ..good }, NORMAL, Status::INVALID_PAGE_STATE),
        (RmpEntry { asid: 2, ..good }, NORMAL, Status::INVALID_PAGE_OWNER),
        (good, Kind { bits: NORMAL.bits | 1, ..NORMAL }, Status::INVALID_ADDRESS),
        (good, Kind { bits: 0, ..NORMAL }, Status::INVALID_PARAM),
        (good, Kind { bits: 7 << 1, ..NORMAL }, Status::INVALID_PARAM),
        (good, Kind { bits: NORMAL.bits | 0x10, ..NORMAL }, Status::INVALID_PARAM),
        (good, Kind { bits: NORMAL.bits | 0x20, ..NORMAL }, Status::INVALID_PARAM),
        (good, Kind { perms: [0, 0x10, 0], ..NORMAL }, Status::INVALID_PARAM),
        (good, VMSA, Status::INVALID_PARAM),
    ] {
        let page = rig.machine.alloc();
        rig.machine.write(page, &content).unwrap();
        assert!(rig.machine.rmpupdate(page, entry));
        let before = rig.machine.entry(page);
        assert_eq!(rig.update(guest, page, kind), expected, "{entry:?} {:#x}", kind.bits);
        assert_eq!(rig.machine.entry(page), before);
        assert_eq!(rig.machine.bytes(page), content);
    }
    // Refusals left the digest alone: a fresh guest with the one good page has the same.
    let page = rig.launch_page(guest, 0x1000, &content, NORMAL);
    let entry = rig.machine.entry(page);
    assert_eq!((entry.state(), entry.perms), (PageState::GuestValid, [PERM_ALL, 0, 0, 0]));
    assert_eq!(rig.update(guest, page, NORMAL), Status::INVALID_PAGE_STATE);
    assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
    let digest = rig.digest();
    let again = rig.launching(3, POLICY);
    rig.launch_page(again, 0x1000, &content, NORMAL);
    assert_eq!(rig.finish(again, None, 0, [0; 32]), Status::SUCCESS);
    assert_eq!((rig.digest(), digest.len()), (digest, 96));
    let late = rig.machine.pre_guest(1, 0x2000, &content);
    assert_eq!(rig.update(guest, late, NORMAL), Status::INVALID_GUEST_STATE);
    assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::INVALID_GUEST_STATE);
}

#[test]
fn page_types_do_what_they_say() {
    let mut rig = Rig::initialised("");
    rig.machine.cpuid.insert((1, 0), [0x00a0_0f11, 0, 0, 0]);
    let guest = rig.launching(1, POLICY);
    let content = [0x5A; PAGE as usize];
    let zero = rig.launch_page(guest, 0x1000, &content, ZERO);
    assert_eq!(rig.machine.bytes(zero), [0; PAGE as usize]);
    let kept = rig.launch_page(guest, 0x2000, &content, Kind { perms: [1, 2, 3], ..UNMEASURED });
    assert_eq!(rig.machine.bytes(kept), content);
    assert_eq!(rig.machine.entry(kept).perms, [PERM_ALL, 1, 2, 3]);
    let vmsa = rig.launch_page(guest, 0xFFFF_FFFF_F000, &qemu::vmsa(0xFFFF_FFF0, 0, 1), VMSA);
    assert!(rig.machine.entry(vmsa).vmsa);
    let secrets = rig.launch_page(guest, 0x3000, &content, SECRETS);
    let page: [u8; PAGE as usize] = rig.machine.bytes(secrets);
    assert_eq!(page[..16], [3, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x0f, 0xa0, 0, 0, 0, 0, 0]);
    assert_eq!(page[0x10..0x20], [0x60; 16]);
    let keys: Vec<&[u8]> = page[0x20..0xA0].chunks(32).collect();
    assert!(keys.iter().all(|key| key.iter().any(|&byte| byte != 0)));
    assert!((0..4).all(|a| (0..a).all(|b| keys[a] != keys[b])), "four different keys");
    assert!(page[0xA0..].iter().all(|&byte| byte == 0));
    // An empty table is a valid one.
    rig.launch_page(guest, 0x4000, &[], CPUID);
}

#[test]
fn a_large_page_counts_as_its_small_ones() {
    let mut rig = Rig::initialised("");
    let content: Vec<u8> = (0..LARGE_PAGE).map(|at| (at / PAGE) as u8).collect();
    let guest = rig.launching(1, POLICY);
    let spa = 0x80_0000;
    rig.machine.write(spa, &content).unwrap();
    let entry = RmpEntry { large: true, ..pre_guest(1, LARGE_PAGE) };
    assert!(rig.machine.rmpupdate(spa, entry));
    assert_eq!(rig.update(guest, spa, NORMAL), Status::INVALID_PAGE_SIZE);
    assert_eq!(rig.update(guest, spa, Kind { bits: NORMAL.bits | 1, ..NORMAL }), Status::SUCCESS);
    assert_eq!(rig.machine.entry(spa + 5 * PAGE).state(), PageState::GuestValid);
    assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
    let large = rig.digest();
    let guest = rig.launching(2, POLICY);
    for page in 0..LARGE_PAGE / PAGE {
        let at = (page * PAGE) as usize;
        rig.launch_page(guest, LARGE_PAGE + page * PAGE, &content[at..at + PAGE as usize], NORMAL);
    }
    assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
    assert_eq!(rig.digest(), large);
}

#[test]
fn smashed_pages_can_be_joined_again() {
    let mut rig = Rig::initialised("");
    let spa = 0x80_0000;
    for page in 0..LARGE_PAGE / PAGE {
        let at = page * PAGE;
        assert!(
            rig.machine.rmpupdate(spa + at, RmpEntry { immutable: false, ..pre_guest(1, LARGE_PAGE + at) })
        );
    }
    assert_eq!(rig.run_address(command::SNP_PAGE_UNSMASH, spa), Status::INVALID_PARAM);
    assert_eq!(rig.run_address(command::SNP_PAGE_UNSMASH, (spa + PAGE) | 1), Status::INVALID_ADDRESS);
    let odd = RmpEntry { validated: true, ..rig.machine.entry(spa + 7 * PAGE) };
    let even = rig.machine.entry(spa + 7 * PAGE);
    rig.machine.rmp_write(spa + 7 * PAGE, &odd).unwrap();
    assert_eq!(rig.run_address(command::SNP_PAGE_UNSMASH, spa | 1), Status::INVALID_PAGE_STATE);
    rig.machine.rmp_write(spa + 7 * PAGE, &even).unwrap();
    assert_eq!(rig.run_address(command::SNP_PAGE_UNSMASH, spa | 1), Status::SUCCESS);
    assert!(rig.machine.entry(spa + 511 * PAGE).large);
    assert_eq!(rig.machine.entry(spa + 511 * PAGE).gpa, LARGE_PAGE + 511 * PAGE);
}

#[test]
fn reclaim_takes_back_what_is_not_a_guests() {
    let mut rig = Rig::initialised("");
    let guest = rig.launching(1, POLICY);
    let pending = rig.machine.pre_guest(1, 0x1000, &[]);
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, pending | 1), Status::INVALID_ADDRESS);
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, pending), Status::SUCCESS);
    assert_eq!(rig.machine.state(pending), PageState::Reclaim);
    let launched = rig.launch_page(guest, 0x1000, &[], NORMAL);
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, launched), Status::INVALID_PAGE_STATE);
    let spa = 0x80_0000;
    assert!(rig.machine.rmpupdate(spa, RmpEntry { large: true, ..RmpEntry::firmware() }));
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, spa), Status::INVALID_PAGE_SIZE);
    assert_eq!(rig.run_address(command::SNP_PAGE_RECLAIM, spa | 1), Status::SUCCESS);
    assert_eq!(rig.machine.state(spa + 9 * PAGE), PageState::Reclaim);
}

#[test]
fn only_a_debuggable_guest_can_be_read() {
    let mut rig = Rig::initialised("");
    let secret = [0x77; PAGE as usize];
    for (asid, policy, expected) in [(1, POLICY, Status::POLICY_FAILURE), (2, 0xB_0000, Status::SUCCESS)] {
        let guest = rig.launching(asid, policy);
        let page = rig.launch_page(guest, 0x1000, &secret, NORMAL);
        let out = rig.machine.firmware_page();
        let buffer = Buffer::default().u64(guest.gctx).u64(page).u64(out);
        assert_eq!(rig.run(command::SNP_DBG_DECRYPT, &buffer.0), expected);
        assert_eq!(rig.machine.bytes(out) == secret, expected == Status::SUCCESS);
        let hypervisor = rig.machine.alloc();
        let buffer = Buffer::default().u64(guest.gctx).u64(page).u64(hypervisor);
        if expected == Status::SUCCESS {
            assert_eq!(rig.run(command::SNP_DBG_DECRYPT, &buffer.0), Status::INVALID_PAGE_STATE);
            let foreign = rig.machine.pre_guest(5, 0x1000, &secret);
            let buffer = Buffer::default().u64(guest.gctx).u64(foreign).u64(out);
            assert_eq!(rig.run(command::SNP_DBG_DECRYPT, &buffer.0), Status::INVALID_PAGE_OWNER);
            rig.machine.write(hypervisor, &[0x11; PAGE as usize]).unwrap();
            let buffer = Buffer::default().u64(guest.gctx).u64(hypervisor).u64(page);
            assert_eq!(rig.run(command::SNP_DBG_ENCRYPT, &buffer.0), Status::SUCCESS);
            assert_eq!(rig.machine.bytes(page), [0x11; PAGE as usize]);
        }
    }
}

/// Digest of a guest with one page.
fn expected_digest() -> String {
    let mut rig = Rig::initialised("");
    let guest = rig.launching(1, POLICY);
    rig.launch_page(guest, 0x1000, &[1; 4096], NORMAL);
    assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
    rig.digest()
}

#[test]
fn the_id_block_decides_who_may_start() {
    let (id, author) = (pair(), pair());
    let digest = expected_digest();
    let block = id_block(&digest, POLICY);
    let auth = id_auth(&block, &id, &author);
    let wrong = |at: usize, bytes: &[u8]| {
        let mut auth = bytes.to_vec();
        auth[at] ^= 1;
        auth
    };
    let other_digest = id_block(&digest.replace('a', "b"), POLICY);
    let other_policy = id_block(&digest, POLICY | 1);
    let unsigned_version = wrong(80, &block);
    for (block, auth, flags, expected) in [
        (&block, auth.clone(), 1, Status::SUCCESS),
        (&block, auth.clone(), 3, Status::SUCCESS),
        // An author's signature is only looked at when the author key is enabled.
        (&block, wrong(1664, &auth), 1, Status::SUCCESS),
        (&block, wrong(1664, &auth), 3, Status::BAD_SIGNATURE),
        (&block, wrong(2176 + 4, &auth), 3, Status::BAD_SIGNATURE),
        (&block, wrong(64, &auth), 1, Status::BAD_SIGNATURE),
        (&block, wrong(576 + 4, &auth), 1, Status::BAD_SIGNATURE),
        (&block, wrong(576, &auth), 1, Status::BAD_SIGNATURE),
        (&block, wrong(576 + 200, &auth), 1, Status::BAD_SIGNATURE),
        (&block, wrong(64 + 200, &auth), 1, Status::BAD_SIGNATURE),
        (&other_policy, auth.clone(), 1, Status::BAD_SIGNATURE),
        (&other_digest, id_auth(&other_digest, &id, &author), 1, Status::BAD_MEASUREMENT),
        (&other_policy, id_auth(&other_policy, &id, &author), 1, Status::POLICY_FAILURE),
        (&unsigned_version, id_auth(&unsigned_version, &id, &author), 1, Status::INVALID_PARAM),
        (&block, wrong(0, &auth), 1, Status::INVALID_PARAM),
        (&block, wrong(4, &auth), 3, Status::INVALID_PARAM),
        (&block, auth.clone(), 2, Status::INVALID_PARAM),
        (&block, auth.clone(), 9, Status::INVALID_PARAM),
    ] {
        let mut rig = Rig::initialised("");
        let guest = rig.launching(1, POLICY);
        rig.launch_page(guest, 0x1000, &[1; 4096], NORMAL);
        assert_eq!(rig.finish(guest, Some((block, &auth)), flags, [0; 32]), expected, "flags {flags}");
        if expected != Status::SUCCESS {
            // The guest stays in launch; without an ID block it could still start.
            assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
        }
    }
}

/// "Keyless" ID blocks: the signature is a constant and the key is recovered so that it fits; no private key
/// exists.
#[test]
fn an_id_key_by_recovery_is_as_good_as_any() {
    let block = id_block(&expected_digest(), POLICY);
    let (key, r, s) = recover(&block);
    let mut auth = Buffer::default().u32(1).u32(0).bytes(&[0; 56]).0;
    auth.extend(number(&r));
    auth.extend(number(&s));
    auth.resize(576, 0);
    auth.extend(2_u32.to_le_bytes());
    auth.extend(number(&key[1..49]));
    auth.extend(number(&key[49..]));
    auth.resize(4096, 0);
    let mut rig = Rig::initialised("");
    let guest = rig.launching(1, POLICY);
    rig.launch_page(guest, 0x1000, &[1; 4096], NORMAL);
    assert_eq!(rig.finish(guest, Some((&block, &auth)), 1, [0; 32]), Status::SUCCESS);
    // The same key and signature fit no other block.
    let mut other = block.clone();
    other[60] ^= 1;
    let guest = rig.launching(2, POLICY);
    rig.launch_page(guest, 0x1000, &[1; 4096], NORMAL);
    assert_eq!(rig.finish(guest, Some((&other, &auth)), 1, [0; 32]), Status::BAD_SIGNATURE);
}

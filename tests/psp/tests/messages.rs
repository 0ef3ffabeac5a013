// SPDX-License-Identifier: Apache-2.0
//! Guest messages: the envelope (keys, sequence numbers, tampering, replay) and the content of the answers.

#![allow(clippy::unwrap_used)] // Helpers of tests.

mod common;

use common::qemu;
use cvmm_psp::{PAGE, Status, command};
use cvmm_test_support::psp::{Buffer, Guest, Message, POLICY, Rig, VMSA};

fn running(toml: &str) -> (Rig, Guest, [[u8; 32]; 4]) {
    let mut rig = Rig::initialised(toml);
    let (guest, keys) = rig.running(1, POLICY);
    (rig, guest, keys)
}

fn word(payload: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(payload[at..at + 4].try_into().unwrap())
}

#[test]
fn a_report_answers_a_request() {
    let (mut rig, guest, keys) = running("");
    let answer = rig.ask(guest, &keys[0], &Message::report(1, [0xAB; 64], 2, 0)).unwrap();
    assert_eq!((answer.kind, answer.sequence, answer.version, answer.vmpck), (6, 2, 1, 0));
    assert_eq!((word(&answer.payload, 0), word(&answer.payload, 4), answer.payload.len()), (0, 1184, 1216));
    let report = &answer.payload[32..];
    assert_eq!((word(report, 0), word(report, 0x30), word(report, 0x34)), (3, 2, 1));
    assert_eq!(report[0x50..0x90], [0xAB; 64]);
    assert_eq!(report[0xC0..0xE0], [0xD0; 32]);
    assert_eq!(report[0x160..0x180], [0xFF; 32]);
    assert_eq!(report[0x188..0x18C], [0x19, 1, 1, 0]);
    assert_eq!(report[0x1A0..0x1E0], rig.psp.chip().id()[..]);
    assert_eq!(report[0x1E8..0x1F0], [21, 55, 1, 0, 21, 55, 1, 0]);
    assert!(rig.ask(guest, &keys[0], &Message::report(3, [0; 64], 0, 0)).is_ok());
}

#[test]
fn replayed_reordered_and_skipped_messages_are_refused() {
    let (mut rig, guest, keys) = running("");
    let first = Message::report(1, [1; 64], 0, 0).seal(&keys[0]);
    assert!(rig.send(guest, &first).is_ok());
    assert_eq!(rig.send(guest, &first), Err(Status::AEAD_OFLOW));
    for sequence in [0, 1, 2, 4, u64::MAX] {
        let message = Message::report(sequence, [0; 64], 0, 0).seal(&keys[0]);
        assert_eq!(rig.send(guest, &message), Err(Status::AEAD_OFLOW), "sequence {sequence}");
    }
    // Each key counts for itself.
    let other = Message { vmpck: 1, ..Message::report(1, [0; 64], 1, 0) };
    assert!(rig.ask(guest, &keys[1], &other).is_ok());
    assert!(rig.ask(guest, &keys[0], &Message::report(3, [0; 64], 0, 0)).is_ok());
}

#[test]
fn every_byte_counts() {
    let (mut rig, guest, keys) = running("");
    let good = Message::report(1, [1; 64], 0, 0).seal(&keys[0]);
    let response = rig.machine.firmware_page();
    for at in (0..0x60).chain(0x60..0xC0) {
        let mut page = good;
        page[at] ^= 0x40;
        rig.machine.rmpupdate(response, cvmm_psp::RmpEntry::firmware());
        let request = 0x5000;
        cvmm_psp::Host::write(&mut rig.machine, request, &page).unwrap();
        let buffer = Buffer::default().u64(guest.gctx).u64(request).u64(response);
        let status = rig.run(command::SNP_GUEST_REQUEST, &buffer.0);
        let expected: &[Status] = match at {
            0..0x10 => &[Status::BAD_MEASUREMENT],
            0x20..0x28 => &[Status::AEAD_OFLOW],
            // Reserved, and not authenticated.
            0x10..0x30 => &[Status::INVALID_PARAM],
            0x30..0x60 => &[Status::INVALID_PARAM, Status::BAD_MEASUREMENT],
            _ => &[Status::BAD_MEASUREMENT],
        };
        assert!(expected.contains(&status), "byte {at:#x}: {status}");
    }
    assert!(rig.send(guest, &good).is_ok(), "no refusal moved the sequence number");
    // The key of another VMPL does not open it.
    let foreign = Message { vmpck: 1, ..Message::report(1, [0; 64], 1, 0) }.seal(&keys[0]);
    assert_eq!(rig.send(guest, &foreign), Err(Status::BAD_MEASUREMENT));
}

#[test]
fn unknown_messages_and_wrong_pages_are_refused() {
    let (mut rig, guest, keys) = running("");
    for (kind, version) in [(0, 1), (4, 1), (6, 1), (7, 1), (9, 1), (255, 1), (5, 2), (3, 3), (17, 0)] {
        let message = Message { kind, version, ..Message::report(1, [0; 64], 0, 0) }.seal(&keys[0]);
        assert_eq!(rig.send(guest, &message), Err(Status::INVALID_PARAM), "{kind} {version}");
    }
    let hypervisor = rig.machine.alloc();
    let buffer = Buffer::default().u64(guest.gctx).u64(0x5000).u64(hypervisor);
    assert_eq!(rig.run(command::SNP_GUEST_REQUEST, &buffer.0), Status::INVALID_PAGE_STATE);
    let buffer = Buffer::default().u64(guest.gctx).u64(0x5008).u64(hypervisor);
    assert_eq!(rig.run(command::SNP_GUEST_REQUEST, &buffer.0), Status::INVALID_PAGE_STATE);
    let launching = rig.launching(2, POLICY);
    let buffer = Buffer::default().u64(launching.gctx).u64(0x5000).u64(hypervisor);
    assert_eq!(rig.run(command::SNP_GUEST_REQUEST, &buffer.0), Status::INVALID_GUEST_STATE);
}

#[test]
fn refusals_inside_a_message_are_answers() {
    let (mut rig, guest, keys) = running("");
    let mut sequence = 1;
    for (vmpl, key_sel, status) in [
        (4, 0, Status::INVALID_PARAM),
        (u32::MAX, 0, Status::INVALID_PARAM),
        (0, 3, Status::INVALID_PARAM),
        (0, 2, Status::INVALID_KEY),
        (3, 1, Status::SUCCESS),
    ] {
        let answer = rig.ask(guest, &keys[0], &Message::report(sequence, [0; 64], vmpl, key_sel)).unwrap();
        assert_eq!(word(&answer.payload, 0), status.0, "vmpl {vmpl:#x} key {key_sel}");
        sequence += 2;
    }
    // A less privileged level cannot speak for a more privileged one.
    let message = Message { vmpck: 2, ..Message::report(1, [0; 64], 1, 0) };
    let answer = rig.ask(guest, &keys[2], &message).unwrap();
    assert_eq!(word(&answer.payload, 0), Status::INVALID_PARAM.0);
    assert!(answer.payload[4..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_guest_without_vcek_gets_no_vcek_report() {
    let mut rig = Rig::initialised("");
    let guest = rig.launching(1, POLICY);
    let keys = rig.launch_secrets(guest);
    assert_eq!(rig.finish(guest, None, 4, [0; 32]), Status::SUCCESS);
    let answer = rig.ask(guest, &keys[0], &Message::report(1, [0; 64], 0, 0)).unwrap();
    assert_eq!(word(&answer.payload, 0), Status::INVALID_KEY.0);
}

struct KeyReq {
    selection: u32,
    fields: u64,
    vmpl: u32,
    svn: u32,
    tcb: u64,
    mitigations: Option<u64>,
}

const KEY: KeyReq = KeyReq { selection: 2, fields: 0, vmpl: 0, svn: 0, tcb: 0, mitigations: None };

fn derive(
    rig: &mut Rig,
    guest: Guest,
    key: &[u8; 32],
    sequence: &mut u64,
    request: &KeyReq,
) -> Result<Vec<u8>, u32> {
    let mut payload = Buffer::default()
        .u32(request.selection)
        .u32(0)
        .u64(request.fields)
        .u32(request.vmpl)
        .u32(request.svn);
    payload = payload.u64(request.tcb);
    let version = if request.mitigations.is_some() { 2 } else { 1 };
    if let Some(mitigations) = request.mitigations {
        payload = payload.u64(mitigations);
    }
    let message = Message { sequence: *sequence, kind: 3, version, vmpck: 0, payload: payload.0 };
    *sequence += 2;
    let answer = rig.ask(guest, key, &message).unwrap();
    assert_eq!((answer.kind, answer.payload.len()), (4, 64));
    match word(&answer.payload, 0) {
        0 => Ok(answer.payload[32..].to_vec()),
        status => Err(status),
    }
}

#[test]
fn derived_keys_follow_the_selected_inputs_only() {
    let toml = "seed = 'one chip'\nmitigations = 5";
    let (mut rig, guest, keys) = running(toml);
    let tcb = u64::from_le_bytes(rig.psp.config().tcb.to_bytes(rig.psp.config().product));
    let mut sequence = 1;
    let mut ask = |request: &KeyReq| derive(&mut rig, guest, &keys[0], &mut sequence, request);
    let base = ask(&KEY).unwrap();
    assert_eq!(ask(&KEY).unwrap(), base);
    let all: Vec<Vec<u8>> = [
        KeyReq { fields: 1, ..KEY },
        KeyReq { fields: 8, ..KEY },
        KeyReq { fields: 0x20, ..KEY },
        KeyReq { fields: 0x20, tcb, ..KEY },
        KeyReq { vmpl: 1, ..KEY },
        KeyReq { selection: 1, ..KEY },
        KeyReq { fields: 0x40, mitigations: Some(0), ..KEY },
        KeyReq { fields: 0x40, mitigations: Some(4), ..KEY },
    ]
    .iter()
    .map(|request| ask(request).unwrap())
    .chain([base.clone()])
    .collect();
    assert!((0..all.len()).all(|a| (0..a).all(|b| all[a] != all[b])), "all differ");
    // What is not selected does not enter.
    assert_eq!(ask(&KeyReq { tcb, ..KEY }).unwrap(), base);
    for bad in [
        KeyReq { selection: 8, ..KEY },
        KeyReq { selection: 6, ..KEY },
        KeyReq { fields: 0x40, ..KEY },
        KeyReq { fields: 0x80, mitigations: Some(0), ..KEY },
        KeyReq { vmpl: 4, ..KEY },
        KeyReq { svn: 1, ..KEY },
        KeyReq { tcb: tcb + 1, ..KEY },
        KeyReq { tcb: 1 << 24, ..KEY },
        KeyReq { mitigations: Some(2), ..KEY },
    ] {
        assert_eq!(ask(&bad), Err(Status::INVALID_PARAM.0));
    }
    assert_eq!(ask(&KeyReq { selection: 4, ..KEY }), Err(Status::INVALID_KEY.0));

    // The same guest on the same chip, started again: VCEK-rooted keys are the same, VMRK-rooted ones are
    // not.
    let (other, other_keys) = rig.running(2, POLICY);
    let mut sequence = 1;
    let mut ask = |request: &KeyReq| derive(&mut rig, other, &other_keys[0], &mut sequence, request);
    assert_eq!(ask(&KEY).unwrap(), base);
    assert_eq!(ask(&KeyReq { fields: 9, ..KEY }).unwrap().len(), 32);
    assert_ne!(ask(&KeyReq { selection: 1, ..KEY }).unwrap(), all[5]);
    // Another chip gives other keys.
    let (mut rig, guest, keys) = running("seed = 'another chip'");
    assert_ne!(derive(&mut rig, guest, &keys[0], &mut 1, &KEY).unwrap(), base);
}

#[test]
fn the_secure_tsc_is_told_to_guests_that_have_it() {
    let ask = |features: u64| {
        let mut rig = Rig::initialised("tsc_khz = 2000000");
        let gctx = rig.gctx();
        let start = Buffer::default().u64(gctx).u64(POLICY).u64(0).u32(0).u32(1_000_000).bytes(&[0; 16]);
        assert_eq!(rig.run(command::SNP_LAUNCH_START, &start.0), Status::SUCCESS);
        assert_eq!(rig.activate(gctx, 1), Status::SUCCESS);
        let guest = Guest { gctx, asid: 1 };
        let keys = rig.launch_secrets(guest);
        let mut vmsa = qemu::vmsa(0xFFFF_FFF0, 0, features);
        vmsa[0x2F0..0x300].fill(0xEE);
        let spa = rig.launch_page(guest, 0xFFFF_FFFF_F000, &vmsa, VMSA);
        assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
        let message = Message { sequence: 1, kind: 17, version: 1, vmpck: 0, payload: vec![0; 128] };
        let answer = rig.ask(guest, &keys[0], &message).unwrap();
        assert_eq!((answer.kind, answer.payload.len()), (18, 128));
        let scale: [u8; 16] = rig.machine.bytes(spa + 0x2F0);
        (word(&answer.payload, 0), answer.payload[8..16].to_vec(), scale)
    };
    let half = (1_u64 << 31).to_le_bytes();
    let (status, scale, in_vmsa) = ask(0x201);
    assert_eq!((status, &scale[..], &in_vmsa[..8], &in_vmsa[8..]), (0, &half[..], &half[..], &[0; 8][..]));
    let (status, scale, in_vmsa) = ask(1);
    assert_eq!((status, scale, in_vmsa), (Status::INVALID_PARAM.0, vec![0; 8], [0xEE; 16]));
}

#[test]
fn the_hosts_report_is_not_a_guests_report() {
    let (mut rig, guest, _) = running("");
    let page = rig.machine.firmware_page();
    let ask = |len, key, at| Buffer::default().u32(len).u32(key).u64(guest.gctx).u64(at).0;
    assert_eq!(rig.run(command::SNP_HV_REPORT_REQ, &ask(20, 0, page)), Status::INVALID_LEN);
    assert_eq!(rig.run(command::SNP_HV_REPORT_REQ, &ask(24, 3, page)), Status::INVALID_PARAM);
    assert_eq!(rig.run(command::SNP_HV_REPORT_REQ, &ask(24, 2, page)), Status::INVALID_KEY);
    assert_eq!(rig.run(command::SNP_HV_REPORT_REQ, &ask(24, 0, page + PAGE - 8)), Status::INVALID_ADDRESS);
    let hypervisor = rig.machine.alloc();
    assert_eq!(rig.run(command::SNP_HV_REPORT_REQ, &ask(24, 0, hypervisor)), Status::INVALID_PAGE_STATE);
    assert_eq!(rig.run(command::SNP_HV_REPORT_REQ, &ask(24, 0, page)), Status::SUCCESS);
    let answer: [u8; 1216] = rig.machine.bytes(page);
    assert_eq!((word(&answer, 0), word(&answer, 4)), (0, 1184));
    assert_eq!(word(&answer, 32 + 0x30), u32::MAX);
    assert_eq!(answer[32 + 0x50..32 + 0x90], [0; 64]);
    assert_eq!(answer[32 + 0xC0..32 + 0xE0], [0xD0; 32]);
}

#[test]
fn masking_hides_chip_and_signature() {
    let (mut rig, guest, keys) = running("");
    let mut sequence = 1;
    for (flags, chip_hidden, unsigned) in
        [(0, false, false), (1, true, false), (2, false, true), (3, true, true)]
    {
        let config = Buffer::default().u64(0).u32(flags).bytes(&[0; 52]);
        assert_eq!(rig.run(command::SNP_CONFIG, &config.0), Status::SUCCESS);
        let answer = rig.ask(guest, &keys[0], &Message::report(sequence, [0; 64], 0, 0)).unwrap();
        sequence += 2;
        let report = &answer.payload[32..];
        assert_eq!(report[0x1A0..0x1E0].iter().all(|&byte| byte == 0), chip_hidden);
        assert_eq!(report[0x2A0..0x330].iter().all(|&byte| byte == 0), unsigned);
        assert_eq!(report[0x48], if unsigned { 0x1E } else { 0 });
    }
}

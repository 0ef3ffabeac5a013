// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::constants::alg;

/// Header for these algorithms.
fn start(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut spec = SPEC_ID.to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend((algorithms.len() as u32).to_le_bytes());
    for (id, size) in algorithms {
        spec.extend([id.to_le_bytes(), size.to_le_bytes()].concat());
    }
    spec.push(0);
    [&[0; 4][..], &NO_ACTION.to_le_bytes(), &[0; 20], &(spec.len() as u32).to_le_bytes(), &spec].concat()
}

fn add(log: &mut Vec<u8>, pcr: u32, kind: u32, digests: &[(u16, &[u8])], data: &[u8]) {
    log.extend([pcr, kind, digests.len() as u32].map(u32::to_le_bytes).concat());
    for (id, digest) in digests {
        log.extend(id.to_le_bytes());
        log.extend(*digest);
    }
    log.extend((data.len() as u32).to_le_bytes());
    log.extend(data);
}

fn small() -> Vec<u8> {
    let mut log = start(&[(alg::SHA256, 32)]);
    for (pcr, kind, fill) in [(0, NO_ACTION, 9), (4, 8, 1), (4, 8, 2)] {
        add(&mut log, pcr, kind, &[(alg::SHA256, &[fill; 32])], b"abc");
    }
    log
}

#[test]
fn extends_in_order_and_nothing_for_no_action() {
    let log = EventLog::parse(&small()).unwrap();
    let pcrs = log.replay(HashAlg::Sha256).unwrap();
    let once = HashAlg::Sha256.digest(&[&[0; 32], &[1; 32]]);
    assert_eq!(pcrs[4], HashAlg::Sha256.digest(&[&once, &[2; 32]]));
    assert_eq!(pcrs[0], [0; 32]);
    assert_eq!((&pcrs[17], &pcrs[22], &pcrs[23]), (&vec![0xff; 32], &vec![0xff; 32], &vec![0; 32]));
    assert!(log.touches(4) && !log.touches(0));
    assert_eq!(log.replay(HashAlg::Sha384), Err(LogError::Bank(HashAlg::Sha384)));
}

#[test]
fn a_log_that_is_cut_off_is_refused_with_where_it_ends() {
    let whole = small();
    let first = start(&[(alg::SHA256, 32)]).len();
    let event = (whole.len() - first) / 3;
    for cut in 0..whole.len() {
        // Between two events it is a shorter log.
        let between = cut >= first && (cut - first).is_multiple_of(event);
        let parsed = EventLog::parse(&whole[..cut]);
        assert_eq!(parsed.is_ok(), between, "cut at {cut}");
        if let Err(error) = parsed {
            let LogError::Short { offset, .. } = error else { panic!("cut at {cut}: {error}") };
            assert!(offset <= cut);
        }
    }
}

#[test]
fn pcr_0_begins_with_the_locality_of_the_start() {
    let digests: &[(u16, &[u8])] = &[(alg::SHA256, &[1; 32])];
    let locality = |number: u8| [&STARTUP_LOCALITY[..], &[number]].concat();
    let mut log = start(&[(alg::SHA256, 32)]);
    add(&mut log, 0, NO_ACTION, digests, &locality(3));
    add(&mut log, 0, 8, digests, b"");
    let mut from = [0; 32];
    from[31] = 3;
    let parsed = EventLog::parse(&log).unwrap();
    assert_eq!(parsed.startup_locality, 3);
    assert_eq!(parsed.replay(HashAlg::Sha256).unwrap()[0], HashAlg::Sha256.digest(&[&from, &[1; 32]]));
    // Duplicate, too late, for a different PCR, an invalid startup locality.
    let mut twice = log.clone();
    add(&mut twice, 0, NO_ACTION, digests, &locality(3));
    let mut late = start(&[(alg::SHA256, 32)]);
    add(&mut late, 0, 8, digests, b"");
    add(&mut late, 0, NO_ACTION, digests, &locality(0));
    let mut other = start(&[(alg::SHA256, 32)]);
    add(&mut other, 1, NO_ACTION, digests, &locality(0));
    let mut none = start(&[(alg::SHA256, 32)]);
    add(&mut none, 0, NO_ACTION, digests, &locality(2));
    for log in [twice, late, other, none] {
        assert!(matches!(EventLog::parse(&log), Err(LogError::Event { .. })));
    }
}

#[test]
fn each_event_has_each_bank_once() {
    let both = [(alg::SHA256, 32), (alg::SM3_256, 32)];
    let mut log = start(&both);
    // In another order, and of a bank that is not known here.
    add(&mut log, 1, 8, &[(alg::SM3_256, &[2; 32]), (alg::SHA256, &[1; 32])], b"");
    let parsed = EventLog::parse(&log).unwrap();
    assert_eq!(parsed.events[0].digests.len(), 1);
    let offset = start(&both).len();
    for digests in [
        &[(alg::SHA256, &[1; 32][..])][..],
        &[(alg::SHA256, &[1; 32]), (alg::SHA256, &[1; 32])],
        &[(alg::SHA256, &[1; 32]), (alg::SHA384, &[1; 48])],
    ] {
        let mut log = start(&both);
        add(&mut log, 1, 8, digests, b"");
        let Err(LogError::Event { event: 0, offset: at, .. }) = EventLog::parse(&log) else {
            panic!("{digests:?}")
        };
        assert_eq!(at, offset);
    }
}

#[test]
fn headers_that_cannot_be_are_refused() {
    for algorithms in [
        &[][..],
        &[(alg::SHA256, 31)],
        &[(alg::SM3_256, 0)],
        &[(alg::SM3_256, 65)],
        &[(alg::SHA256, 32), (alg::SHA256, 32)],
        &[(1, 1), (2, 1), (3, 1), (7, 1), (8, 1), (9, 1), (10, 1), (15, 1), (16, 1)],
    ] {
        assert!(matches!(EventLog::parse(&start(algorithms)), Err(LogError::Algorithms { .. })));
    }
    let mut old = start(&[(alg::SHA256, 32)]);
    old[32 + 13] = b'2';
    assert_eq!(EventLog::parse(&old), Err(LogError::Header(32)));
    assert_eq!(EventLog::parse(&vec![0; MAX_LOG + 1]), Err(LogError::TooLong(MAX_LOG + 1)));
}

#[test]
fn a_pcr_that_is_none_and_too_many_events_are_refused() {
    let digests: &[(u16, &[u8])] = &[(alg::SM3_256, &[1; 1])];
    let mut log = start(&[(alg::SM3_256, 1)]);
    add(&mut log, 24, 8, digests, b"");
    assert!(matches!(EventLog::parse(&log), Err(LogError::Event { what: "PCR", .. })));
    let mut log = start(&[(alg::SM3_256, 1)]);
    for _ in 0..=MAX_EVENTS {
        add(&mut log, u32::MAX, NO_ACTION, digests, b"");
    }
    assert!(matches!(EventLog::parse(&log), Err(LogError::TooMany(_))));
}

#[test]
fn events_are_told_in_words() {
    let event = |kind, data: &[u8]| {
        describe(&Event { offset: 0, pcr: 1, kind, digests: BTreeMap::new(), data: data.to_vec() })
    };
    assert_eq!(
        event(5, b"Calling EFI Application from Boot Option"),
        "EV_ACTION \"Calling EFI Application from Boot Option\""
    );
    assert_eq!(event(4, &[0; 4]), "EV_SEPARATOR (4 bytes)");
    assert_eq!(event(0x1234, &[1]), "type 0x1234 (1 bytes)");
    let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let variable = [&[0x61; 16][..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes(), &name, &[0]].concat();
    assert_eq!(event(0x8000_0001, &variable), "EV_EFI_VARIABLE_DRIVER_CONFIG \"SecureBoot\"");
    assert_eq!(event(0x8000_0001, &variable[..40]), "EV_EFI_VARIABLE_DRIVER_CONFIG (40 bytes)");
    let tagged = [&1_u32.to_le_bytes()[..], &7_u32.to_le_bytes(), b"\"quiet\0"].concat();
    assert_eq!(event(6, &tagged), "EV_EVENT_TAG \"\\\"quiet\"");
}

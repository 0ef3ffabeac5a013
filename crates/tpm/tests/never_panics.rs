// SPDX-License-Identifier: Apache-2.0
//! Bytes of all kinds into everything that reads some.

use cvmm_tpm::constants::alg;
use cvmm_tpm::eventlog::{EventLog, describe};
use cvmm_tpm::pcr::{PcrValues, read_values};
use cvmm_tpm::wire::Reader;
use cvmm_tpm::{Attest, HashAlg, Public, Response, Signature, template};
use proptest::prelude::*;

/// Bytes that are nearly `good`.
fn nearly(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    (prop::collection::vec((0..len, any::<u8>()), 0..4), 0..=len, prop::collection::vec(any::<u8>(), 0..8))
        .prop_map(move |(changes, cut, more)| {
            let mut bytes = good.clone();
            for (at, value) in changes {
                bytes[at] = value;
            }
            if cut % 4 == 0 {
                bytes.truncate(cut);
            }
            bytes.extend(more);
            bytes
        })
}

fn log() -> Vec<u8> {
    let mut log = b"\0\0\0\0\x03\0\0\0".to_vec();
    log.extend([0; 20]);
    log.extend(b"\x25\0\0\0Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x02\0\0\0\x0b\0\x20\0\x0c\0\x30\0\0");
    for pcr in [0_u32, 1, 7] {
        log.extend([pcr, 0x8000_0001, 2].map(u32::to_le_bytes).concat());
        log.extend(alg::SHA256.to_le_bytes());
        log.extend([1; 32]);
        log.extend(alg::SHA384.to_le_bytes());
        log.extend([2; 48]);
        log.extend(40_u32.to_le_bytes());
        log.extend([&[9; 16][..], &1_u64.to_le_bytes(), &6_u64.to_le_bytes(), b"P\0value!"].concat());
    }
    log
}

#[test]
fn the_log_that_is_changed_is_a_good_one() {
    assert_eq!(EventLog::parse(&log()).map(|log| log.events.len()), Ok(3));
}

proptest! {
    #[test]
    fn whatever_is_read_comes_out_as_it_went_in(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..512),
        nearly(template::ek_rsa().to_bytes()),
        nearly(template::ek_ecc().to_bytes()),
        nearly(template::ak().to_bytes()),
    ]) {
        if let Ok(public) = Public::parse(&bytes) {
            prop_assert_eq!(public.to_bytes(), bytes);
            prop_assert!(public.name().as_bytes().len() > 32);
            prop_assert!(!public.is_of(&template::ak()));
        }
    }

    #[test]
    fn signatures_too(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..256),
        nearly([&[0, 0x18, 0, 0xc, 0, 48][..], &[1; 48], &[0, 48], &[2; 48]].concat()),
        nearly([&[0, 0x14, 0, 0xb, 1, 0][..], &[1; 256]].concat()),
    ]) {
        if let Ok(signature) = Signature::parse(&bytes) {
            prop_assert_eq!(signature.to_bytes(), bytes);
            prop_assert!(signature.verify(&template::ak(), b"message").is_err());
            prop_assert!(signature.verify(&template::ek_rsa(), b"message").is_err());
        }
    }

    #[test]
    fn nothing_else_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), handles in 0_usize..4) {
        if let Ok(response) = Response::parse(&bytes, handles) {
            prop_assert!(response.reader().left() <= bytes.len());
        }
        let _ = Attest::parse(&bytes);
        let _ = Attest::parse(&[&[0xff, 0x54, 0x43, 0x47, 0x80, 0x18], bytes.as_slice()].concat());
        let _ = read_values(&mut Reader::new(&bytes), &mut PcrValues::default());
    }

    #[test]
    fn logs_are_read_or_refused(bytes in nearly(log())) {
        match EventLog::parse(&bytes) {
            Ok(log) => {
                for event in &log.events {
                    prop_assert!(!describe(event).is_empty());
                }
                for bank in HashAlg::ALL {
                    prop_assert_eq!(log.replay(bank).is_ok(), log.has(bank));
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

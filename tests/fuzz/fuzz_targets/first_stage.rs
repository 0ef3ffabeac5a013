// SPDX-License-Identifier: Apache-2.0
//! What a first stage reads of its host: answers in the mailbox, challenges, tickets, responses of the
//! security processor, secrets; and the measured page. The first byte chooses.

#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use cvmm_first_stage::mailbox::{Challenge, HEADER, Header, Kind, MAX_IN, answer};
use cvmm_first_stage::params::Params;
use cvmm_first_stage::ticket::{Expected, LABEL, PrivateKey, open, sha384};
use cvmm_first_stage::{psp, secrets};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

/// The gate: what it signs gets behind the signature, where the rest of the parsing is.
static GATE: LazyLock<EcdsaKeyPair> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap());

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    match choice % 6 {
        0 => {
            let Some((header, _)) = rest.split_at_checked(HEADER) else { return };
            let header = Header::read_from_bytes(header).unwrap();
            if let Some(len) = answer(&header, 7, Kind::Ticket) {
                assert!(len <= MAX_IN);
            }
        }
        1 => {
            if let Ok((challenge, _)) = Challenge::read_from_prefix(rest) {
                assert!(challenge.vm_id().is_none_or(|name| !name.is_empty() && name.len() <= 64));
            }
        }
        2 | 3 => ticket(rest, choice % 6 == 3),
        4 => {
            if secrets::check(rest).is_ok() {
                // What is accepted can be written again, and is the same.
                let mut list = Vec::new();
                let mut at = secrets::HEADER;
                while at < rest.len() {
                    let len = u32::from_le_bytes(rest[at + 16..at + 20].try_into().unwrap()) as usize;
                    list.push((rest[at..at + 16].try_into().unwrap(), &rest[at + secrets::HEADER..at + len]));
                    at += len;
                }
                let mut again = vec![0; rest.len()];
                assert_eq!(secrets::write(&list, &mut again), Some(rest.len()));
                assert_eq!(again, rest);
            }
        }
        _ => {
            let mut page = [0; psp::PAGE];
            let len = rest.len().min(psp::PAGE);
            page[..len].copy_from_slice(&rest[..len]);
            assert!(psp::response(&[7; 32], 2, &mut page).is_err(), "the key is not known");
            if let Ok(params) = Params::read_from_bytes(&page) {
                let _ = params.check();
            }
        }
    }
});

/// A ticket as it is, or signed by the gate and bound to this stage as far as its length allows.
fn ticket(bytes: &[u8], signed: bool) {
    let (private, key) = PrivateKey::derive(&[1; 32]);
    let report = [3; 1184];
    let mut ticket = bytes.to_vec();
    if signed {
        let fields: [(usize, &[u8]); 4] =
            [(16, &[2; 32]), (48, &key), (80, &sha384(&report)), (128, &sha384(b"vm"))];
        for (at, value) in fields {
            if let Some(room) = ticket.get_mut(at..at + value.len()) {
                room.copy_from_slice(value);
            }
        }
        let signature = GATE.sign(&SystemRandom::new(), &[LABEL, &ticket].concat()).unwrap();
        ticket.extend_from_slice(signature.as_ref());
    }
    let expected = Expected { nonce: &[2; 32], key: &key, report: &report, vm_id: b"vm", ticks: 1 };
    if let Ok(ticket) = open(&mut ticket, GATE.public_key().as_ref(), &expected) {
        assert!(signed);
        if let Ok(table) = ticket.secrets(&private) {
            assert!(table.is_empty(), "nothing was sealed");
        }
    }
}

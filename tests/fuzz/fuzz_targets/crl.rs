// SPDX-License-Identifier: Apache-2.0
//! Revocation lists, behind a chain that is in order: any bytes, and lists that the root signs whatever is in
//! them. What is accepted does not have the chain's serials in it.
#![no_main]

use std::sync::LazyLock;

use cvmm_attest::refusal::Refusal;
use cvmm_attest::verify::CrlUse;
use cvmm_fuzz::Input;
use cvmm_test_support::attest::NOW;
use cvmm_test_support::attest::forged::{CrlParts, ForgedChain, Signer, entry};
use cvmm_test_support::der::{critical, extension, seq, utc};
use libfuzzer_sys::fuzz_target;

struct Evidence {
    chain: ForgedChain,
    report: Vec<u8>,
    vek: Vec<u8>,
}

static EVIDENCE: LazyLock<Evidence> = LazyLock::new(|| {
    let chain = ForgedChain::new();
    let (report, vek) = (chain.report(|_| {}), chain.vek(|parts| parts.serial = vec![2, 2, 0x12, 0x34]));
    Evidence { chain, report, vek }
});

/// A list that the root signs, whose parts are the input's; and whether it says that the chain is revoked.
fn make(list: &mut CrlParts, input: &mut Input<'_>) -> bool {
    let mut revoked = false;
    while input.more() {
        let what = input.u8();
        let len = usize::from(input.u8() % 64);
        let bytes = input.bytes(len);
        match what % 8 {
            0 => {
                revoked |= matches!(bytes, [5] | [0x12, 0x34]);
                list.revoked.push(entry(bytes, &[]));
            }
            // An element, so that it cannot swallow the entry after it.
            1 => list.revoked.push(seq(&[bytes])),
            2 => list.extensions.push(extension(&[0x55, 0x1d, what], bytes)),
            3 => list.extensions.push(critical(&[0x55, 0x1d, what], bytes)),
            4 => list.this_update = utc(&String::from_utf8_lossy(bytes)),
            5 => list.next_update = bytes.to_vec(),
            6 => list.version = bytes.to_vec(),
            _ => list.revoked.push(entry(&[what], &[extension(&[0x55, 0x1d, what], bytes)])),
        }
    }
    revoked
}

fuzz_target!(|data: &[u8]| {
    let Evidence { chain, report, vek } = &*EVIDENCE;
    let mut input = Input::new(data);
    let flags = input.u8();
    let use_of = if flags & 1 != 0 { CrlUse::Require } else { CrlUse::IfPresent };
    if flags & 2 == 0 {
        // Only this program has the root's key, so any bytes are a forgery.
        let refusal = chain.verify(report, vek, Some(input.rest()), use_of).expect_err("a forged list");
        assert!(refusal.code().starts_with("crl."), "{refusal}");
        return;
    }
    let mut revoked = false;
    let crl = chain.crl(Signer::Root, |list| revoked = make(list, &mut input));
    match chain.verify(report, vek, Some(&crl), use_of) {
        Ok(claims) => {
            assert!(!revoked, "a revoked chain verifies");
            let cvmm_attest::claims::Revocation::List { this_update, next_update } = claims.revocation else {
                panic!("the list is not in the claims");
            };
            assert!(
                this_update <= NOW
                    && (use_of == CrlUse::IfPresent || next_update.is_some_and(|next| next >= NOW))
            );
        }
        Err(refusal) => assert!(
            matches!(
                refusal,
                Refusal::Crl
                    | Refusal::CrlFuture { .. }
                    | Refusal::CrlUndated
                    | Refusal::CrlStale { .. }
                    | Refusal::Revoked { .. }
            ),
            "{refusal}"
        ),
    }
});

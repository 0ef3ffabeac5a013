// SPDX-License-Identifier: Apache-2.0
//! Quotes by a key without a TPM, which can be made as wrong as one likes.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;
use crate::constants::{alg, st};
use crate::pcr::Selection;
use crate::public::Key;
use crate::template;

struct Signer {
    pair: EcdsaKeyPair,
    public: Public,
}

impl Signer {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let mut public = template::ak();
        if let Key::Ecc { x, y, .. } = &mut public.key {
            let point = pair.public_key().as_ref();
            *x = point[1..49].to_vec();
            *y = point[49..].to_vec();
        }
        Self { pair, public }
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let signature = self.pair.sign(&SystemRandom::new(), bytes).unwrap();
        let (r, s) = signature.as_ref().split_at(48);
        Signature::Ecdsa { hash: HashAlg::Sha384, r: r.to_vec(), s: s.to_vec() }.to_bytes()
    }
}

/// A log with something in PCRs 0 and 4, and the values after it, those of PCRs 8 to 15 being fives.
fn boot() -> (Vec<u8>, PcrValues) {
    let mut spec = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0".to_vec();
    let mut log = [&[0, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &(spec.len() as u32).to_le_bytes()].concat();
    log.append(&mut spec);
    let mut values = PcrValues::default();
    for pcr in 0..16 {
        values.0.insert((HashAlg::Sha256, pcr), vec![if pcr < 8 { 0 } else { 5 }; 32]);
    }
    for pcr in [0_u8, 4] {
        log.extend([u32::from(pcr), 8, 1].map(u32::to_le_bytes).concat());
        log.extend(alg::SHA256.to_le_bytes());
        log.extend([7; 32]);
        log.extend([0; 4]);
        values.0.insert((HashAlg::Sha256, pcr), HashAlg::Sha256.digest(&[&[0; 32], &[7; 32]]));
    }
    (log, values)
}

fn selections() -> Selections {
    vec![Selection { hash: HashAlg::Sha256, bits: 0xffff }]
}

fn attest(selections: Selections, values: &PcrValues) -> Attest {
    let digest = values.digest(HashAlg::Sha384, &selections).unwrap_or_default();
    Attest {
        magic: crate::constants::GENERATED,
        qualified_signer: vec![],
        extra_data: b"a question".to_vec(),
        clock: ClockInfo::default(),
        firmware_version: 1,
        attested: Attested::Quote { selections, digest },
    }
}

/// Verifies what `change` has made of a good one.
fn code(
    change: impl FnOnce(&mut Attest, &mut PcrValues, &mut Option<Vec<u8>>),
) -> Result<QuoteClaims, &'static str> {
    let signer = Signer::new();
    let (log, mut values) = boot();
    let mut attest = attest(selections(), &values);
    let mut log = Some(log);
    change(&mut attest, &mut values, &mut log);
    let bytes = attest.to_bytes();
    let evidence = Evidence {
        ak: &signer.public,
        attest: &bytes,
        signature: &signer.sign(&bytes),
        qualifying_data: b"a question",
        pcrs: &values,
        event_log: log.as_deref(),
    };
    verify(&evidence).map_err(|error| error.code())
}

#[test]
fn a_good_quote_proves_its_pcrs_and_the_log_explains_those_of_the_firmware() {
    let claims = code(|_, _, _| {}).unwrap();
    assert_eq!(claims.pcrs.0.len(), 16);
    let explained: Vec<_> = (0..8).map(|pcr| (HashAlg::Sha256, pcr)).collect();
    assert_eq!(claims.log.unwrap().explained, explained);
    assert_eq!(code(|_, _, log| *log = None).unwrap().log, None);
}

#[test]
fn each_thing_that_is_wrong_has_its_code() {
    assert_eq!(code(|attest, _, _| attest.magic = 0x1234), Err("quote.magic"));
    assert_eq!(
        code(|attest, _, _| attest.attested = Attested::Other { kind: st::ATTEST_TIME, bytes: vec![1] }),
        Err("quote.type")
    );
    assert_eq!(code(|attest, _, _| attest.extra_data = b"another".to_vec()), Err("quote.nonce"));
    // A value is changed, missing, too many, too long; too few are quoted.
    let of = |pcr| (HashAlg::Sha256, pcr);
    assert_eq!(code(|_, values, _| values.0.get_mut(&of(9)).unwrap()[0] ^= 1), Err("quote.pcrs"));
    assert_eq!(code(|_, values, _| drop(values.0.remove(&of(9)))), Err("quote.pcrs"));
    assert_eq!(code(|_, values, _| drop(values.0.insert(of(16), vec![0; 32]))), Err("quote.pcrs"));
    assert_eq!(code(|_, values, _| values.0.get_mut(&of(9)).unwrap().push(1)), Err("quote.pcrs"));
    let few = |bits: u32, hash: HashAlg| {
        code(move |attest, values, _| {
            values.0.retain(|(_, pcr), _| bits & (1 << pcr) != 0);
            let old = std::mem::take(&mut values.0);
            values.0 =
                old.into_iter().map(|((_, pcr), _)| ((hash, pcr), vec![0; hash.digest_len()])).collect();
            let selections = vec![Selection { hash, bits }];
            let digest = values.digest(HashAlg::Sha384, &selections).unwrap();
            attest.attested = Attested::Quote { selections, digest };
        })
    };
    assert_eq!(few(0xfffe, HashAlg::Sha256), Err("quote.pcrs"));
    assert_eq!(few(0, HashAlg::Sha256), Err("quote.pcrs"));
    assert_eq!(few(0xffff, HashAlg::Sha1), Err("quote.pcrs"));
    // Of a bank that the log has nothing of.
    assert_eq!(few(0xffff, HashAlg::Sha384), Err("eventlog.replay"));
    assert_eq!(code(|_, _, log| log.as_mut().unwrap().push(0)), Err("eventlog.format"));
    // Without its last event, which was of PCR 4.
    let short = |log: &mut Option<Vec<u8>>| log.as_mut().unwrap().truncate(32 + 33 + 50);
    assert_eq!(code(|_, _, log| short(log)), Err("eventlog.replay"));
}

#[test]
fn only_a_key_that_signs_nothing_else_makes_quotes() {
    let signer = Signer::new();
    let (_, values) = boot();
    let bytes = attest(selections(), &values).to_bytes();
    let signature = signer.sign(&bytes);
    let evidence = Evidence {
        ak: &signer.public,
        attest: &bytes,
        signature: &signature,
        qualifying_data: b"a question",
        pcrs: &values,
        event_log: None,
    };
    assert!(verify(&evidence).is_ok());
    let mut free = signer.public.clone();
    free.attributes &= !object::RESTRICTED;
    let of = |evidence: Evidence<'_>| verify(&evidence).unwrap_err().code();
    assert_eq!(of(Evidence { ak: &free, ..evidence }), "quote.key");
    assert_eq!(of(Evidence { ak: &Signer::new().public, ..evidence }), "quote.signature");
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(of(Evidence { attest: &changed, ..evidence }), "quote.signature");
    assert_eq!(of(Evidence { signature: &signature[1..], ..evidence }), "quote.format");
    let rubbish = b"signed, but no TPMS_ATTEST";
    let signature = signer.sign(rubbish);
    assert_eq!(of(Evidence { attest: rubbish, signature: &signature, ..evidence }), "quote.format");
}

// SPDX-License-Identifier: Apache-2.0
//! What a TPM says, or an attacker in its place: keys, signatures, attestations, responses; and quotes by a
//! key that signs all that the fuzzer thinks of, so that what comes after the signature is reached too.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use cvmm_fuzz::Input;
use cvmm_tpm::attest::Attested;
use cvmm_tpm::credential::make_credential;
use cvmm_tpm::pcr::{PcrValues, read_values};
use cvmm_tpm::public::Key;
use cvmm_tpm::quote::{CODES, Evidence, verify};
use cvmm_tpm::wire::Reader;
use cvmm_tpm::{Attest, HashAlg, Name, Public, Response, Signature, template};
use libfuzzer_sys::fuzz_target;

struct Signer {
    pair: EcdsaKeyPair,
    public: Public,
}

static SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("there are random numbers");
    let mut public = template::ak();
    if let Key::Ecc { x, y, .. } = &mut public.key {
        let point = pair.public_key().as_ref();
        (*x, *y) = (point[1..49].to_vec(), point[49..].to_vec());
    }
    Signer { pair, public }
});

fn public(bytes: &[u8]) {
    let Ok(public) = Public::parse(bytes) else { return };
    assert_eq!(public.to_bytes(), bytes);
    let name = public.name();
    assert_eq!(Name::from_hex(&name.to_string()), Some(name.clone()));
    assert!(!public.is_of(&template::ak()) || public.point().is_some());
    if let Ok(credential) = make_credential(&public, &name, b"secret") {
        assert!(!credential.blob.is_empty() && !credential.secret.is_empty());
    }
}

fn signature(bytes: &[u8]) {
    let Ok(signature) = Signature::parse(bytes) else { return };
    assert_eq!(signature.to_bytes(), bytes);
    signature.verify(&SIGNER.public, b"an unsigned message").expect_err("a forged signature");
}

fn attest(bytes: &[u8]) {
    let Ok(attest) = Attest::parse(bytes) else { return };
    let again = Attest::parse(&attest.to_bytes()).expect("what was written can be read");
    // A map of four bytes has PCRs that are none, and is written with three.
    let strange = match &attest.attested {
        Attested::Quote { selections, .. } => selections.iter().any(|selection| selection.bits >> 24 != 0),
        Attested::Other { .. } => false,
    };
    assert!(strange || again == attest);
}

fn response(input: &mut Input<'_>) {
    let handles = usize::from(input.u8() % 4);
    let bytes = input.rest();
    if let Ok(response) = Response::parse(bytes, handles) {
        assert_eq!(response.handles.len(), handles);
        let _ = read_values(&mut response.reader(), &mut PcrValues::default());
        let _ = Public::read_sized(&mut response.reader());
    }
    let mut values = PcrValues::default();
    if read_values(&mut Reader::new(bytes), &mut values).is_ok() {
        assert!(values.0.iter().all(|((bank, _), value)| value.len() == bank.digest_len()));
    }
}

/// A TPMS_ATTEST that the fuzzer makes, PCRs of one byte each, and the right digest if the input asks for it.
fn quote(input: &mut Input<'_>) {
    let flags = input.u8();
    let len = usize::from(input.u16());
    let mut bytes = input.bytes(len).to_vec();
    let mut pcrs = PcrValues::default();
    for _ in 0..input.u8() % 49 {
        let bank = HashAlg::ALL[usize::from(input.u8() % 4)];
        pcrs.0.insert((bank, input.u8() % 26), vec![input.u8(); bank.digest_len()]);
    }
    let mendable = Attest::parse(&bytes).ok().filter(|_| flags & 1 != 0);
    if let Some(mut attest) = mendable {
        if let Attested::Quote { selections, digest } = &mut attest.attested {
            *digest = pcrs.digest(HashAlg::Sha384, selections).unwrap_or_default();
        }
        attest.extra_data = b"question".to_vec();
        bytes = attest.to_bytes();
    }
    let signature = SIGNER.pair.sign(&SystemRandom::new(), &bytes).expect("there are random numbers");
    let (r, s) = signature.as_ref().split_at(48);
    let signature = Signature::Ecdsa { hash: HashAlg::Sha384, r: r.to_vec(), s: s.to_vec() }.to_bytes();
    let log = input.rest();
    let evidence = Evidence {
        ak: &SIGNER.public,
        attest: &bytes,
        signature: &signature,
        qualifying_data: b"question",
        pcrs: &pcrs,
        event_log: (flags & 2 != 0).then_some(log),
    };
    match verify(&evidence) {
        Ok(claims) => {
            assert_eq!(bytes[..6], [0xff, b'T', b'C', b'G', 0x80, 0x18]);
            assert!(claims.pcrs.0.len() >= 8 && claims.log.is_some() == (flags & 2 != 0));
        }
        Err(error) => assert!(CODES.contains(&error.code())),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.u8() % 5 {
        0 => public(input.rest()),
        1 => signature(input.rest()),
        2 => attest(input.rest()),
        3 => response(&mut input),
        _ => quote(&mut input),
    }
});

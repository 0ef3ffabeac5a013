// SPDX-License-Identifier: Apache-2.0
//! What this crate makes of a TPM's answers, and what a TPM makes of what this crate makes. The TPM is
//! libtpms.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::Tpm;
use cvmm_tpm::attest::{Attest, Attested};
use cvmm_tpm::constants::{alg, cc, rc, rh};
use cvmm_tpm::credential::{Credential, make_credential};
use cvmm_tpm::pcr::{PcrValues, Selection, read_values};
use cvmm_tpm::public::{Key, Public, Scheme};
use cvmm_tpm::response::ResponseError;
use cvmm_tpm::signature::SignatureError;
use cvmm_tpm::template;
use cvmm_tpm::wire::Reader;
use cvmm_tpm::{Command, HashAlg, Name, Signature};

#[test]
fn keys_are_read_as_they_are_and_have_the_names_the_tpm_gives_them() {
    let mut tpm = Tpm::new();
    for (hierarchy, template) in [
        (rh::ENDORSEMENT, template::ek_rsa()),
        (rh::ENDORSEMENT, template::ek_ecc()),
        (rh::PLATFORM, template::ak()),
    ] {
        let (handle, public) = tpm.create(hierarchy, &template);
        assert!(public.is_of(&template));
        assert!(!template.is_of(&template), "a template is not a key");
        let (_, answer) = tpm.run(Command::new(cc::READ_PUBLIC).handle(handle), 0);
        let mut reader = Reader::new(&answer);
        let again = Public::read_sized(&mut reader).unwrap();
        assert_eq!(again, public);
        let name = Name::from_bytes(reader.sized("name", 66).unwrap()).unwrap();
        assert_eq!(name, public.name());
        assert_eq!(Name::from_hex(&name.to_string()), Some(name));
        assert_eq!(Public::parse(&public.to_bytes()).unwrap(), public);
        // The same again: it is made of the seed and the template.
        assert_eq!(tpm.create(hierarchy, &template).1, public);
        for handle in [handle, handle + 1] {
            tpm.run(Command::new(cc::FLUSH_CONTEXT).u32(handle), 0);
        }
        let mut other = public.clone();
        other.attributes ^= cvmm_tpm::constants::object::RESTRICTED;
        assert!(!other.is_of(&template));
    }
}

fn activate(
    tpm: &mut Tpm,
    ak: u32,
    ek: u32,
    rsa: bool,
    credential: &Credential,
) -> Result<Vec<u8>, ResponseError> {
    let mut command = Command::new(cc::ACTIVATE_CREDENTIAL).handle(ak).handle(ek).password(&[]);
    let session = rsa.then(|| tpm.policy_a(alg::SHA256));
    command = match session {
        Some(session) => command.policy(session),
        None => command.password(&[]),
    };
    let answer = tpm.try_run(command.sized(&credential.blob).sized(&credential.secret), 0);
    if let Some(session) = session {
        tpm.run(Command::new(cc::FLUSH_CONTEXT).u32(session), 0);
    }
    Ok(Reader::new(&answer?.1).sized("certInfo", 64).unwrap().to_vec())
}

#[test]
fn a_credential_is_opened_by_the_tpm_it_is_for_and_for_the_key_it_names() {
    let mut tpm = Tpm::new();
    let (ak, ak_public) = tpm.create(rh::PLATFORM, &template::ak());
    for (template, rsa) in [(template::ek_rsa(), true), (template::ek_ecc(), false)] {
        let (ek, ek_public) = tpm.create(rh::ENDORSEMENT, &template);
        for length in [1, 31, 32] {
            let secret: Vec<u8> = (1..=length).collect();
            let credential = make_credential(&ek_public, &ak_public.name(), &secret).unwrap();
            assert_eq!(activate(&mut tpm, ak, ek, rsa, &credential).unwrap(), secret);
        }
        // For a different key, or changed on the way: activation fails.
        let other = make_credential(&ek_public, &ek_public.name(), b"secret").unwrap();
        let error = activate(&mut tpm, ak, ek, rsa, &other).unwrap_err();
        assert_eq!(error.code(), Some(rc::INTEGRITY), "{error}");
        let mut changed = make_credential(&ek_public, &ak_public.name(), b"secret").unwrap();
        *changed.blob.last_mut().unwrap() ^= 1;
        assert_eq!(activate(&mut tpm, ak, ek, rsa, &changed).unwrap_err().code(), Some(rc::INTEGRITY));
        // A second one for the same is another one.
        let again = make_credential(&ek_public, &ak_public.name(), b"secret").unwrap();
        let once = make_credential(&ek_public, &ak_public.name(), b"secret").unwrap();
        assert!(again.blob != once.blob && again.secret != once.secret);
        let long = vec![1; ek_public.name_alg.digest_len() + 1];
        assert!(make_credential(&ek_public, &ak_public.name(), &long).is_err());
        tpm.run(Command::new(cc::FLUSH_CONTEXT).u32(ek), 0);
    }
    assert!(
        make_credential(&ak_public, &ak_public.name(), b"secret").is_err(),
        "it signs, it does not decrypt"
    );
}

#[test]
fn make_credential_of_the_tpm_gives_an_equivalent_result() {
    // TPM2_MakeCredential's lengths, and it opens.
    let mut tpm = Tpm::new();
    let (ak, ak_public) = tpm.create(rh::PLATFORM, &template::ak());
    let (ek, ek_public) = tpm.create(rh::ENDORSEMENT, &template::ek_ecc());
    let command =
        Command::new(cc::MAKE_CREDENTIAL).handle(ek).sized(b"secret").sized(ak_public.name().as_bytes());
    let (_, answer) = tpm.run(command, 0);
    let mut reader = Reader::new(&answer);
    let blob = reader.sized("credentialBlob", 256).unwrap().to_vec();
    let secret = reader.sized("secret", 512).unwrap().to_vec();
    let ours = make_credential(&ek_public, &ak_public.name(), b"secret").unwrap();
    assert_eq!((ours.blob.len(), ours.secret.len()), (blob.len(), secret.len()));
    assert_eq!(activate(&mut tpm, ak, ek, false, &Credential { blob, secret }).unwrap(), b"secret");
}

/// RSA-2048 keys that sign.
fn rsa_signer(scheme: Scheme) -> Public {
    let mut public = template::ak();
    public.key = Key::Rsa { symmetric: None, scheme, bits: 2048, exponent: 0, modulus: Vec::new() };
    public
}

#[test]
fn quotes_are_signed_by_each_kind_of_key() {
    let mut tpm = Tpm::new();
    let extend = Command::new(cc::PCR_EXTEND).handle(16).password(&[]).u32(1).u16(alg::SHA256).raw(&[7; 32]);
    tpm.run(extend, 0);
    let selections = vec![Selection::of(HashAlg::Sha256, &[0, 16]), Selection::of(HashAlg::Sha384, &[7])];
    let mut values = PcrValues::default();
    let (_, answer) = tpm.run(Command::new(cc::PCR_READ).pcrs(&selections), 0);
    let mut reader = Reader::new(&answer);
    assert_eq!(read_values(&mut reader, &mut values).unwrap(), selections);
    reader.finish("TPM2_PCR_Read").unwrap();
    assert_eq!(values.get(HashAlg::Sha256, 16).unwrap(), HashAlg::Sha256.digest(&[&[0; 32], &[7; 32]]));

    for template in [
        template::ak(),
        rsa_signer(Scheme::RsaSsa(HashAlg::Sha256)),
        rsa_signer(Scheme::RsaPss(HashAlg::Sha384)),
    ] {
        let (key, public) = tpm.create(rh::PLATFORM, &template);
        let (_, answer) = tpm.run(cvmm_tpm::command::quote(key, b"a nonce", &selections), 0);
        let mut reader = Reader::new(&answer);
        let bytes = reader.sized("quoted", 1024).unwrap();
        let signature = Signature::read(&mut reader).unwrap();
        reader.finish("TPM2_Quote").unwrap();
        let attest = Attest::parse(bytes).unwrap();
        assert!(attest.is_generated());
        assert_eq!(attest.extra_data, b"a nonce");
        assert_eq!(attest.to_bytes(), bytes);
        let digest = values.digest(signature.hash(), &selections).unwrap();
        assert_eq!(attest.attested, Attested::Quote { selections: selections.clone(), digest });
        assert_eq!(Signature::parse(&signature.to_bytes()).unwrap(), signature);
        assert_eq!(signature.verify(&public, bytes), Ok(()));
        let mut other = bytes.to_vec();
        other[40] ^= 1;
        assert_eq!(signature.verify(&public, &other), Err(SignatureError::Wrong));
        let another = tpm.create(rh::OWNER, &template);
        assert_eq!(signature.verify(&another.1, bytes), Err(SignatureError::Wrong));
        for handle in [key, another.0] {
            tpm.run(Command::new(cc::FLUSH_CONTEXT).u32(handle), 0);
        }
    }
}

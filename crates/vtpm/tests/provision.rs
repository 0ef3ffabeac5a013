// SPDX-License-Identifier: Apache-2.0
//! Who a TPM is, with a real libtpms: new, known, made by swtpm_setup, and after guests that did what they
//! may do to it.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod common;

use std::time::{Duration, Instant};

use common::{alone, first_2b, handle_of, in_child, in_process, ok, startup};
use cvmm_tpm::constants::{alg, cc, nv, rc, rc_base, rh};
use cvmm_tpm::credential::make_credential;
use cvmm_tpm::{Command, Public, command, template};
use cvmm_vtpm::command::CRB_BUFFER;
use cvmm_vtpm::provision::{
    Certificates, Ek, Identity, MAX_CERTIFICATE, ProvisionError, RECORD, activate, install, installed, place,
    provision,
};
use cvmm_vtpm::store::MemoryStore;
use cvmm_vtpm::{StateKind, StateStore, TpmEngine};

fn sent(engine: &mut dyn TpmEngine, command: Command) -> u32 {
    engine.execute(0, &command.build().unwrap()).unwrap().code()
}

fn done(engine: &mut dyn TpmEngine, command: Command) -> Vec<u8> {
    ok(engine, &command.build().unwrap()).to_vec()
}

fn on(engine: &mut dyn TpmEngine) {
    engine.power_cycle().unwrap();
    ok(engine, &startup(0));
}

/// A new TPM that is on.
fn new(store: &MemoryStore) -> Box<dyn TpmEngine> {
    let mut engine = in_process(store.clone());
    engine.buffer_size(Some(CRB_BUFFER)).unwrap();
    on(&mut *engine);
    engine
}

fn change_auth(engine: &mut dyn TpmEngine, hierarchy: u32, old: &[u8], new: &[u8]) {
    done(engine, Command::new(cc::HIERARCHY_CHANGE_AUTH).handle(hierarchy).password(old).sized(new));
}

/// What OVMF does before it boots anything.
fn hand_over(engine: &mut dyn TpmEngine) {
    on(engine);
    change_auth(engine, rh::PLATFORM, b"", b"only the firmware knows");
}

fn evict_owned(engine: &mut dyn TpmEngine, auth: &[u8], object: u32, handle: u32) -> u32 {
    sent(engine, Command::new(cc::EVICT_CONTROL).handle(rh::OWNER).handle(object).password(auth).u32(handle))
}

fn public_at(engine: &mut dyn TpmEngine, handle: u32) -> Option<Public> {
    let response = engine.execute(0, &Command::new(cc::READ_PUBLIC).handle(handle).build().unwrap()).unwrap();
    if rc_base(response.code()) == rc::HANDLE {
        return None;
    }
    assert_eq!(response.code(), 0);
    let size = usize::from(u16::from_be_bytes([response[10], response[11]]));
    Some(Public::parse(&response[12..12 + size]).unwrap())
}

fn all_there(engine: &mut dyn TpmEngine, identity: &Identity) {
    assert_eq!(public_at(engine, place::EK_RSA).as_ref(), Some(&identity.ek_rsa));
    assert_eq!(public_at(engine, place::EK_ECC).as_ref(), Some(&identity.ek_ecc));
    assert_eq!(public_at(engine, place::AK).as_ref(), Some(&identity.ak));
}

/// The attestation key signs, which is what it is for.
fn quotes(engine: &mut dyn TpmEngine) {
    done(engine, command::quote(place::AK, b"nonce", &cvmm_tpm::pcr::Selections::default()));
}

/// A gate's challenge to each endorsement key, answered.
fn activates(engine: &mut dyn TpmEngine, identity: &Identity) {
    for (ek, public) in [(Ek::Rsa, &identity.ek_rsa), (Ek::Ecc, &identity.ek_ecc)] {
        let made = make_credential(public, &identity.ak.name(), b"what only this TPM reads").unwrap();
        let opened = activate(engine, ek, &made.blob, &made.secret).unwrap();
        assert_eq!(opened.as_slice(), b"what only this TPM reads");
    }
}

fn certificates() -> Certificates {
    // Longer than one write, as long as one, as long as an index, short.
    Certificates {
        ek_rsa: vec![1; 1500],
        ek_ecc: vec![2; 1024],
        ak: vec![3; MAX_CERTIFICATE],
        platform: vec![4; 10],
    }
}

#[test]
fn a_new_tpm_gets_keys_that_it_has_ever_after() {
    let _alone = alone();
    for make in [in_process, in_child] {
        let store = MemoryStore::new();
        let mut tpm = make(store.clone());
        tpm.buffer_size(Some(CRB_BUFFER)).unwrap();
        on(&mut *tpm);
        let began = Instant::now();
        let first = provision(&mut *tpm).unwrap();
        let written = install(&mut *tpm, &certificates()).unwrap();
        println!("a new TPM: {:?}, {:?}", began.elapsed(), tpm.statistics());
        assert_eq!(written, 4);
        assert!(first.ek_rsa.is_of(&template::ek_rsa()) && first.ek_ecc.is_of(&template::ek_ecc()));
        assert!(first.ak.is_of(&template::ak()));
        all_there(&mut *tpm, &first);
        activates(&mut *tpm, &first);

        on(&mut *tpm);
        let stores = tpm.statistics().stores;
        let began = Instant::now();
        assert_eq!(provision(&mut *tpm).unwrap(), first);
        assert_eq!(install(&mut *tpm, &certificates()).unwrap(), 0);
        let known = began.elapsed();
        println!("a known TPM: {known:?}");
        assert_eq!(tpm.statistics().stores, stores, "a known TPM is written to");
        assert!(known < Duration::from_secs(1), "{known:?}: as if keys were made");
        drop(tpm);
        let mut tpm = make(store);
        on(&mut *tpm);
        assert_eq!(provision(&mut *tpm).unwrap(), first);
        all_there(&mut *tpm, &first);
        quotes(&mut *tpm);
        // Nothing is left behind in the TPM's memory: three keys fit.
        for _ in 0..3 {
            done(&mut *tpm, command::create_primary(rh::OWNER, &template::ak()));
        }
    }
}

/// Attempts that the TPM takes for guesses of an authorisation.
fn guesses(engine: &mut dyn TpmEngine) -> u32 {
    const LOCKOUT_COUNTER: u32 = 0x20e;
    let response = done(engine, Command::new(cc::GET_CAPABILITY).u32(6).u32(LOCKOUT_COUNTER).u32(1));
    u32::from_be_bytes(response[response.len() - 4..].try_into().unwrap())
}

#[test]
fn no_start_counts_as_an_attempt_to_guess() {
    let _alone = alone();
    let mut tpm = new(&MemoryStore::new());
    let identity = provision(&mut *tpm).unwrap();
    for _ in 0..4 {
        activates(&mut *tpm, &identity);
        on(&mut *tpm);
        assert_eq!(guesses(&mut *tpm), 0);
        assert_eq!(provision(&mut *tpm).unwrap(), identity);
    }
    // Also with the key's own authorisation, which is protected against guessing.
    change_auth(&mut *tpm, rh::ENDORSEMENT, b"", b"endorsement");
    let made = make_credential(&identity.ek_ecc, &identity.ak.name(), b"secret").unwrap();
    for number in 10..14 {
        activate(&mut *tpm, Ek::Ecc, &made.blob, &made.secret).unwrap();
        on(&mut *tpm);
        assert_eq!(guesses(&mut *tpm), 0);
        activate(&mut *tpm, Ek::Ecc, &made.blob, &made.secret).unwrap();
        let mut renewed = certificates();
        renewed.ak[0] = number;
        assert_ne!(install(&mut *tpm, &renewed).unwrap(), 0);
        on(&mut *tpm);
        assert_eq!(guesses(&mut *tpm), 0);
    }
}

#[test]
fn what_swtpm_setup_made_is_taken_over() {
    let _alone = alone();
    // Of swtpm_setup 0.7.1 --create-ek-cert --create-platform-cert --ecc --lock-nvram; its names as swtpm
    // said them.
    let names = [
        "000b1ef2b82361044b7c4a9361cdc5997c40b8f4276336b40cea321291ece6d5ae47",
        "000c7de696906457759b564a22abe9eb0359a3421e279655079a58a79d529f0553d48dcb7bbd4e3279b87061c5dfab1e4742",
    ];
    let mut store = MemoryStore::new();
    store.store(StateKind::Permanent, include_bytes!("data/swtpm-0.7.1.permanent")).unwrap();
    let mut tpm = new(&store);
    let identity = provision(&mut *tpm).unwrap();
    assert_eq!([&identity.ek_rsa, &identity.ek_ecc].map(|key| key.name().to_string()), names);
    all_there(&mut *tpm, &identity);
    activates(&mut *tpm, &identity);
    // Its certificates make room for ours, locked or not.
    assert!(installed(&mut *tpm).unwrap().is_none(), "swtpm writes no certificate of an AK");
    assert_eq!(install(&mut *tpm, &certificates()).unwrap(), 4);
    assert_eq!(installed(&mut *tpm).unwrap(), Some(certificates()));
    // Without the persistent keys the same ones come from the seeds.
    for handle in [place::EK_RSA, place::EK_ECC] {
        assert_eq!(evict_owned(&mut *tpm, b"", handle, handle), 0);
    }
    on(&mut *tpm);
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    all_there(&mut *tpm, &identity);
}

#[test]
fn a_guest_that_owns_its_tpm_is_started() {
    let _alone = alone();
    let mut tpm = new(&MemoryStore::new());
    let identity = provision(&mut *tpm).unwrap();
    install(&mut *tpm, &certificates()).unwrap();
    hand_over(&mut *tpm);
    for (hierarchy, auth) in
        [(rh::OWNER, &b"owner"[..]), (rh::ENDORSEMENT, b"endorsement"), (rh::LOCKOUT, b"lockout")]
    {
        change_auth(&mut *tpm, hierarchy, b"", auth);
    }
    on(&mut *tpm);
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    assert_eq!(install(&mut *tpm, &certificates()).unwrap(), 0);
    quotes(&mut *tpm);
    // A gate that has forgotten it can still challenge one of the keys; the other says what to do.
    let credential = |key| make_credential(key, &identity.ak.name(), b"secret").unwrap();
    let of_ecc = credential(&identity.ek_ecc);
    assert_eq!(activate(&mut *tpm, Ek::Ecc, &of_ecc.blob, &of_ecc.secret).unwrap().as_slice(), b"secret");
    let of_rsa = credential(&identity.ek_rsa);
    let error = activate(&mut *tpm, Ek::Rsa, &of_rsa.blob, &of_rsa.secret).unwrap_err();
    assert!(error.to_string().starts_with("provision-auth: the RSA-2048 endorsement key"), "{error}");

    // It takes the keys away as well.
    for handle in [place::EK_RSA, place::EK_ECC] {
        assert_eq!(evict_owned(&mut *tpm, b"owner", handle, handle), 0);
    }
    on(&mut *tpm);
    let stores = tpm.statistics().stores;
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    assert_eq!(tpm.statistics().stores, stores);
    assert_eq!(public_at(&mut *tpm, place::EK_RSA), None);
    quotes(&mut *tpm);
    // And gives the authorisations up again: the keys come back.
    change_auth(&mut *tpm, rh::ENDORSEMENT, b"endorsement", b"");
    on(&mut *tpm);
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    activates(&mut *tpm, &identity);
    assert_eq!(public_at(&mut *tpm, place::EK_RSA), None, "the owner's authorisation is still set");
    change_auth(&mut *tpm, rh::OWNER, b"owner", b"");
    on(&mut *tpm);
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    all_there(&mut *tpm, &identity);
}

#[test]
fn a_cleared_tpm_has_the_same_keys() {
    let _alone = alone();
    let mut tpm = new(&MemoryStore::new());
    let identity = provision(&mut *tpm).unwrap();
    install(&mut *tpm, &certificates()).unwrap();
    hand_over(&mut *tpm);
    change_auth(&mut *tpm, rh::ENDORSEMENT, b"", b"endorsement");
    const CLEAR: u32 = 0x126;
    done(&mut *tpm, Command::new(CLEAR).handle(rh::LOCKOUT).password(&[]));
    assert_eq!(public_at(&mut *tpm, place::EK_RSA), None);
    assert!(public_at(&mut *tpm, place::AK).is_some(), "the guest cannot take the attestation key away");
    on(&mut *tpm);
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    assert_eq!(install(&mut *tpm, &certificates()).unwrap(), 0);
    all_there(&mut *tpm, &identity);
    activates(&mut *tpm, &identity);
}

#[test]
fn false_keys_are_not_believed() {
    let _alone = alone();
    let mut tpm = new(&MemoryStore::new());
    let identity = provision(&mut *tpm).unwrap();
    hand_over(&mut *tpm);
    // Endorsement keys of the same template and another hierarchy, of the same hierarchy and another
    // template, and no key at all.
    let others = [(rh::OWNER, template::ek_ecc()), (rh::ENDORSEMENT, template::ak())];
    for (hierarchy, other) in others {
        let handle = handle_of(&ok(&mut *tpm, &command::create_primary(hierarchy, &other).build().unwrap()));
        assert_eq!(evict_owned(&mut *tpm, b"", place::EK_ECC, place::EK_ECC), 0);
        assert_eq!(evict_owned(&mut *tpm, b"", handle, place::EK_ECC), 0);
        on(&mut *tpm);
        assert_eq!(provision(&mut *tpm).unwrap(), identity);
        all_there(&mut *tpm, &identity);
    }
    // The guest also stands in the way of its replacement.
    let like = command::create_primary(rh::OWNER, &template::ek_ecc()).build().unwrap();
    let handle = handle_of(&ok(&mut *tpm, &like));
    assert_eq!(evict_owned(&mut *tpm, b"", place::EK_ECC, place::EK_ECC), 0);
    assert_eq!(evict_owned(&mut *tpm, b"", handle, place::EK_ECC), 0);
    change_auth(&mut *tpm, rh::ENDORSEMENT, b"", b"endorsement");
    on(&mut *tpm);
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    change_auth(&mut *tpm, rh::ENDORSEMENT, b"endorsement", b"");

    // With firmware that leaves the platform's authorisation empty a guest reaches the attestation key and
    // the record.
    on(&mut *tpm);
    let evict = |object: u32, handle| {
        Command::new(cc::EVICT_CONTROL).handle(rh::PLATFORM).handle(object).password(&[]).u32(handle)
    };
    let mut other = template::ak();
    other.attributes &= !cvmm_tpm::constants::object::NO_DA;
    let handle = handle_of(&ok(&mut *tpm, &command::create_primary(rh::PLATFORM, &other).build().unwrap()));
    done(&mut *tpm, evict(place::AK, place::AK));
    done(&mut *tpm, evict(handle, place::AK));
    done(&mut *tpm, Command::new(cc::NV_UNDEFINE_SPACE).handle(rh::PLATFORM).handle(RECORD).password(&[]));
    on(&mut *tpm);
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    all_there(&mut *tpm, &identity);
    quotes(&mut *tpm);
    on(&mut *tpm);
    let stores = tpm.statistics().stores;
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    assert_eq!(tpm.statistics().stores, stores, "the record is there again");
}

#[test]
fn a_tpm_in_lockout_or_full_is_started() {
    let _alone = alone();
    let mut tpm = new(&MemoryStore::new());
    let identity = provision(&mut *tpm).unwrap();
    install(&mut *tpm, &certificates()).unwrap();
    hand_over(&mut *tpm);
    // Fill the NV memory with the owner's indices.
    let define = |index: u32, size: u16| {
        Command::new(cc::NV_DEFINE_SPACE).handle(rh::OWNER).password(&[]).sized(b"secret").nested(|public| {
            let attributes = nv::AUTHREAD | nv::AUTHWRITE | nv::OWNERREAD;
            public.u32(index).u16(alg::SHA256).u32(attributes).sized(&[]).u16(size);
        })
    };
    let mut index = 0x0150_0000;
    for size in [2048, 256, 16, 1] {
        while sent(&mut *tpm, define(index, size)) == 0 {
            index += 1;
        }
    }
    assert!(index > 0x0150_0010);
    // Wrong passwords, until there are no more attempts.
    const LOCKOUT: u32 = 0x921;
    let read =
        || Command::new(cc::NV_READ).handle(0x0150_0000).handle(0x0150_0000).password(b"wrong").u16(1).u16(0);
    let mut tries = 0;
    while sent(&mut *tpm, read()) != LOCKOUT {
        tries += 1;
        assert!(tries < 100);
    }
    on(&mut *tpm);
    assert_eq!(sent(&mut *tpm, read()), LOCKOUT);
    let stores = tpm.statistics().stores;
    assert_eq!(provision(&mut *tpm).unwrap(), identity);
    assert_eq!(install(&mut *tpm, &certificates()).unwrap(), 0);
    assert_eq!(tpm.statistics().stores, stores);
    quotes(&mut *tpm);
    activates(&mut *tpm, &identity);
    // Room for what takes no more than before.
    let mut renewed = certificates();
    renewed.ek_rsa[0] = 9;
    renewed.ak[2000] = 9;
    assert_eq!(install(&mut *tpm, &renewed).unwrap(), 2);
    assert_eq!(installed(&mut *tpm).unwrap(), Some(renewed));
}

#[test]
fn certificates_are_as_tools_expect_them_and_the_guest_only_reads_them() {
    let _alone = alone();
    let mut tpm = new(&MemoryStore::new());
    provision(&mut *tpm).unwrap();
    assert_eq!(installed(&mut *tpm).unwrap(), None);
    assert_eq!(install(&mut *tpm, &certificates()).unwrap(), 4);
    hand_over(&mut *tpm);
    let Certificates { ek_rsa, ek_ecc, ak, platform } = certificates();
    for (index, content, attributes) in [
        (0x01c0_0002_u32, ek_rsa, 0x6207_2801_u32),
        (0x01c0_0016, ek_ecc, 0x6207_2801),
        (0x01c1_0002, ak, 0x6207_2001),
        (0x01c0_8000, platform, 0x6207_2001),
    ] {
        let public = done(&mut *tpm, Command::new(cc::NV_READ_PUBLIC).handle(index));
        let mut expected = vec![0, 14];
        expected.extend_from_slice(&index.to_be_bytes());
        expected.extend_from_slice(&[0, 0x0b]);
        expected.extend_from_slice(&attributes.to_be_bytes());
        expected.extend_from_slice(&[0, 0]);
        expected.extend_from_slice(&(content.len() as u16).to_be_bytes());
        assert_eq!(public[10..26], expected);
        // By the owner's or the index' own empty authorisation.
        for by in [rh::OWNER, index] {
            let mut read = Vec::new();
            for part in content.chunks(1024) {
                let command = Command::new(cc::NV_READ).handle(by).handle(index).password(&[]);
                let command = command.u16(part.len() as u16).u16(read.len() as u16).build().unwrap();
                read.extend_from_slice(first_2b(&ok(&mut *tpm, &command)));
            }
            assert_eq!(read, content);
        }
        for by in [rh::OWNER, index, rh::PLATFORM] {
            let write = Command::new(cc::NV_WRITE).handle(by).handle(index).password(&[]).sized(b"x").u16(0);
            assert_ne!(sent(&mut *tpm, write), 0, "{by:x} writes {index:x}");
        }
        for by in [rh::OWNER, rh::PLATFORM] {
            let undefine = Command::new(cc::NV_UNDEFINE_SPACE).handle(by).handle(index).password(&[]);
            assert_ne!(sent(&mut *tpm, undefine), 0, "{by:x} takes {index:x} away");
        }
    }
    on(&mut *tpm);
    for (len, wrong) in [(0, "has 0 bytes"), (MAX_CERTIFICATE + 1, "has 2049 bytes")] {
        let mut all = certificates();
        all.platform = vec![7; len];
        all.ak = vec![7; 5];
        let error = install(&mut *tpm, &all).unwrap_err().to_string();
        assert!(
            error.starts_with("provision-size: the platform certificate") && error.contains(wrong),
            "{error}"
        );
        assert_eq!(installed(&mut *tpm).unwrap(), Some(certificates()), "some of them were written");
    }
}

#[test]
fn a_credential_for_another_key_or_cut_short_is_refused() {
    let _alone = alone();
    let mut tpm = new(&MemoryStore::new());
    let identity = provision(&mut *tpm).unwrap();
    for (ek, key) in [(Ek::Rsa, &identity.ek_rsa), (Ek::Ecc, &identity.ek_ecc)] {
        // For the name of the other endorsement key.
        let other = make_credential(key, &identity.ek_ecc.name(), b"secret").unwrap();
        let error = activate(&mut *tpm, ek, &other.blob, &other.secret).unwrap_err();
        assert!(
            matches!(error, ProvisionError::Refused { command: "TPM2_ActivateCredential", .. }),
            "{error}"
        );
        let good = make_credential(key, &identity.ak.name(), b"secret").unwrap();
        for (blob, secret) in [
            (&good.blob[..good.blob.len() - 1], good.secret.as_slice()),
            (&good.blob, &good.secret[..good.secret.len() - 1]),
            (&[], &good.secret),
            (&good.blob, &[]),
            (&[0; 5000], &good.secret),
        ] {
            assert!(activate(&mut *tpm, ek, blob, secret).is_err());
        }
        // None of that has left a session or a key behind.
        assert_eq!(activate(&mut *tpm, ek, &good.blob, &good.secret).unwrap().as_slice(), b"secret");
    }
}

#[test]
fn a_tpm_that_is_off_or_not_started_is_an_error() {
    let _alone = alone();
    let mut tpm = in_process(MemoryStore::new());
    assert!(matches!(provision(&mut *tpm), Err(ProvisionError::Engine(_))));
    tpm.power_on().unwrap();
    let error = provision(&mut *tpm).unwrap_err().to_string();
    assert!(
        error.starts_with("provision-refused: TPM2_CreatePrimary: ") && error.contains("0x100"),
        "{error}"
    );
}

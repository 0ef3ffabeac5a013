// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::list::{OWNER, SHA256, X509, X509_SHA256, single};
use crate::samples::{EC, RSA};
use crate::source::{SourceError, lists};

fn certificate() -> Vec<u8> {
    lists(RSA.as_bytes()).unwrap()
}

fn digest(byte: u8) -> Vec<u8> {
    single(&SHA256, &[byte; 32])
}

fn keys() -> Keys {
    let own = certificate();
    Keys::new([own.clone(), own.clone(), [own, digest(1)].concat(), [digest(2), digest(3)].concat()]).unwrap()
}

#[test]
fn a_key_file_gives_the_same_keys_and_only_its_own_bytes() {
    let file = keys().to_bytes();
    assert_eq!(Keys::parse(&file).unwrap(), keys());
    assert_eq!(&file[..16], [&MAGIC[..], &(file.len() as u32 - 16).to_le_bytes(), &[1, 0, 0, 0]].concat());
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1;
        // Content of certificates may change, form may not.
        if let Ok(other) = Keys::parse(&changed) {
            assert!(other != keys() && other.to_bytes() == changed, "{at:#x}");
        }
        assert!(Keys::parse(&file[..at]).is_err(), "{at:#x}");
    }
    assert!(Keys::parse(&[&file[..], &[0; 8]].concat()).is_err());
}

#[test]
fn keys_that_the_firmware_would_not_use_are_refused() {
    let own = certificate();
    let refused = |pk: &[u8], kek: &[u8], db: &[u8], dbx: &[u8]| {
        Keys::new([pk, kek, db, dbx].map(<[u8]>::to_vec)).unwrap_err().to_string()
    };
    let two = [own.clone(), own.clone()].concat();
    assert_eq!(refused(&[], &own, &own, &[]), "PK is empty: without a platform key Secure Boot is off");
    assert_eq!(refused(&two, &own, &own, &[]), "PK has 2 entries; it must be one certificate");
    assert_eq!(refused(&digest(0), &own, &own, &[]), "entry 1 of PK is not a certificate");
    assert_eq!(refused(&own, &digest(0), &own, &[]), "entry 1 of KEK is not a certificate");
    assert_eq!(refused(&own, &own, &[], &[]), "db is empty: nothing could boot");
    let revoked = single(&X509_SHA256, &[0; 48]);
    assert_eq!(refused(&own, &own, &revoked, &[]), "entry 1 of db is not a certificate");
    assert_eq!(Keys::new([own.clone(), vec![], own.clone(), revoked]).map(drop), Ok(()));
    let nonsense = single(&X509, b"not a certificate");
    assert!(
        refused(&own, &own, &nonsense, &[]).starts_with("entry 1 of db is not an X.509 certificate in DER: ")
    );
    assert!(refused(&own, &own, &own, &own[1..]).starts_with("dbx: the signature list at offset 0x0"));
    let unknown = single(&[7; 16], &[0; 32]);
    assert!(refused(&own, &own, &own, &unknown).contains("a type that the firmware does not use"));
}

#[test]
fn sizes_are_limited() {
    let own = certificate();
    let digests = |count: usize| {
        let mut list = SHA256.to_vec();
        for word in [28 + 48 * count, 0, 48] {
            list.extend((word as u32).to_le_bytes());
        }
        list.extend([&OWNER[..], &[5; 32]].concat().repeat(count));
        list
    };
    let most = digests((MAX_VARIABLE - 28) / 48);
    let with = |db: Vec<u8>, dbx: Vec<u8>| Keys::new([own.clone(), own.clone(), db, dbx]);
    let large = with(own.clone(), most.clone()).unwrap();
    assert!(large.to_bytes().len() <= MAX_FILE);
    assert_eq!(Keys::parse(&large.to_bytes()).unwrap(), large);
    assert!(matches!(with(own.clone(), digests(1366)), Err(KeysError::Length(Variable::Dbx, _))));
    assert!(matches!(with(most.clone(), most), Err(KeysError::Total(_))));
}

#[test]
fn files_are_recognised_by_their_content() {
    let list = certificate();
    let der = &list[44..];
    assert_eq!(lists(der).unwrap(), list);
    assert_eq!(lists(&list).unwrap(), list);
    let text = format!("Certificate:\n{RSA}\n{RSA}");
    assert_eq!(lists(text.as_bytes()).unwrap(), list.repeat(2));
    // EFI_TIME, WIN_CERTIFICATE_UEFI_GUID with four bytes of signature.
    let mut auth = vec![0xe8, 7, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    auth.extend([28, 0, 0, 0, 0, 2, 0xf1, 0x0e]);
    auth.extend([
        0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7,
    ]);
    auth.extend([1, 2, 3, 4]);
    auth.extend(&list);
    assert_eq!(lists(&auth).unwrap(), list);
    let digests = [digest(1), digest(2)].concat();
    assert_eq!(lists(&digests).unwrap(), digests);

    for junk in
        [&b""[..], b"junk", &[0; 64], &auth[..40], b"root:x:0:0:root:/root:/bin/bash\nmore of that file"]
    {
        assert_eq!(lists(junk), Err(SourceError::Format), "{junk:?}");
    }
    assert_eq!(
        lists(&der[..der.len() - 1]).unwrap_err().to_string().split(": ").next(),
        Some("certificate 1")
    );
    assert!(matches!(lists(b"-----BEGIN CERTIFICATE-----\nAAAA"), Err(SourceError::Pem(_))));
    assert_eq!(
        lists(EC.as_bytes()),
        Err(SourceError::Certificate { number: 1, error: CertificateError::Algorithm })
    );
    assert_eq!(lists(&vec![0; (256 << 10) + 1]), Err(SourceError::Length));
}

#[test]
fn certificates_have_a_subject_and_an_end() {
    let keys = keys();
    let all: Vec<_> = keys.certificates(Variable::Db).collect();
    let [certificate] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(certificate.subject, "CN=test");
    assert!(!certificate.expired(certificate.not_after) && certificate.expired(certificate.not_after + 1));
    assert_eq!(keys.certificates(Variable::Dbx).count(), 0);
}

#[test]
fn presets_are_named_by_digest() {
    use crate::preset::microsoft;
    assert!(microsoft(Variable::Pk).is_empty() && microsoft(Variable::Dbx).is_empty());
    let file = microsoft(Variable::Db)[1];
    assert_eq!((file.sha256[0], file.sha256[31]), (0xf6, 0x01));
    assert!(!file.is(b"another certificate"));
}

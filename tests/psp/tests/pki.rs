// SPDX-License-Identifier: Apache-2.0
//! The test PKI as files: what `cvmm-psp-pki` writes, that secrets are private, that what exists is kept, and
//! that the certificates have the form of AMD's.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use common::verify::{Kind, chain, der};
use cvmm_psp::Pki;
use cvmm_test_support::psp::keys_folder;
use x509_cert::Certificate;
use x509_cert::der::Encode as _;

fn tool(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm-psp-pki"));
    command.arg("--out").arg(folder).args(arguments).output().unwrap()
}

fn made(folder: &Path, arguments: &[&str]) -> String {
    let out = tool(folder, arguments);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// All files below a folder: path, mode, content.
fn files(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = path.metadata().unwrap().permissions().mode() & 0o777;
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                all.insert(name, (mode, std::fs::read(path).unwrap()));
            }
        }
    }
    all
}

#[test]
fn a_folder_with_other_files_is_refused() {
    for name in ["certs/ark.pem", "crl-revoked.der", "keys/chip.hex", "keys", "notes.txt"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "a file of the user").unwrap();
        let before = files(folder.path());
        let out = tool(folder.path(), &["--revoke", "ask"]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(&format!("{} holds other files", folder.path().display())), "{name}: {said}");
        assert_eq!(files(folder.path()), before, "{name}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = tool(file.path(), &[]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && said.contains("Not a directory"), "{said}");
}

#[test]
fn the_folder_is_what_verifiers_look_for() {
    let folder = keys_folder();
    let hwid = made(folder.path(), &["--tcb", "4,0,22,213"]);
    assert_eq!(hwid.len(), 128);
    let first = files(folder.path());
    let expected = [
        "certs/ark.pem",
        "certs/ark.der",
        "certs/ask.pem",
        "certs/ask.der",
        "certs/vcek.pem",
        "certs/vcek.der",
        "certs/crl.der",
        "certs-vlek/ark.pem",
        "certs-vlek/asvk.der",
        "certs-vlek/vlek.der",
        "certs-vlek/crl.der",
        "vcek/v1/Milan/cert_chain",
        "vcek/v1/Milan/crl",
        "vlek/v1/Milan/cert_chain",
        "vlek/v1/Milan/crl",
        "vlek/Milan/bl04_tee00_snp22_ucode213_vlek.der",
        "vlek-hashstick.bin",
    ];
    let by_chip = format!("vcek/{hwid}/bl04_tee00_snp22_ucode213_vcek.der");
    for name in expected.iter().copied().chain([by_chip.as_str()]) {
        assert!(first.contains_key(name), "{name} of {:?}", first.keys());
    }
    assert_eq!(first[&by_chip].1, first["certs/vcek.der"].1);
    assert!(first.keys().all(|name| !name.contains(".new")), "no half-written file is left");
    for (name, (mode, _)) in &first {
        assert_eq!(*mode, if name.starts_with("keys/") { 0o600 } else { 0o644 }, "{name}");
    }

    // Again: the same keys and certificates. Another TCB: another VCEK beside the first.
    assert_eq!(made(folder.path(), &[]), hwid);
    let mut second = files(folder.path());
    second.insert("vlek-hashstick.bin".to_owned(), first["vlek-hashstick.bin"].clone());
    assert!(first == second, "only the wrapping of the hashstick is new");
    made(folder.path(), &["--tcb", "3,0,20,209"]);
    let third = files(folder.path());
    assert_eq!(third[&by_chip], first[&by_chip]);
    assert_ne!(third["certs/vcek.der"], first["certs/vcek.der"]);
    assert_eq!(third["certs/ask.der"], first["certs/ask.der"]);
    // Without the keys of this folder it is another PKI; with them one can sign.
    assert!(third.iter().filter(|(name, _)| !name.starts_with("keys/")).all(|(_, (_, bytes))| {
        let text = String::from_utf8_lossy(bytes);
        !text.contains("PRIVATE")
    }));
}

#[test]
fn fresh_secrets_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("made/keys");
    Pki::open(&folder.path().join("made")).unwrap().chip_secret().unwrap();
    assert_eq!(keys.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let all = files(&keys);
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(names, ["ark.pk8", "ask.pk8", "asvk.pk8", "chip.hex", "vlek.hex"]);
    assert!(all.values().all(|(mode, _)| *mode == 0o600));
}

#[test]
fn complaints_name_what_is_wrong() {
    let folder = keys_folder();
    for (arguments, word) in [
        (&["--tcb", "1,2,3"][..], "milan and genoa need 4"),
        (&["--product", "turin", "--tcb", "1,2,3,4"], "turin 5"),
        (&["--product", "rome"], "rome"),
        (&["--tcb", "1,2,3,256"], "256"),
    ] {
        let out = tool(folder.path(), arguments);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(word), "{arguments:?}: {text}");
    }
    for (name, content) in [("keys/chip.hex", &b"00ff"[..]), ("keys/ark.pk8", b"not a key")] {
        std::fs::write(folder.path().join(name), content).unwrap();
        let out = tool(folder.path(), &[]);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(name), "{text}");
    }
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let out = tool(&file, &[]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("file"));
}

#[test]
fn a_list_of_revoked_authorities_can_be_had() {
    let folder = keys_folder();
    made(folder.path(), &["--revoke", "asvk"]);
    let list = std::fs::read(folder.path().join("crl-revoked.der")).unwrap();
    let (vcek, vlek) = (chain(folder.path(), Kind::Vcek), chain(folder.path(), Kind::Vlek));
    let [ark, ask, asvk] = [&vcek.ca.ark, &vcek.ca.ask, &vlek.ca.ask].map(der);
    assert_eq!(common::verify::revoked(&list, &ark, &asvk), Ok(true));
    assert_eq!(common::verify::revoked(&list, &ark, &ask), Ok(false));
}

fn common_name(name: &x509_cert::name::Name) -> String {
    name.to_string().split(',').find_map(|part| part.trim().strip_prefix("CN=").map(str::to_owned)).unwrap()
}

fn extension(certificate: &Certificate, oid: &str) -> Option<(bool, Vec<u8>)> {
    let extensions = certificate.tbs_certificate.extensions.as_ref().unwrap();
    let found = extensions.iter().find(|extension| extension.extn_id.to_string() == oid);
    found.map(|extension| (extension.critical, extension.extn_value.as_bytes().to_vec()))
}

/// AMD's profile: names, serial numbers, algorithms, key sizes, constraints, lifetimes.
#[test]
fn certificates_have_the_form_of_amds() {
    const BASIC: &str = "2.5.29.19";
    const USAGE: &str = "2.5.29.15";
    const POINTS: &str = "2.5.29.31";
    let folder = keys_folder();
    for (product, line, base) in [("milan", "Milan", 1_u8), ("genoa", "Genoa", 2), ("turin", "Turin", 3)] {
        made(folder.path(), &["--product", product]);
        let (vcek, vlek) = (chain(folder.path(), Kind::Vcek), chain(folder.path(), Kind::Vlek));
        let ask_serial = [base, 0, if product == "genoa" { 2 } else { 1 }];
        let (ark_name, ask_name, asvk_name) =
            (format!("ARK-{line}"), format!("SEV-{line}"), format!("SEV-VLEK-{line}"));
        for (certificate, subject, issuer, serial, years) in [
            (&vcek.ca.ark, ark_name.as_str(), ark_name.as_str(), &[base, 0, 0][..], 23),
            (&vcek.ca.ask, &ask_name, &ark_name, &ask_serial, 23),
            (&vlek.ca.ask, &asvk_name, &ark_name, &[base, 1, 1], 23),
            (&vcek.vek, "SEV-VCEK", &ask_name, &[0], 7),
            (&vlek.vek, "SEV-VLEK", &asvk_name, &[0], 1),
        ] {
            let certificate = der(certificate);
            let tbs = &certificate.tbs_certificate;
            assert_eq!(
                (common_name(&tbs.subject), common_name(&tbs.issuer)),
                (subject.to_owned(), issuer.to_owned())
            );
            assert_eq!(tbs.serial_number.as_bytes(), serial, "{subject}");
            assert_eq!(tbs.version, x509_cert::Version::V3);
            // RSASSA-PSS; SHA-384 twice (digest and mask); salt 48.
            assert_eq!(certificate.signature_algorithm, tbs.signature);
            assert_eq!(tbs.signature.oid.to_string(), "1.2.840.113549.1.1.10");
            let parameters = tbs.signature.parameters.as_ref().unwrap().to_der().unwrap();
            let sha384 = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
            assert_eq!(parameters.windows(9).filter(|part| *part == sha384).count(), 2);
            assert!(parameters.windows(5).any(|part| part == [0xA2, 3, 2, 1, 48]));
            assert_eq!(certificate.signature.raw_bytes().len(), 512);
            let key = tbs.subject_public_key_info.subject_public_key.raw_bytes();
            let lifetime =
                tbs.validity.not_after.to_unix_duration() - tbs.validity.not_before.to_unix_duration();
            assert!(lifetime.as_secs() / (365 * 86_400) >= years, "{subject}: {lifetime:?}");
            if serial == [0] {
                let algorithm = &tbs.subject_public_key_info.algorithm;
                assert_eq!(algorithm.oid.to_string(), "1.2.840.10045.2.1");
                // secp384r1, uncompressed point.
                assert_eq!(algorithm.parameters.as_ref().unwrap().value(), [0x2B, 0x81, 0x04, 0x00, 0x22]);
                assert_eq!((key.len(), key[0]), (97, 4));
                for oid in [BASIC, USAGE, POINTS] {
                    assert_eq!(extension(&certificate, oid), None, "{subject}");
                }
            } else {
                // 512 bytes of modulus, the exponent and their framing.
                assert_eq!(key.len(), 526, "{subject}");
                assert!(
                    extension(&certificate, BASIC).unwrap().0 && extension(&certificate, USAGE).unwrap().0
                );
                let service = if subject == asvk_name { "vlek" } else { "vcek" };
                let points = extension(&certificate, POINTS).unwrap().1;
                let url = format!("/{service}/v1/{line}/crl");
                assert!(points.windows(url.len()).any(|part| part == url.as_bytes()));
            }
        }
    }
}

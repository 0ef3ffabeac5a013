// SPDX-License-Identifier: Apache-2.0
//! Appraisal of reports of real chips.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use cvmm_appraise::{FileError, Files, Requirements, Verdict, appraise};
use cvmm_attest::roots::Trust;
use cvmm_policy::Policy;
use cvmm_test_support::attest::NOW;
use cvmm_test_support::{artefacts, suite};

/// Bytes before the report in a security processor's message.
const HEADER: usize = 32;

fn codes(verdict: &Verdict) -> Vec<&str> {
    verdict.reasons.iter().map(|reason| &*reason.code).collect()
}

fn a_real_report_is_verified_and_shown() -> suite::Result {
    let folder = artefacts::vectors()?;
    let trust = Trust::amd().unwrap();
    let file = |name: &str| folder.join("tav-milan").join(name);
    let mut requirements = Requirements {
        trust: &trust,
        now: NOW,
        require_crl: false,
        masked_chip: false,
        policy: None,
        report_data: None,
    };
    let mut files = Files { report: file("report.bin"), vek: Some(file("vek.der")), ..Files::default() };
    let verdict = appraise(&files, &requirements).unwrap();
    assert!(verdict.believed && verdict.accepted && verdict.reasons.is_empty());
    let raw = fs::read(file("report.bin")).unwrap();
    let lines = verdict.lines();
    assert_eq!(lines[0], "verified");
    for bytes in [&raw[0x90..0xc0], &raw[0x50..0x90], &raw[0xc0..0xe0], &raw[0x140..0x160]] {
        assert!(lines.iter().any(|line| line.contains(&hex::encode(bytes))), "{lines:?}");
    }
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!(json["claims"]["measurement"], hex::encode(&raw[0x90..0xc0]));
    assert_eq!(json["accepted"], true);

    // The same as the security processor's whole message, with the certificate in PEM, or in a table.
    let own = tempfile::tempdir().unwrap();
    let made = |name: &str, bytes: &[u8]| {
        let path = own.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let vek = fs::read(file("vek.der")).unwrap();
    let pem = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &vek).unwrap();
    files.report = made("message", &[&[0; HEADER], &raw[..]].concat());
    files.vek = Some(made("vek.pem", pem.as_bytes()));
    assert!(appraise(&files, &requirements).unwrap().accepted);
    let guid =
        [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
    let entry = [&guid[..], &48_u32.to_le_bytes(), &(vek.len() as u32).to_le_bytes(), &[0; 24]].concat();
    files.table = Some(made("table", &[entry, vek.clone()].concat()));
    files.vek = None;
    assert!(appraise(&files, &requirements).unwrap().accepted);

    // Verified, and not what was asked for.
    requirements.report_data = Some([1; 64]);
    let verdict = appraise(&files, &requirements).unwrap();
    assert_eq!(
        (verdict.believed, verdict.accepted, codes(&verdict)),
        (true, false, vec!["policy.report-data"])
    );
    assert!(verdict.lines()[0].contains("not accepted"));
    requirements.report_data = Some(raw[0x50..0x90].try_into().unwrap());
    assert!(appraise(&files, &requirements).unwrap().accepted);

    // Not verified.
    requirements.require_crl = true;
    assert_eq!(codes(&appraise(&files, &requirements).unwrap()), ["crl.missing"]);
    requirements.require_crl = false;
    files.table = None;
    assert_eq!(codes(&appraise(&files, &requirements).unwrap()), ["vek.missing"]);
    files.vek = Some(made("vek.der", &vek));
    let mut forged = raw.clone();
    forged[0x90] ^= 1;
    files.report = made("forged", &forged);
    let verdict = appraise(&files, &requirements).unwrap();
    assert_eq!((verdict.believed, codes(&verdict)), (false, vec!["report.signature"]));
    assert_eq!(serde_json::to_value(&verdict).unwrap()["claims"], serde_json::Value::Null);

    // Files that are something else.
    files.vek = Some(made("key.pem", pem.replace("CERTIFICATE", "PRIVATE KEY").as_bytes()));
    assert!(appraise(&files, &requirements).unwrap_err().to_string().contains("PRIVATE KEY"));
    files.vek = Some(own.path().join("nothing"));
    appraise(&files, &requirements).unwrap_err();
    files.vek = Some(made("huge", &vec![0; 1 << 20]));
    appraise(&files, &requirements).unwrap_err();
    Ok(())
}

/// A report, and its certificate in DER and in PEM, of a chip with the test PKI's authorities or AMD's.
fn real(folder: &Path) -> (PathBuf, Vec<u8>, String) {
    let vek = fs::read(folder.join("tav-milan/vek.der")).unwrap();
    let pem = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &vek).unwrap();
    (folder.join("tav-milan/report.bin"), vek, pem)
}

fn requirements(trust: &Trust) -> Requirements<'_> {
    Requirements { trust, now: NOW, require_crl: false, masked_chip: false, policy: None, report_data: None }
}

fn certificates_are_read_as_tools_write_them() -> suite::Result {
    let folder = artefacts::vectors()?;
    let trust = Trust::amd().unwrap();
    let (report, vek, pem) = real(&folder);
    let own = tempfile::tempdir().unwrap();
    let made = |bytes: &[u8]| {
        let path = own.path().join("file");
        fs::write(&path, bytes).unwrap();
        path
    };
    let appraised = |vek, table| {
        appraise(&Files { report: report.clone(), vek, table, crl: None }, &requirements(&trust))
    };
    let other = fs::read(folder.join("tav-genoa/vek.der")).unwrap();
    let other = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &other).unwrap();
    let joined: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    for good in [
        format!("Certificate:\n    Data:\n        Version: 3 (0x2)\n{pem}"),
        format!("\u{feff}{pem}"),
        format!("\n{pem}"),
        pem.replace('\n', "\r\n"),
        // Another chip's first, and a chain.
        format!("{other}{pem}"),
        format!("{pem}{other}{other}"),
        format!("-----BEGIN CERTIFICATE-----\n{joined}\n-----END CERTIFICATE-----\n"),
    ] {
        let verdict = appraised(Some(made(good.as_bytes())), None).unwrap();
        assert!(verdict.accepted, "{good}: {:?}", verdict.reasons);
    }
    // What cannot be read is not a verdict, and ends with 2 at the command line.
    let text = fs::read(&report).unwrap();
    for bad in [
        &b""[..],
        b"hello",
        joined.as_bytes(),
        &vek[..vek.len() - 1],
        &text,
        &pem.as_bytes()[..pem.len() / 2],
    ] {
        let error = appraised(Some(made(bad)), None).unwrap_err();
        assert!(matches!(error, FileError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains("file: "), "{error}");
    }
    // In a table too: a real host has PEM there.
    let guid =
        [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];
    let table = |content: &[u8]| {
        let len = (content.len() as u32).to_le_bytes();
        made(&[&guid[..], &48_u32.to_le_bytes(), &len, &[0; 24], content].concat())
    };
    for good in [&vek[..], pem.as_bytes(), format!("{other}{pem}").as_bytes()] {
        assert!(appraised(None, Some(table(good))).unwrap().accepted);
    }
    for bad in [&b"hello"[..], &vek[..100], pem.replace("MII", "M?I").as_bytes()] {
        assert!(matches!(appraised(None, Some(table(bad))).unwrap_err(), FileError::Invalid(_)));
    }
    // A report that is none, and a list that is none.
    let short = Files { report: made(&text[..1183]), ..Files::default() };
    assert!(appraise(&short, &requirements(&trust)).unwrap_err().to_string().contains("1183 bytes"));
    let crl = Files { report: report.clone(), crl: Some(made(&vek)), ..Files::default() };
    appraise(&crl, &requirements(&trust)).unwrap_err();
    Ok(())
}

fn without_a_certificate_a_report_is_neither_verified_nor_refused() -> suite::Result {
    let folder = artefacts::vectors()?;
    let trust = Trust::amd().unwrap();
    for (vector, product, url) in [
        ("tav-milan", "milan", "https://kdsintf.amd.com/vcek/v1/Milan/"),
        ("oak-turin-oc", "turin", "https://kdsintf.amd.com/vcek/v1/Turin/"),
        ("trustee-milan-vlek", "milan", "https://kdsintf.amd.com/vlek/v1/Milan/cert?"),
    ] {
        let report = folder.join(vector).join("report.bin");
        let raw = fs::read(&report).unwrap();
        let verdict = appraise(&Files { report, ..Files::default() }, &requirements(&trust)).unwrap();
        assert_eq!(
            (verdict.believed, verdict.accepted, codes(&verdict)),
            (false, false, vec!["vek.missing"])
        );
        assert!(verdict.unverified.is_some());
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!(json["claims"], serde_json::Value::Null);
        let unverified = &json["unverified"];
        assert!(
            unverified["products"].as_array().unwrap().contains(&product.into()),
            "{vector}: {unverified}"
        );
        assert_eq!(unverified["claims"]["measurement"], hex::encode(&raw[0x90..0xc0]));
        assert!(unverified["claims"]["reported_tcb"]["snp"].is_u64());
        let found = unverified["downloads"].as_array().unwrap();
        assert!(
            found.iter().any(|download| download["url"].as_str().unwrap().starts_with(url)),
            "{vector}: {found:?}"
        );
        let text = verdict.lines().join("\n");
        assert!(
            text.starts_with("no verdict") && text.contains(url) && text.contains("unverified content"),
            "{text}"
        );
        assert!(text.contains(&hex::encode(&raw[0x90..0xc0])), "{text}");
    }
    // A version that is not known says nothing.
    let own = tempfile::tempdir().unwrap();
    let mut raw = fs::read(folder.join("tav-milan/report.bin")).unwrap();
    raw[0] = 9;
    fs::write(own.path().join("report"), raw).unwrap();
    let verdict =
        appraise(&Files { report: own.path().join("report"), ..Files::default() }, &requirements(&trust))
            .unwrap();
    assert_eq!((codes(&verdict), verdict.unverified.is_none()), (vec!["report.version"], true));
    Ok(())
}

fn a_policy_appraises_verified_claims() -> suite::Result {
    let folder = artefacts::vectors()?;
    let trust = Trust::amd().unwrap();
    let file = |name: &str| folder.join("tav-milan").join(name);
    let files = Files { report: file("report.bin"), vek: Some(file("vek.der")), ..Files::default() };
    let verdict = |text: &str| {
        let policy = Policy::parse(text).unwrap();
        let requirements = Requirements {
            trust: &trust,
            now: NOW,
            require_crl: false,
            masked_chip: false,
            policy: Some(&policy),
            report_data: None,
        };
        appraise(&files, &requirements).unwrap()
    };
    let policy = "id = \"p\"\nversion = 1\nunsafe_any_measurement = true\n[guest]\nmax_vmpl = 3\n[platform]\n\
        products = [\"milan\"]\ncrl = \"if-present\"\nallow_provisional = true\n[platform.min_tcb.milan]\n\
        bootloader = 0\ntee = 0\nsnp = 0\nmicrocode = 0\n";
    assert_eq!(verdict(policy).reasons, []);
    let strict = policy.replace("snp = 0", "snp = 255");
    let refused = verdict(&strict);
    assert!(refused.believed && !refused.accepted && codes(&refused).contains(&"policy.min-tcb"));
    // The policy's word on lists counts before any other.
    let verdict = verdict(&policy.replace("crl = \"if-present\"\n", ""));
    assert_eq!((verdict.believed, codes(&verdict)), (false, vec!["crl.missing"]));
    Ok(())
}

suite!(
    a_real_report_is_verified_and_shown,
    certificates_are_read_as_tools_write_them,
    without_a_certificate_a_report_is_neither_verified_nor_refused,
    a_policy_appraises_verified_claims,
);

// SPDX-License-Identifier: Apache-2.0
//! Evidence that the benchmark makes itself, in the layout of the published vectors.

use std::fs;
use std::path::Path;

use serde_json::json;

use cvmm_test_support::attest::forged::{CertificateParts, ForgedChain, Signer, entry, pss};
use cvmm_test_support::der::{INTEGER, name, seq, tlv, utc};

/// One change of a report before it is signed.
type ReportChange = fn(&mut [u8]);
/// One change of its certificate before that is signed.
type VekChange = fn(&mut CertificateParts);

fn same(_: &mut [u8]) {}
fn right(_: &mut CertificateParts) {}

/// Writes a PKI and vectors below `folder`.
pub fn make(folder: &Path) {
    let chain = ForgedChain::new();
    let roots = folder.join("synth/roots");
    fs::create_dir_all(&roots).unwrap();
    fs::write(roots.join("milan_ark.der"), &chain.ark).unwrap();
    fs::write(roots.join("milan_ask.der"), &chain.intermediate).unwrap();
    let mut list = Vec::new();
    let mut add = |id: &str, expected: &str, report: &[u8], vek: &[u8], crl: Option<&[u8]>| {
        let own = folder.join("synth").join(id);
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("report.bin"), report).unwrap();
        fs::write(own.join("vek.der"), vek).unwrap();
        if let Some(crl) = crl {
            fs::write(own.join("crl.der"), crl).unwrap();
        }
        list.push(json!({ "id": format!("synth/{id}"), "expected": expected }));
    };
    let (report, vek) = (chain.report(same), chain.vek(right));
    let crl = chain.crl(Signer::Root, |_| {});
    add("ok-milan-v3", "allow", &report, &vek, None);
    add("ok-milan-v3-crl", "allow", &report, &vek, Some(&crl));
    let v5 = chain.report(|report| report[0] = 5);
    add("ok-milan-v5", "allow", &v5, &vek, None);
    let octets = chain.vek(|parts| parts.set(&[4], &tlv(4, &[7; 64])));
    add("ok-milan-octets", "allow", &report, &octets, None);

    let formats: [(&str, ReportChange); 9] = [
        ("fmt-version-1", |report| report[0] = 1),
        ("fmt-version-6", |report| report[0] = 6),
        ("fmt-reserved", |report| report[0x4c] = 1),
        ("fmt-reserved-end", |report| report[0x29f] = 1),
        ("fmt-algorithm", |report| report[0x34] = 2),
        ("fmt-key-info", |report| report[0x48] = 0x20),
        ("fmt-policy", |report| report[10] = 0),
        ("fmt-vmpl", |report| report[0x30] = 4),
        ("fmt-author-key", |report| report[0x48] = 1),
    ];
    for (id, change) in formats {
        add(id, "deny", &chain.report(change), &vek, None);
    }
    add("fmt-short", "deny", &report[..1183], &vek, None);
    // Changed after it was signed: what it says, and the signature itself.
    for (id, at) in [
        ("sig-measurement", 0x90),
        ("sig-report-data", 0x50),
        ("sig-r", 0x2a0),
        ("sig-s", 0x2e8),
        ("sig-high", 0x2a0 + 48),
        ("sig-rest", 1183),
    ] {
        let mut changed = report.clone();
        changed[at] ^= 1;
        add(id, "deny", &changed, &vek, None);
    }
    let chains: [(&str, VekChange); 9] = [
        ("ch-expired", |parts| parts.validity = seq(&[&utc("200101000000Z"), &utc("260101000000Z")])),
        ("ch-not-yet", |parts| parts.validity = seq(&[&utc("270101000000Z"), &utc("330101000000Z")])),
        ("ch-issuer", |parts| parts.issuer = name("SEV-Genoa")),
        ("ch-subject", |parts| parts.subject = name("SEV-VLEK")),
        ("ch-salt", |parts| (parts.inner, parts.outer) = (pss(32), pss(32))),
        ("ch-tcb", |parts| parts.set(&[3, 3], &[INTEGER, 1, 21])),
        ("ch-chip", |parts| parts.set(&[4], &[8; 64])),
        ("ch-no-chip", |parts| parts.remove(&[4])),
        ("ch-product", |parts| parts.set(&[2], &tlv(0x16, b"Genoa-B0"))),
    ];
    for (id, change) in chains {
        add(id, "deny", &report, &chain.vek(change), None);
    }
    // Another authority of the same name, and the root in its place.
    let other = ForgedChain::new();
    add("ch-other-authority", "deny", &report, &other.vek(right), None);
    add("ch-by-root", "deny", &report, &chain.sign(&chain.vek_parts(), Signer::Root), None);
    let revoked = chain.crl(Signer::Root, |list| list.revoked.push(entry(&[0], &[])));
    add("crl-revoked", "deny", &report, &vek, Some(&revoked));
    add("crl-other-signer", "deny", &report, &vek, Some(&chain.crl(Signer::Authority, |_| {})));
    let future = chain.crl(Signer::Root, |list| list.this_update = utc("261201000000Z"));
    add("crl-future", "deny", &report, &vek, Some(&future));
    fs::write(folder.join("synth/manifest.json"), json!({ "vectors": list }).to_string()).unwrap();
    fs::write(folder.join("manifest.json"), json!({ "vectors": [] }).to_string()).unwrap();
}

// SPDX-License-Identifier: Apache-2.0
//! What `scripts/bench attest` compares with other verifiers: verdicts on the attestation vectors, and the
//! time for one report.
//!
//! `vectors make FOLDER` makes evidence of its own into a folder, for where there are no published vectors: a
//! PKI like AMD's, and reports signed with its keys, good ones and ones with one thing wrong. `vectors
//! verdicts` prints a line of JSON for each vector of CVMM_VECTORS: its class, what is expected, what came
//! out. `vectors time REPORT VEK ROUNDS` prints the nanoseconds of each round: everything from the bytes to
//! the claims, and with the policy's judgement.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic)] // A benchmark.

mod made;

use std::path::{Path, PathBuf};
use std::time::Instant;

use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};
use cvmm_policy::Expected;
use cvmm_test_support::artefacts;
use cvmm_test_support::attest::vectors::{Vector, check, trust, vectors};
use cvmm_test_support::attest::{NOW, clauses};

const QUARTER: i64 = 90 * 86_400;

/// Valid when it was made and expired at the time of the verdicts: judged inside of its time.
fn time(vector: &Vector, trust: &Trust) -> i64 {
    if !vector.expected.contains("expired at") {
        return NOW;
    }
    (0..12).map(|quarter| NOW - quarter * QUARTER).find(|at| check(vector, trust, *at).is_ok()).unwrap_or(NOW)
}

/// The code of a refusal, or nothing.
fn refusal(vector: &Vector, trust: &Trust, data: &[u8; 64], digest: &str) -> Option<String> {
    let claims = match check(vector, trust, time(vector, trust)) {
        Ok(claims) => claims,
        Err(refusal) => return Some(refusal.code().to_owned()),
    };
    let mut expected = Expected { report_data: None, host_data: None, measurement: None, id_key: None };
    let clause = vector.policy.as_str();
    if clause == Some("report_data") {
        expected.report_data = Some(data);
    }
    let policy = clause.map_or_else(clauses::lenient, |clause| clauses::strict(clause, digest));
    policy.appraise_claims(&claims, &expected, NOW).first().map(|reason| reason.code.to_string())
}

fn verdicts() {
    let folder = artefacts::vectors().unwrap();
    let (amd, made) = (trust(&folder, false), trust(&folder, true));
    let all = vectors(&folder);
    let good = all.iter().find(|vector| vector.id == "synth/ok-milan-v3").expect("a good made vector");
    let good = check(good, &made, NOW).unwrap();
    for vector in &all {
        let allowed = vector.expected.starts_with("valid") || vector.expected == "allow";
        let class = match vector.id.split_once('/') {
            _ if allowed => "valid",
            None => "published",
            Some(("derived", _)) => "derived",
            Some((_, name)) => match name.split('-').next() {
                Some("fmt") => "format",
                Some("sig") => "signature",
                Some("ch") => "chain",
                Some("crl") => "crl",
                Some("pol") => "policy",
                other => panic!("unknown class: {other:?}"),
            },
        };
        let trust = if vector.synthetic { &made } else { &amd };
        let code = refusal(vector, trust, &good.report_data, &good.measurement.to_string());
        let line = serde_json::json!({
            "id": vector.id, "class": class, "made": vector.synthetic, "allowed": allowed, "refusal": code,
        });
        println!("{line}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", folder] => made::make(Path::new(folder)),
        ["verdicts"] => verdicts(),
        ["time", report, vek, rounds] => {
            let (report, vek) = (std::fs::read(report).unwrap(), std::fs::read(vek).unwrap());
            // A folder of our own has no real report: its authorities are the made ones.
            let own = std::env::var_os("CVMM_VECTORS")
                .map(PathBuf::from)
                .filter(|own| !own.join("tav-milan").exists());
            let trust = own.map_or_else(|| Trust::amd().unwrap(), |own| trust(&own, true));
            let policy = clauses::lenient();
            let evidence = Evidence { report: &report, vek: Some(&vek), intermediate: None, crl: None };
            let options = Options { now: NOW, crl: CrlUse::IfPresent, masked_chip: false };
            let nothing = Expected { report_data: None, host_data: None, measurement: None, id_key: None };
            for _ in 0..rounds.parse().unwrap() {
                let began = Instant::now();
                let claims = verify(&evidence, &trust, &options).unwrap();
                let verified = began.elapsed().as_nanos();
                assert!(policy.appraise_claims(&claims, &nothing, NOW).is_empty());
                println!("{verified} {}", began.elapsed().as_nanos());
            }
        }
        _ => panic!("usage: vectors make FOLDER | verdicts | time REPORT VEK ROUNDS"),
    }
}

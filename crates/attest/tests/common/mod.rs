// SPDX-License-Identifier: Apache-2.0
//! The published vectors: reports of real chips and made ones, with what is expected of them.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)] // Helpers of several test programs.

use std::fs;
use std::path::{Path, PathBuf};

use cvmm_attest::claims::Claims;
use cvmm_attest::refusal::Refusal;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};
use serde_json::Value;

/// 2026-11-23 12:00 UTC, when the vectors' verdicts were given.
pub const THEN: i64 = 1_795_435_200;

/// One report and what belongs to it.
pub struct Vector {
    pub id: String,
    /// As in the manifest.
    pub expected: String,
    pub why: String,
    /// The clause of a `pol-*` vector.
    pub policy: Value,
    pub report: Vec<u8>,
    pub vek: Option<Vec<u8>>,
    pub crl: Option<Vec<u8>>,
    pub made: bool,
}

/// The folder of the vectors, beside the repository or where `CVMM_VECTORS` says. `None`, with a word, without.
pub fn folder() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = std::env::var_os("CVMM_VECTORS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if folder.join("manifest.json").is_file() {
        return Some(folder);
    }
    println!("skipped: no attestation vectors; set CVMM_VECTORS to their folder");
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// All vectors that have a report.
pub fn vectors(folder: &Path) -> Vec<Vector> {
    let lists =
        [(json(&folder.join("manifest.json")), false), (json(&folder.join("synth/manifest.json")), true)];
    let mut found = Vec::new();
    for (list, made) in &lists {
        for entry in list["vectors"].as_array().unwrap() {
            let id = entry["id"].as_str().unwrap();
            let read = |name: &str| fs::read(folder.join(id).join(name)).ok();
            let Some(report) = read("report.bin") else { continue };
            found.push(Vector {
                id: id.to_owned(),
                expected: entry["expected"].as_str().unwrap().to_owned(),
                why: entry["why"].as_str().unwrap_or_default().to_owned(),
                policy: entry["policy"].clone(),
                report,
                vek: read("vek.der"),
                crl: read("crl.der"),
                made: *made,
            });
        }
    }
    // Those that scripts/bench makes itself are fewer.
    let published = found.iter().any(|vector| !vector.made);
    assert!(!found.is_empty() && (!published || found.len() > 80), "only {} vectors", found.len());
    found
}

/// AMD's authorities, or the made ones.
pub fn trust(folder: &Path, made: bool) -> Trust {
    if !made {
        return Trust::amd().unwrap();
    }
    let mut trust = Trust::nobody();
    for line in ["milan", "genoa", "turin"] {
        let read = |name: &str| fs::read(folder.join(format!("synth/roots/{line}_{name}.der")));
        let Ok(ark) = read("ark") else { continue };
        for authority in ["ask", "asvk"] {
            if let Ok(der) = read(authority) {
                trust.unsafe_add_test(&ark, &der).unwrap();
            }
        }
    }
    trust
}

pub fn check(vector: &Vector, trust: &Trust, now: i64) -> Result<Claims, Refusal> {
    let evidence = Evidence {
        report: &vector.report,
        vek: vector.vek.as_deref(),
        intermediate: None,
        crl: vector.crl.as_deref(),
    };
    verify(&evidence, trust, &Options { now, crl: CrlUse::IfPresent, masked_chip: false })
}

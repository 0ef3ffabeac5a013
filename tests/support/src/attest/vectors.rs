// SPDX-License-Identifier: Apache-2.0
//! The published vectors: reports of real chips and synthetic ones, with the expected results.
//! [`artefacts::vectors`] finds their folder.
//!
//! [`artefacts::vectors`]: crate::artefacts::vectors

use std::fs;
use std::path::Path;

use cvmm_attest::claims::Claims;
use cvmm_attest::refusal::Refusal;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};
use serde_json::Value;

/// One report and what belongs to it.
pub struct Vector {
    /// Its name.
    pub id: String,
    /// The expected result, as in the manifest.
    pub expected: String,
    /// Why that is expected.
    pub why: String,
    /// The clause of a `pol-*` vector.
    pub policy: Value,
    /// The report.
    pub report: Vec<u8>,
    /// The certificate of the key that signed it.
    pub vek: Option<Vec<u8>>,
    /// A revocation list.
    pub crl: Option<Vec<u8>>,
    /// Whether it is synthetic.
    pub synthetic: bool,
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// All vectors that have a report.
pub fn vectors(folder: &Path) -> Vec<Vector> {
    let lists =
        [(json(&folder.join("manifest.json")), false), (json(&folder.join("synth/manifest.json")), true)];
    let mut found = Vec::new();
    for (list, synthetic) in &lists {
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
                synthetic: *synthetic,
            });
        }
    }
    // scripts/bench generates fewer.
    let published = found.iter().any(|vector| !vector.synthetic);
    assert!(!found.is_empty() && (!published || found.len() > 80), "only {} vectors", found.len());
    found
}

/// AMD's authorities, or those of the synthetic vectors.
pub fn trust(folder: &Path, synthetic: bool) -> Trust {
    if !synthetic {
        return Trust::amd().unwrap();
    }
    let mut trust = Trust::none();
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

/// The result of verification, with the vector's revocation list if it has one.
///
/// # Errors
///
/// Why the evidence is refused.
pub fn check(vector: &Vector, trust: &Trust, now: i64) -> Result<Claims, Refusal> {
    let evidence = Evidence {
        report: &vector.report,
        vek: vector.vek.as_deref(),
        intermediate: None,
        crl: vector.crl.as_deref(),
    };
    verify(&evidence, trust, &Options { now, crl: CrlUse::IfPresent, masked_chip: false })
}

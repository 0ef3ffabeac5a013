// SPDX-License-Identifier: Apache-2.0
//! Trials of a policy on reports.

use std::fs;
use std::path::{Path, PathBuf};

use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};
use cvmm_policy::{CrlRule, Expected, Policy};
use cvmm_reason::Reason;
use serde::Serialize;

use crate::evidence::{from_table, revocation_list, vek_of};
use crate::file::{FileError, read_start};
use crate::rego::undecided;

/// As much of a report as the verifier needs to refuse what is too long.
const MAX_REPORT: u64 = 4096;
/// File names of the signing key's certificate, of a host's certificate table, and of the revocation list.
const VEK: [&str; 2] = ["vek.der", "vek.pem"];
const TABLE: [&str; 1] = ["certs.bin"];
const CRL: [&str; 2] = ["crl.der", "crl.pem"];
/// Folders within folders that are looked into.
const MAX_DEPTH: usize = 4;
/// Reports in one trial, at most.
const MAX_REPORTS: usize = 10_000;

/// A policy's verdict on one report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its folder.
    pub name: String,
    /// Whether it is verified and the policy accepts it.
    pub admitted: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// Appraises each report below `folder` (`report.bin` with `vek.der`, `vek.pem` or `certs.bin` and, if there
/// is one, `crl.der` or `crl.pem`) at the time `now`. Neither nonce nor HOST_DATA of a launch is known here,
/// so they are not checked. Rego code is not evaluated either, and then nothing is admitted.
///
/// # Errors
/// A file cannot be read or is malformed, or there are no reports or too many.
pub fn trial(policy: &Policy, folder: &Path, trust: &Trust, now: i64) -> Result<Vec<Outcome>, FileError> {
    let mut folders = Vec::new();
    search(folder, 0, &mut folders)?;
    folders.sort();
    let mut outcomes = Vec::new();
    for path in &folders {
        let there = |names: &[&str]| names.iter().map(|name| path.join(name)).find(|file| file.is_file());
        let report = read_start(&path.join("report.bin"), MAX_REPORT)?;
        let vek = match (there(&VEK), there(&TABLE)) {
            (Some(file), _) => Some(vek_of(&file, &report)?),
            (None, Some(file)) => from_table(&file, &report)?,
            (None, None) => None,
        };
        let crl = there(&CRL).as_deref().map(revocation_list).transpose()?;
        let evidence =
            Evidence { report: &report, vek: vek.as_deref(), intermediate: None, crl: crl.as_deref() };
        let options = Options {
            now,
            crl: match policy.platform.crl {
                CrlRule::Require => CrlUse::Require,
                CrlRule::IfPresent => CrlUse::IfPresent,
            },
            masked_chip: policy.platform.allow_masked_chip_id,
        };
        let nothing = Expected { report_data: None, host_data: None, measurement: None, id_key: None };
        let mut reasons = policy.appraise_time(now);
        match verify(&evidence, trust, &options) {
            Ok(claims) => reasons.extend(policy.appraise_claims(&claims, &nothing, now)),
            Err(refusal) => reasons.push(refusal.reason()),
        }
        if reasons.is_empty() {
            reasons.extend(undecided(policy));
        }
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        let name = if name.is_empty() { ".".to_owned() } else { name };
        outcomes.push(Outcome { name, admitted: reasons.is_empty(), reasons });
    }
    if outcomes.is_empty() {
        return Err(FileError::Invalid(format!(
            "there is no report.bin in {} or the folders in it",
            folder.display()
        )));
    }
    Ok(outcomes)
}

/// Finds the folders with a report. Links are not followed.
fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), FileError> {
    let failed = |source| FileError::Read { path: folder.to_owned(), source };
    if folder.join("report.bin").is_file() {
        found.push(folder.to_owned());
    }
    if found.len() > MAX_REPORTS {
        return Err(FileError::Invalid(format!("there are more than {MAX_REPORTS} reports")));
    }
    if depth == MAX_DEPTH {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            search(&entry.path(), depth + 1, found)?;
        }
    }
    Ok(())
}

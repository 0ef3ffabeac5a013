// SPDX-License-Identifier: Apache-2.0
//! A policy tried on reports: what it would say of each.

use std::fs;
use std::path::Path;

use cvmm_attest::policy::{CrlRule, Expected, Policy};
use cvmm_attest::reason::Reason;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};
use serde::Serialize;

use super::{PolicyFileError, read};

const MAX_REPORT: u64 = 4096;
const MAX_CERTIFICATE: u64 = 16 << 10;
const MAX_CRL: u64 = 1 << 20;

/// What a policy says of one report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Its folder.
    pub name: String,
    /// Whether it is believed and the policy has nothing against it.
    pub admitted: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// Judges each report below `folder` (`NAME/report.bin` with `vek.der` and, if there is one, `crl.der`) at the time `now`; also one
/// in the folder itself. Neither nonce nor HOST_DATA is known here, so they are not judged.
pub fn trial(
    policy: &Policy,
    folder: &Path,
    trust: &Trust,
    now: i64,
) -> Result<Vec<Outcome>, PolicyFileError> {
    let failed = |source| PolicyFileError::Read { path: folder.to_owned(), source };
    let mut folders = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    let mut outcomes = Vec::new();
    for path in folders.iter().filter(|path| path.join("report.bin").is_file()) {
        let there = |name: &str, most| {
            let file = path.join(name);
            if file.is_file() { read(&file, most).map(Some) } else { Ok(None) }
        };
        let report = read(&path.join("report.bin"), MAX_REPORT)?;
        let (vek, crl) = (there("vek.der", MAX_CERTIFICATE)?, there("crl.der", MAX_CRL)?);
        let evidence =
            Evidence { report: &report, vek: vek.as_deref(), intermediate: None, crl: crl.as_deref() };
        let options = Options {
            now,
            crl: match policy.crl {
                CrlRule::Require => CrlUse::Require,
                CrlRule::IfPresent => CrlUse::IfPresent,
            },
            masked_chip: policy.allow_masked_chip_id,
        };
        let nothing = Expected { report_data: None, host_data: None, measurement: None, id_key: None };
        let mut reasons = policy.judge_time(now);
        match verify(&evidence, trust, &options) {
            Ok(claims) => reasons.extend(policy.judge_claims(&claims, &nothing, now)),
            Err(refusal) => reasons.push(refusal.reason()),
        }
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        let name = if name.is_empty() { ".".to_owned() } else { name };
        outcomes.push(Outcome { name, admitted: reasons.is_empty(), reasons });
    }
    if outcomes.is_empty() {
        return Err(PolicyFileError::Other(format!(
            "there is no report.bin in {} or a folder in it",
            folder.display()
        )));
    }
    Ok(outcomes)
}

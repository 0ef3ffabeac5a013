// SPDX-License-Identifier: Apache-2.0
//! The firmware's event log, and whether the PCRs that the guest read are what it leads to.

use anyhow::{Context, Result, ensure};
use cvmm_tpm::HashAlg;
use cvmm_tpm::eventlog::EventLog;

use super::vm::Ended;

/// PCRs that other software resets to ones, and which no log tells of.
const DYNAMIC: std::ops::RangeInclusive<usize> = 17..=22;
/// The kernel's own measurements (IMA), which are in another log.
pub const IMA: usize = 10;

/// The banks of cvmm's default.
pub const BANKS: [HashAlg; 2] = [HashAlg::Sha256, HashAlg::Sha384];

/// The log on the guest's console.
pub fn of(ended: &Ended) -> Result<EventLog> {
    let facts = ended.facts();
    let digits = facts.get("eventlog").copied().context("the guest printed no event log")?;
    let bytes = hex(digits)?;
    let sum = facts.get("eventlog_sha256").copied().context("no checksum of the event log")?;
    let found: String = HashAlg::Sha256.digest(&[&bytes]).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(found == sum, "something came between: the event log's checksum is {found}, not {sum}");
    Ok(EventLog::parse(&bytes)?)
}

/// Checks the PCRs that the guest read against the log, except those that the log does not tell of.
pub fn check(log: &EventLog, ended: &Ended, bank: HashAlg) -> Result<()> {
    let facts = ended.facts();
    let key = format!("pcr-{}", bank.name());
    let found = facts.get(key.as_str()).copied().with_context(|| format!("the guest has no {key}"))?;
    let found: Vec<_> = found.split(',').map(hex).collect::<Result<_>>()?;
    let expected = log.replay(bank)?;
    ensure!(found.len() == expected.len(), "the guest has {} PCRs", found.len());
    for (pcr, (found, expected)) in found.iter().zip(expected).enumerate() {
        if pcr != IMA && !DYNAMIC.contains(&pcr) {
            ensure!(
                *found == expected,
                "PCR {pcr} of bank {} is not what the event log leads to",
                bank.name()
            );
        }
    }
    // The firmware has measured itself, its configuration and what it started.
    for pcr in [0, 1, 4, 7] {
        ensure!(found[pcr].iter().any(|byte| *byte != 0), "PCR {pcr} has never been extended");
    }
    Ok(())
}

/// Bytes of hexadecimal digits.
pub fn hex(digits: &str) -> Result<Vec<u8>> {
    ensure!(digits.len().is_multiple_of(2) && digits.is_ascii(), "no hexadecimal digits: {digits:.40}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).context("no hexadecimal digits"))
        .collect()
}

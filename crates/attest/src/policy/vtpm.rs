// SPDX-License-Identifier: Apache-2.0
//! `[vtpm]`: what a running guest's TPM has to have measured.

use std::collections::BTreeMap;

use cvmm_tpm::HashAlg;
use cvmm_tpm::constants::PCRS;
use cvmm_tpm::quote::QuoteClaims;
use serde::{Deserialize, Serialize};

use super::judge::Reasons;
use super::{Policy, PolicyError, file, value};
use cvmm_reason::Reason;

/// Values that one PCR may have, at most.
const MAX_VALUES: usize = 64;

/// Whether something has to be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// Without it there is no verdict.
    Require,
    /// What is shown has to be right.
    #[default]
    IfPresent,
}

/// What is asked of a quote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VtpmRules {
    /// Whether there has to be one.
    pub quote: Shown,
    /// Whether the firmware's event log has to come with it.
    pub event_log: Shown,
    /// Values that PCRs may have, by bank and index.
    pub pcrs: BTreeMap<(HashAlg, u8), Vec<Vec<u8>>>,
}

impl VtpmRules {
    pub(super) fn parse(file: file::Vtpm) -> Result<Self, PolicyError> {
        let file::Vtpm { quote, event_log, pcr } = file;
        if quote != Shown::Require && (event_log == Shown::Require || !pcr.is_empty()) {
            return Err(value(
                "vtpm.quote",
                "has to be \"require\" with vtpm.event_log = \"require\" or vtpm.pcr: nobody vouches for them without a quote",
            ));
        }
        let mut pcrs = BTreeMap::new();
        for (bank, values) in pcr {
            let key = format!("vtpm.pcr.{bank}");
            let hash = HashAlg::from_name(&bank).filter(|hash| hash.is_strong()).ok_or_else(|| {
                value(&key, "is no bank that anything can rest on: sha256, sha384 or sha512")
            })?;
            for (index, allowed) in values {
                let key = format!("{key}.{index}");
                // As numbers are written, and no other way: TOML would take "4" and "04" for two keys.
                let pcr = index.parse().ok().filter(|pcr: &u8| *pcr < PCRS && pcr.to_string() == index);
                let pcr = pcr.ok_or_else(|| value(&key, format!("is no PCR: 0 to {}", PCRS - 1)))?;
                if allowed.is_empty() || allowed.len() > MAX_VALUES {
                    return Err(value(key, format!("has not 1 to {MAX_VALUES} values")));
                }
                let digest = |text: &String| {
                    digest(text, hash.digest_len()).ok_or_else(|| {
                        let digits = 2 * hash.digest_len();
                        value(&key, format!("{text:?} is not {digits} hexadecimal digits"))
                    })
                };
                pcrs.insert((hash, pcr), allowed.iter().map(digest).collect::<Result<_, _>>()?);
            }
        }
        Ok(Self { quote, event_log, pcrs })
    }

    /// As in a file.
    pub(super) fn to_file(&self) -> file::Vtpm {
        let mut pcr: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
        for ((bank, index), values) in &self.pcrs {
            let values = values.iter().map(hex::encode).collect();
            pcr.entry(bank.name().to_owned()).or_default().insert(index.to_string(), values);
        }
        file::Vtpm { quote: self.quote, event_log: self.event_log, pcr }
    }

    pub(super) fn explain(&self, mut say: impl FnMut(String)) {
        let shown = |rule, what: &str| match rule {
            Shown::Require => format!("{what}: required, and right"),
            Shown::IfPresent => format!("{what}: right if there is one"),
        };
        say(shown(self.quote, "TPM of a running guest, quote"));
        say(shown(self.event_log, "TPM of a running guest, event log"));
        for ((bank, pcr), values) in &self.pcrs {
            let values: Vec<_> = values.iter().map(hex::encode).collect();
            say(format!(
                "TPM of a running guest, PCR {pcr} of {}: one of {}",
                bank.name(),
                values.join(", ")
            ));
        }
    }
}

impl Policy {
    /// About a running guest's quote, which is verified; `None`: it has shown none.
    #[must_use]
    pub fn judge_quote(&self, quote: Option<&QuoteClaims>) -> Vec<Reason> {
        let VtpmRules { quote: rule, event_log, pcrs } = &self.vtpm;
        let mut reasons = Reasons::default();
        let Some(quote) = quote else {
            reasons.unless(*rule == Shown::IfPresent, "policy.quote", || {
                "the guest shows no quote of its TPM (vtpm.quote)".to_owned()
            });
            return reasons.0;
        };
        reasons.unless(*event_log == Shown::IfPresent || quote.log.is_some(), "policy.event-log", || {
            "the guest shows no event log of its firmware (vtpm.event_log)".to_owned()
        });
        for ((bank, pcr), allowed) in pcrs {
            let found = quote.pcrs.get(*bank, *pcr);
            let good = found.is_some_and(|found| allowed.iter().any(|allowed| allowed == found));
            reasons.unless(good, "policy.pcr", || {
                let found = found.map_or_else(|| "not quoted".to_owned(), hex::encode);
                let bank = bank.name();
                format!("PCR {pcr} of bank {bank} is {found}, which is none of vtpm.pcr.{bank}.{pcr}")
            });
        }
        reasons.0
    }
}

fn digest(text: &str, len: usize) -> Option<Vec<u8>> {
    if text.len() != 2 * len || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..len).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()).collect()
}

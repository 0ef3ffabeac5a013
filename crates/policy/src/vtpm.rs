// SPDX-License-Identifier: Apache-2.0
//! `[vtpm]`: what a running guest's TPM has to have measured.

use std::collections::BTreeMap;

use cvmm_tpm::HashAlg;
use cvmm_tpm::quote::QuoteClaims;
use serde::{Deserialize, Serialize};

use crate::error::PolicyError;
use crate::reasons::Reasons;

/// Values that one PCR may have, at most.
const MAX_VALUES: usize = 64;

/// Whether evidence has to be presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requirement {
    /// It has to be presented.
    Require,
    /// If it is presented, it has to be right.
    #[default]
    IfPresent,
}

/// `[vtpm]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VtpmRules {
    /// Whether there has to be a quote.
    pub quote: Requirement,
    /// Whether the firmware's event log has to come with it.
    pub event_log: Requirement,
    /// Values that PCRs may have, by bank and index.
    #[serde(with = "pcrs", skip_serializing_if = "BTreeMap::is_empty")]
    pub pcr: BTreeMap<(HashAlg, u8), Vec<Vec<u8>>>,
}

impl VtpmRules {
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let Self { quote, event_log, pcr } = self;
        let needs_quote = *event_log == Requirement::Require || !pcr.is_empty();
        if *quote != Requirement::Require && needs_quote {
            return Err(PolicyError::value(
                "vtpm.quote",
                "has to be \"require\" with vtpm.event_log = \"require\" or vtpm.pcr: without a quote nothing vouches for them",
            ));
        }
        for ((bank, index), values) in pcr {
            if values.is_empty() || values.len() > MAX_VALUES {
                let key = format!("vtpm.pcr.{}.{index}", bank.name());
                return Err(PolicyError::value(
                    key,
                    format!("has {} values, not 1 to {MAX_VALUES}", values.len()),
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn explain(&self, say: &mut impl FnMut(String)) {
        let Self { quote, event_log, pcr } = self;
        let required = |rule: &Requirement, what: &str| match rule {
            Requirement::Require => format!("{what}: required, and right"),
            Requirement::IfPresent => format!("{what}: right if there is one"),
        };
        say(required(quote, "TPM of a running guest, quote"));
        say(required(event_log, "TPM of a running guest, event log"));
        for ((bank, index), values) in pcr {
            let values: Vec<_> = values.iter().map(hex::encode).collect();
            let (bank, values) = (bank.name(), values.join(", "));
            say(format!("TPM of a running guest, PCR {index} of {bank}: one of {values}"));
        }
    }

    /// Appraises a verified quote; `None` if the guest has presented none.
    pub(crate) fn appraise(&self, quote: Option<&QuoteClaims>, reasons: &mut Reasons) {
        let Self { quote: rule, event_log, pcr } = self;
        let Some(quote) = quote else {
            reasons.require(*rule == Requirement::IfPresent, "policy.quote", || {
                "the guest presents no quote of its TPM (vtpm.quote)".to_owned()
            });
            return;
        };
        let log = *event_log == Requirement::IfPresent || quote.log.is_some();
        reasons.require(log, "policy.event-log", || {
            "the guest presents no event log of its firmware (vtpm.event_log)".to_owned()
        });
        for ((bank, index), allowed) in pcr {
            let found = quote.pcrs.get(*bank, *index);
            let good = found.is_some_and(|found| allowed.iter().any(|allowed| allowed == found));
            reasons.require(good, "policy.pcr", || {
                let found = found.map_or_else(|| "not quoted".to_owned(), hex::encode);
                let bank = bank.name();
                format!("PCR {index} of bank {bank} is {found}, which is not in vtpm.pcr.{bank}.{index}")
            });
        }
    }
}

/// PCRs in a policy's form: a table for each bank, with an array for each index. TOML's keys are strings.
mod pcrs {
    use std::collections::BTreeMap;

    use cvmm_tpm::HashAlg;
    use cvmm_tpm::constants::PCRS;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Pcrs = BTreeMap<(HashAlg, u8), Vec<Vec<u8>>>;
    type Tables = BTreeMap<String, BTreeMap<String, Vec<String>>>;

    pub(super) fn serialize<S: Serializer>(pcrs: &Pcrs, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tables = Tables::new();
        for ((bank, index), values) in pcrs {
            let values = values.iter().map(hex::encode).collect();
            tables.entry(bank.name().to_owned()).or_default().insert(index.to_string(), values);
        }
        tables.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pcrs, D::Error> {
        let mut pcrs = Pcrs::new();
        for (name, values) in Tables::deserialize(deserializer)? {
            let bank = HashAlg::from_name(&name).filter(|bank| bank.is_strong()).ok_or_else(|| {
                D::Error::custom(format!(
                    "vtpm.pcr.{name}: not a bank that can be relied on: sha256, sha384 or sha512"
                ))
            })?;
            for (text, allowed) in values {
                let wrong = |problem: String| D::Error::custom(format!("vtpm.pcr.{name}.{text}: {problem}"));
                // As numbers are written, and no other way: TOML would take "4" and "04" for two keys.
                let index = text.parse().ok().filter(|index: &u8| *index < PCRS && index.to_string() == text);
                let index = index.ok_or_else(|| wrong(format!("not a PCR: 0 to {}", PCRS - 1)))?;
                let len = bank.digest_len();
                let value = |text: &String| match hex::decode(text) {
                    Ok(value) if value.len() == len => Ok(value),
                    _ => Err(wrong(format!("{text:?} is not {} hexadecimal digits", 2 * len))),
                };
                let allowed = allowed.iter().map(value).collect::<Result<_, _>>()?;
                pcrs.insert((bank, index), allowed);
            }
        }
        Ok(pcrs)
    }
}

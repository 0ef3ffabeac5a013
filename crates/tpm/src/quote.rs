// SPDX-License-Identifier: Apache-2.0
//! Verification of quotes.
//!
//! A quote is valid if a restricted key signed it, its qualifyingData is the expected one, it covers the PCR
//! values that came with it, and the event log, if there is one, replays to these values. Whose TPM it is,
//! and whether the values are acceptable, is not decided here.

use thiserror::Error;

use crate::attest::{Attest, Attested, ClockInfo};
use crate::constants::{PCRS, object};
use crate::eventlog::{EventLog, LogError};
use crate::hash::HashAlg;
use crate::pcr::{PcrValues, Selections};
use crate::public::{Name, Public};
use crate::signature::{Signature, SignatureError};
use crate::wire::WireError;

/// PCRs that only firmware extends: a log explains them completely.
const FIRMWARE_PCRS: std::ops::RangeInclusive<u8> = 0..=7;
/// PCRs of boot loaders: a log with events for one explains it completely. From 10 on the operating system
/// extends without this log.
const LOADER_PCRS: std::ops::RangeInclusive<u8> = 8..=9;

/// Evidence from a guest's TPM, and the question that it answers.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The attestation key.
    pub ak: &'a Public,
    /// TPMS_ATTEST.
    pub attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub signature: &'a [u8],
    /// The qualifyingData that answers the question.
    pub qualifying_data: &'a [u8],
    /// Values of the quoted PCRs.
    pub pcrs: &'a PcrValues,
    /// The firmware's log.
    pub event_log: Option<&'a [u8]>,
}

/// What a quote proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteClaims {
    /// Name of the key that signed.
    pub ak_name: Name,
    /// The quoted PCRs.
    pub pcrs: PcrValues,
    /// The TPM's time.
    pub clock: ClockInfo,
    /// The TPM's firmware version.
    pub firmware_version: u64,
    /// The event log, if there was one, and the PCRs that it explains.
    pub log: Option<LogClaims>,
}

/// An event log and the PCRs that it explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogClaims {
    /// The log.
    pub log: EventLog,
    /// Banks and PCRs whose values the log replays to.
    pub explained: Vec<(HashAlg, u8)>,
}

/// A quote that is refused. [`code`](Self::code) is stable, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuoteError {
    /// The quote is not a TPMS_ATTEST.
    #[error("the quote is malformed: {0}")]
    Attest(WireError),
    /// The signature is not a TPMT_SIGNATURE.
    #[error("the quote's signature is malformed: {0}")]
    Signature(WireError),
    /// The key is not restricted: it would sign anything.
    #[error(
        "the attestation key's attributes are {0:#x}: it is not a restricted signing key that is fixed to its TPM"
    )]
    Key(u32),
    /// The signature does not verify.
    #[error("the attestation key did not sign the quote: {0}")]
    Wrong(SignatureError),
    /// The structure was not made by a TPM.
    #[error("the quote's magic is {0:#x} instead of TPM_GENERATED: it was not made by a TPM")]
    Magic(u32),
    /// The TPM signed another structure.
    #[error("the TPM signed a structure of type {0:#x}, which is not a quote")]
    Type(u16),
    /// The quote answers a different question.
    #[error("the quote's qualifyingData does not match: it was made for a different nonce or key")]
    Nonce,
    /// The quote covers too few PCRs.
    #[error("the quote does not cover PCRs 0 to 7 of any bank with SHA-256 or stronger: quote all of them")]
    Selection,
    /// A quoted value was not sent.
    #[error("the value of PCR {pcr} of bank {} is quoted but was not sent", .bank.name())]
    Missing {
        /// The bank.
        bank: HashAlg,
        /// The PCR.
        pcr: u8,
    },
    /// A value was sent that the quote does not cover.
    #[error("a value of PCR {pcr} of bank {} was sent that is not quoted, or has another length", .bank.name())]
    Unquoted {
        /// The bank.
        bank: HashAlg,
        /// The PCR.
        pcr: u8,
    },
    /// The values do not match the quote.
    #[error("the quote's pcrDigest does not match the PCR values that were sent")]
    Pcrs,
    /// The event log is invalid.
    #[error(transparent)]
    Log(LogError),
    /// The event log explains no strong bank.
    #[error("the event log has no digests for a quoted bank with SHA-256 or stronger")]
    Bank,
    /// The event log does not replay to the quoted value.
    #[error("the event log replays to a different value of PCR {pcr} of bank {} than is quoted: it belongs to a different boot, or is incomplete", .bank.name())]
    Replay {
        /// The bank.
        bank: HashAlg,
        /// The PCR.
        pcr: u8,
    },
}

/// All codes of [`QuoteError`].
pub const CODES: &[&str] = &[
    "quote.format",
    "quote.key",
    "quote.signature",
    "quote.magic",
    "quote.type",
    "quote.nonce",
    "quote.pcrs",
    "eventlog.format",
    "eventlog.replay",
];

impl QuoteError {
    /// Stable: docs/reference/reasons.md lists them.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Attest(_) | Self::Signature(_) => "quote.format",
            Self::Key(_) => "quote.key",
            Self::Wrong(_) => "quote.signature",
            Self::Magic(_) => "quote.magic",
            Self::Type(_) => "quote.type",
            Self::Nonce => "quote.nonce",
            Self::Selection | Self::Missing { .. } | Self::Unquoted { .. } | Self::Pcrs => "quote.pcrs",
            Self::Log(_) => "eventlog.format",
            Self::Bank | Self::Replay { .. } => "eventlog.replay",
        }
    }
}

/// Verifies a quote and what came with it.
pub fn verify(evidence: &Evidence<'_>) -> Result<QuoteClaims, QuoteError> {
    let Evidence { ak, attest: bytes, signature, qualifying_data, pcrs, event_log } = *evidence;
    let wanted = object::RESTRICTED | object::SIGN_ENCRYPT | object::FIXED_TPM | object::FIXED_PARENT;
    if ak.attributes & wanted != wanted || ak.attributes & object::DECRYPT != 0 {
        return Err(QuoteError::Key(ak.attributes));
    }
    let signature = Signature::parse(signature).map_err(QuoteError::Signature)?;
    signature.verify(ak, bytes).map_err(QuoteError::Wrong)?;
    let attest = Attest::parse(bytes).map_err(QuoteError::Attest)?;
    if !attest.is_generated() {
        return Err(QuoteError::Magic(attest.magic));
    }
    let (selections, digest) = match attest.attested {
        Attested::Quote { selections, digest } => (selections, digest),
        Attested::Other { kind, .. } => return Err(QuoteError::Type(kind)),
    };
    // Both are public: no constant-time comparison.
    if attest.extra_data != qualifying_data {
        return Err(QuoteError::Nonce);
    }
    check_values(&selections, pcrs)?;
    if pcrs.digest(signature.hash(), &selections) != Some(digest) {
        return Err(QuoteError::Pcrs);
    }
    let log = event_log.map(|log| explain(log, &selections, pcrs)).transpose()?;
    Ok(QuoteClaims {
        ak_name: ak.name(),
        pcrs: pcrs.clone(),
        clock: attest.clock,
        firmware_version: attest.firmware_version,
        log,
    })
}

/// Checks that the values are those of the selected PCRs, all of them and no others.
fn check_values(selections: &Selections, pcrs: &PcrValues) -> Result<(), QuoteError> {
    let covered = |bank, pcr| {
        selections
            .iter()
            .any(|selection| selection.hash == bank && selection.pcrs().any(|other| other == pcr))
    };
    let whole = |bank: HashAlg| bank.is_strong() && FIRMWARE_PCRS.into_iter().all(|pcr| covered(bank, pcr));
    if !HashAlg::ALL.into_iter().any(whole) {
        return Err(QuoteError::Selection);
    }
    for ((bank, pcr), value) in &pcrs.0 {
        if !covered(*bank, *pcr) || value.len() != bank.digest_len() {
            return Err(QuoteError::Unquoted { bank: *bank, pcr: *pcr });
        }
    }
    for selection in selections {
        for pcr in selection.pcrs() {
            if pcr >= PCRS || pcrs.get(selection.hash, pcr).is_none() {
                return Err(QuoteError::Missing { bank: selection.hash, pcr });
            }
        }
    }
    Ok(())
}

/// The quoted PCRs that the log explains; an error if the log replays to a different value.
fn explain(bytes: &[u8], selections: &Selections, pcrs: &PcrValues) -> Result<LogClaims, QuoteError> {
    let log = EventLog::parse(bytes).map_err(QuoteError::Log)?;
    let mut explained = Vec::new();
    for selection in selections.iter().filter(|selection| log.has(selection.hash)) {
        let bank = selection.hash;
        for (pcr, value) in (0..PCRS).zip(log.replay(bank).map_err(QuoteError::Log)?) {
            let covered = FIRMWARE_PCRS.contains(&pcr) || LOADER_PCRS.contains(&pcr) && log.touches(pcr);
            let Some(quoted) = pcrs.get(bank, pcr).filter(|_| covered) else { continue };
            if quoted != value {
                return Err(QuoteError::Replay { bank, pcr });
            }
            explained.push((bank, pcr));
        }
    }
    if !explained.iter().any(|(bank, _)| bank.is_strong()) {
        return Err(QuoteError::Bank);
    }
    Ok(LogClaims { log, explained })
}

#[cfg(test)]
mod tests;

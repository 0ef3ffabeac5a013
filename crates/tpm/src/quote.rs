// SPDX-License-Identifier: Apache-2.0
//! From a quote to what it proves.
//!
//! A quote is by a key that only signs what its TPM made; it answers one question; it covers the PCR values that came along; and the
//! event log, if there is one, leads to these values. Whose TPM it is, and whether the values are good ones, is for others to say.

use thiserror::Error;

use crate::attest::{Attest, Attested, ClockInfo};
use crate::constants::{PCRS, object};
use crate::eventlog::{EventLog, LogError};
use crate::hash::HashAlg;
use crate::pcr::{PcrValues, Selections};
use crate::public::{Name, Public};
use crate::signature::{Signature, SignatureError};
use crate::wire::WireError;

/// PCRs that only firmware extends: a log tells all of it.
const OF_FIRMWARE: std::ops::RangeInclusive<u8> = 0..=7;
/// PCRs of boot loaders, which tell what they extend if they tell anything. From 10 on the operating system goes on by itself.
const OF_LOADERS: std::ops::RangeInclusive<u8> = 8..=9;

/// What a guest shows, and what it was asked.
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
    /// Its firmware.
    pub firmware_version: u64,
    /// The log, if it was shown, and what of the PCRs it explains.
    pub log: Option<LogClaims>,
}

/// What a log explains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogClaims {
    /// The log.
    pub log: EventLog,
    /// Banks and PCRs that it leads to.
    pub explained: Vec<(HashAlg, u8)>,
}

/// Why a quote proves nothing. [`code`](Self::code) is for programs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuoteError {
    /// No TPMS_ATTEST.
    #[error("the quote is malformed: {0}")]
    Attest(WireError),
    /// No TPMT_SIGNATURE.
    #[error("the quote's signature is malformed: {0}")]
    Signature(WireError),
    /// A key that would sign anything.
    #[error(
        "the attestation key's attributes are {0:#x}: it is no restricted signing key that stays in its TPM"
    )]
    Key(u32),
    /// Not by the key.
    #[error("the quote is not the attestation key's: {0}")]
    Wrong(SignatureError),
    /// Not made by a TPM.
    #[error("the quote's magic is {0:#x}, not TPM_GENERATED: no TPM made it")]
    Magic(u32),
    /// Something else a TPM signed.
    #[error("the TPM has signed a structure of type {0:#x}, which is no quote")]
    Type(u16),
    /// Another question's.
    #[error("the quote's qualifyingData does not answer this question: it is of another nonce or key")]
    Nonce,
    /// Too few PCRs.
    #[error("the quote covers PCRs 0 to 7 of no bank with SHA-256 or better: quote them all")]
    Selection,
    /// A value is missing.
    #[error("the value of PCR {pcr} of bank {} is quoted but was not sent", .bank.name())]
    Missing {
        /// Its bank.
        bank: HashAlg,
        /// Which.
        pcr: u8,
    },
    /// A value that nobody signed.
    #[error("a value of PCR {pcr} of bank {} was sent that is not quoted, or has another length", .bank.name())]
    Unquoted {
        /// Its bank.
        bank: HashAlg,
        /// Which.
        pcr: u8,
    },
    /// Other values.
    #[error("the quote's pcrDigest is not that of the PCR values that were sent")]
    Pcrs,
    /// No log.
    #[error(transparent)]
    Log(LogError),
    /// It explains no bank.
    #[error("the event log has no digests of a quoted bank with SHA-256 or better")]
    Bank,
    /// It tells of another boot.
    #[error("the event log leads to another value of PCR {pcr} of bank {} than is quoted: it is not of this boot, or not whole", .bank.name())]
    Replay {
        /// The bank.
        bank: HashAlg,
        /// Which PCR.
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
    // Both are public.
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

/// The values are those of the selected PCRs, all and no others.
fn check_values(selections: &Selections, pcrs: &PcrValues) -> Result<(), QuoteError> {
    let covered = |bank, pcr| {
        selections
            .iter()
            .any(|selection| selection.hash == bank && selection.pcrs().any(|other| other == pcr))
    };
    let whole = |bank: HashAlg| bank.is_strong() && OF_FIRMWARE.into_iter().all(|pcr| covered(bank, pcr));
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

/// What of the quoted PCRs the log leads to: all that it must.
fn explain(bytes: &[u8], selections: &Selections, pcrs: &PcrValues) -> Result<LogClaims, QuoteError> {
    let log = EventLog::parse(bytes).map_err(QuoteError::Log)?;
    let mut explained = Vec::new();
    for selection in selections.iter().filter(|selection| log.has(selection.hash)) {
        let bank = selection.hash;
        for (pcr, value) in (0..PCRS).zip(log.replay(bank).map_err(QuoteError::Log)?) {
            let told = OF_FIRMWARE.contains(&pcr) || OF_LOADERS.contains(&pcr) && log.touches(pcr);
            let Some(quoted) = pcrs.get(bank, pcr).filter(|_| told) else { continue };
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

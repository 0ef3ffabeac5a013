// SPDX-License-Identifier: Apache-2.0
//! The firmware's event log: what was extended into which PCR, and the PCR values that result.
//!
//! The format is the crypto-agile one of the TCG PC Client Platform Firmware Profile (revision 1.06, section
//! 10), little-endian. A log is not signed: it is only evidence if it replays to quoted PCR values.

mod describe;

use std::collections::BTreeMap;

use thiserror::Error;

pub use describe::{about, describe, kind_name};

use crate::constants::PCRS;
use crate::hash::{HashAlg, MAX_DIGEST};

/// Longest log in bytes. Those of OVMF have 20 to 40 KiB.
pub const MAX_LOG: usize = 128 << 10;
/// Most events in a log.
pub const MAX_EVENTS: usize = 4096;
/// Most algorithms in the header.
const MAX_ALGORITHMS: usize = 8;
/// PCRs that a dynamic launch resets: all ones until then.
const DYNAMIC: std::ops::RangeInclusive<u8> = 17..=22;

/// EV_NO_ACTION: nothing was extended (10.4.1).
pub const NO_ACTION: u32 = 3;
/// TCG_EfiSpecIDEvent.signature (10.4.5.1).
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
/// TCG_EfiStartupLocalityEvent.Signature (10.4.5.3).
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// An invalid event log. Offsets count from its first byte.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// The log is too long.
    #[error("the event log has {0} bytes; the maximum is {MAX_LOG}")]
    TooLong(usize),
    /// The log ends inside a field.
    #[error("the event log ends within {what} at byte {offset}")]
    Short {
        /// The field.
        what: &'static str,
        /// Offset of its first byte.
        offset: usize,
    },
    /// The log is not crypto-agile.
    #[error("the event log does not begin with a \"Spec ID Event03\" event (byte {0})")]
    Header(usize),
    /// The header contradicts itself or the specification.
    #[error("the event log's header has an invalid {what} at byte {offset}")]
    Algorithms {
        /// The field.
        what: &'static str,
        /// Its offset.
        offset: usize,
    },
    /// An event does not have exactly one digest for each of the header's algorithms, or another field of it
    /// is invalid.
    #[error("event {event} at byte {offset} of the event log has an invalid {what}")]
    Event {
        /// Index of the event, from 0; the header does not count.
        event: usize,
        /// Offset of its first byte.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// There are too many events.
    #[error("the event log has more than {MAX_EVENTS} events (byte {0})")]
    TooMany(usize),
    /// There are no digests for the bank.
    #[error("the event log has no digests of bank {}", .0.name())]
    Bank(HashAlg),
}

/// An event: `TCG_PCR_EVENT2` (10.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Offset of the event in the log.
    pub offset: usize,
    /// The PCR.
    pub pcr: u32,
    /// Event type; see [`kind_name`].
    pub kind: u32,
    /// The extended digests, by bank. Banks with an unsupported hash are left out.
    pub digests: BTreeMap<HashAlg, Vec<u8>>,
    /// Event data, as the firmware described it.
    pub data: Vec<u8>,
}

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog {
    /// TPM_ALG_IDs of the header.
    pub algorithms: Vec<u16>,
    /// The events in order, without the header.
    pub events: Vec<Event>,
    /// Locality of TPM2_Startup, which is the initial value of PCR 0.
    pub startup_locality: u8,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], LogError> {
        let (front, rest) =
            self.bytes.split_at_checked(len).ok_or(LogError::Short { what, offset: self.at })?;
        self.bytes = rest;
        self.at = self.at.saturating_add(len);
        Ok(front)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], LogError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(what, N)?);
        Ok(out)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, LogError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, LogError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, LogError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Reads a 32-bit length and as many bytes.
    fn sized(&mut self, what: &'static str) -> Result<&'a [u8], LogError> {
        let offset = self.at;
        let len = usize::try_from(self.u32(what)?).map_err(|_| LogError::Short { what, offset })?;
        self.take(what, len)
    }
}

impl EventLog {
    /// Reads all of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        if bytes.len() > MAX_LOG {
            return Err(LogError::TooLong(bytes.len()));
        }
        let mut reader = Reader { bytes, at: 0 };
        let sizes = header(&mut reader)?;
        let mut log = Self {
            algorithms: sizes.iter().map(|(id, _)| *id).collect(),
            events: vec![],
            startup_locality: 0,
        };
        let mut locality = None;
        while !reader.bytes.is_empty() {
            if log.events.len() == MAX_EVENTS {
                return Err(LogError::TooMany(reader.at));
            }
            let event = event(&mut reader, &sizes, log.events.len())?;
            let wrong = |what| LogError::Event { event: log.events.len(), offset: event.offset, what };
            if event.kind == NO_ACTION {
                if let Some(rest) = event.data.strip_prefix(STARTUP_LOCALITY) {
                    let ([given @ (0 | 3 | 4)], 0) = (rest, event.pcr) else {
                        return Err(wrong("startup locality"));
                    };
                    // Allowed once, and only before the first extension of PCR 0, whose initial value it
                    // sets.
                    let late = log.events.iter().any(|event| event.pcr == 0 && event.kind != NO_ACTION);
                    if late || locality.replace(*given).is_some() {
                        return Err(wrong("place for the startup locality"));
                    }
                }
            } else if event.pcr >= u32::from(PCRS) {
                return Err(wrong("PCR"));
            }
            log.events.push(event);
        }
        log.startup_locality = locality.unwrap_or_default();
        Ok(log)
    }

    /// Whether the log has digests for a bank.
    #[must_use]
    pub fn has(&self, bank: HashAlg) -> bool {
        self.algorithms.contains(&bank.id())
    }

    /// The PCRs of a bank after all events, by index.
    pub fn replay(&self, bank: HashAlg) -> Result<Vec<Vec<u8>>, LogError> {
        if !self.has(bank) {
            return Err(LogError::Bank(bank));
        }
        let len = bank.digest_len();
        let start = |pcr| vec![if DYNAMIC.contains(&pcr) { 0xff } else { 0 }; len];
        let mut pcrs: Vec<_> = (0..PCRS).map(start).collect();
        if let Some(last) = pcrs.first_mut().and_then(|first| first.last_mut()) {
            *last = self.startup_locality;
        }
        for event in self.events.iter().filter(|event| event.kind != NO_ACTION) {
            let pcr = usize::try_from(event.pcr).ok().and_then(|pcr| pcrs.get_mut(pcr));
            // `parse` has checked both.
            if let (Some(pcr), Some(digest)) = (pcr, event.digests.get(&bank)) {
                *pcr = bank.digest(&[pcr, digest]);
            }
        }
        Ok(pcrs)
    }

    /// Whether anything was extended into a PCR.
    #[must_use]
    pub fn touches(&self, pcr: u8) -> bool {
        self.events.iter().any(|event| event.kind != NO_ACTION && event.pcr == u32::from(pcr))
    }
}

/// Reads the first event: a `TCG_PCClientPCREvent` (10.2.1) with a `TCG_EfiSpecIDEvent` (10.4.5.1) in it.
/// Returns the algorithms and the lengths of their digests.
fn header(reader: &mut Reader<'_>) -> Result<Vec<(u16, usize)>, LogError> {
    let what = "its header";
    let (pcr, kind) = (reader.u32(what)?, reader.u32(what)?);
    // A SHA-1 digest, for parsers from before TPM 2.0.
    reader.take(what, 20)?;
    let at = reader.at.saturating_add(4);
    let bytes = reader.sized(what)?;
    let mut reader = Reader { bytes, at };
    if (pcr, kind) != (0, NO_ACTION) || !bytes.starts_with(SPEC_ID) {
        return Err(LogError::Header(at));
    }
    // signature; platformClass, versions, errata, uintnSize.
    reader.take(what, SPEC_ID.len() + 8)?;
    let offset = reader.at;
    let count = reader.u32(what)?;
    if !(1..=MAX_ALGORITHMS).contains(&usize::try_from(count).unwrap_or(usize::MAX)) {
        return Err(LogError::Algorithms { what: "numberOfAlgorithms", offset });
    }
    let mut sizes: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let offset = reader.at;
        let (id, size) = (reader.u16(what)?, usize::from(reader.u16(what)?));
        if sizes.iter().any(|(known, _)| *known == id) {
            return Err(LogError::Algorithms { what: "algorithmId: duplicate", offset });
        }
        let fits = HashAlg::from_id(id).is_none_or(|hash| hash.digest_len() == size);
        if !fits || !(1..=MAX_DIGEST).contains(&size) {
            return Err(LogError::Algorithms { what: "digestSize", offset });
        }
        sizes.push((id, size));
    }
    let len = reader.u8(what)?;
    reader.take(what, len.into())?;
    if !reader.bytes.is_empty() {
        return Err(LogError::Algorithms { what: "length", offset: reader.at });
    }
    Ok(sizes)
}

fn event(reader: &mut Reader<'_>, sizes: &[(u16, usize)], number: usize) -> Result<Event, LogError> {
    let offset = reader.at;
    let what = "an event";
    let wrong = |what| LogError::Event { event: number, offset, what };
    let (pcr, kind) = (reader.u32(what)?, reader.u32(what)?);
    let count = reader.u32(what)?;
    if usize::try_from(count) != Ok(sizes.len()) {
        return Err(wrong("number of digests"));
    }
    let mut left = sizes.to_vec();
    let mut digests = BTreeMap::new();
    for _ in 0..count {
        let id = reader.u16(what)?;
        let at =
            left.iter().position(|(known, _)| *known == id).ok_or_else(|| wrong("digest's algorithm"))?;
        let digest = reader.take(what, left.swap_remove(at).1)?;
        if let Some(hash) = HashAlg::from_id(id) {
            digests.insert(hash, digest.to_vec());
        }
    }
    Ok(Event { offset, pcr, kind, digests, data: reader.sized(what)?.to_vec() })
}

#[cfg(test)]
mod tests;

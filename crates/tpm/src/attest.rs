// SPDX-License-Identifier: Apache-2.0
//! `TPMS_ATTEST` (part 2, 10.12.8, table 126): the structure of attestations that a TPM signs.

use crate::constants::{GENERATED, st};
use crate::pcr::{Selections, read_selections, write_selections};
use crate::public::MAX_NAME;
use crate::wire::{Reader, WireError, Writer};

/// Longest qualifyingData in bytes: a TPMT_HA.
const MAX_DATA: usize = 66;
/// Longest TPMS_ATTEST that is parsed, in bytes.
pub const MAX_ATTEST: usize = 1024;

/// An attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// [`GENERATED`] if a TPM made the structure.
    pub magic: u32,
    /// Name of the key that signed, qualified by its parents'.
    pub qualified_signer: Vec<u8>,
    /// qualifyingData of the caller: its nonce.
    pub extra_data: Vec<u8>,
    /// `TPMS_CLOCK_INFO` (table 110).
    pub clock: ClockInfo,
    /// The TPM's firmware version, in a vendor-specific form.
    pub firmware_version: u64,
    /// What is attested.
    pub attested: Attested,
}

/// A TPM's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds for which the TPM was powered.
    pub clock: u64,
    /// TPM resets.
    pub reset_count: u32,
    /// TPM restarts and resumes since the last reset.
    pub restart_count: u32,
    /// False if the clock may repeat earlier values.
    pub safe: bool,
}

/// `TPMU_ATTEST` (table 125).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attested {
    /// `TPMS_QUOTE_INFO` (table 120).
    Quote {
        /// The quoted PCRs.
        selections: Selections,
        /// Digest of their values, by the hash of the signature.
        digest: Vec<u8>,
    },
    /// Another type of attestation.
    Other {
        /// `TPMI_ST_ATTEST`.
        kind: u16,
        /// The body, not parsed.
        bytes: Vec<u8>,
    },
}

impl Attest {
    /// Parses a TPMS_ATTEST that is all of `bytes`. The caller checks magic and type.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_ATTEST {
            return Err(WireError::TooLong {
                what: "TPMS_ATTEST",
                offset: 0,
                found: bytes.len(),
                max: MAX_ATTEST,
            });
        }
        let mut reader = Reader::new(bytes);
        let magic = reader.u32("magic")?;
        let kind = reader.u16("type")?;
        let qualified_signer = reader.sized("qualifiedSigner", MAX_NAME)?.to_vec();
        let extra_data = reader.sized("extraData", MAX_DATA)?.to_vec();
        let clock = ClockInfo {
            clock: reader.u64("clockInfo.clock")?,
            reset_count: reader.u32("clockInfo.resetCount")?,
            restart_count: reader.u32("clockInfo.restartCount")?,
            safe: yes_no(&mut reader, "clockInfo.safe")?,
        };
        let firmware_version = reader.u64("firmwareVersion")?;
        let attested = if kind == st::ATTEST_QUOTE {
            let selections = read_selections(&mut reader)?;
            let digest = reader.sized("pcrDigest", crate::hash::MAX_DIGEST)?.to_vec();
            Attested::Quote { selections, digest }
        } else {
            let left = reader.left();
            Attested::Other { kind, bytes: reader.take("attested", left)?.to_vec() }
        };
        reader.finish("TPMS_ATTEST")?;
        Ok(Self { magic, qualified_signer, extra_data, clock, firmware_version, attested })
    }

    /// Whether a TPM made it, provided that a restricted key signed it.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.magic == GENERATED
    }

    /// The encoded structure.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u32(self.magic);
        writer.u16(match &self.attested {
            Attested::Quote { .. } => st::ATTEST_QUOTE,
            Attested::Other { kind, .. } => *kind,
        });
        writer.sized(&self.qualified_signer).sized(&self.extra_data);
        writer.u64(self.clock.clock).u32(self.clock.reset_count).u32(self.clock.restart_count);
        writer.u8(self.clock.safe.into()).u64(self.firmware_version);
        match &self.attested {
            Attested::Quote { selections, digest } => {
                write_selections(&mut writer, selections);
                writer.sized(digest);
            }
            Attested::Other { bytes, .. } => {
                writer.raw(bytes);
            }
        }
        writer.into_bytes()
    }
}

/// TPMI_YES_NO (table 35).
fn yes_no(reader: &mut Reader<'_>, what: &'static str) -> Result<bool, WireError> {
    let offset = reader.offset();
    match reader.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(WireError::Unsupported { what, offset, found: other.into() }),
    }
}

// SPDX-License-Identifier: Apache-2.0
//! `TPMS_ATTEST` (part 2, 10.12.8, table 126): what a TPM signs of itself.

use crate::constants::{GENERATED, st};
use crate::pcr::{Selections, read_selections, write_selections};
use crate::public::MAX_NAME;
use crate::wire::{Reader, WireError, Writer};

/// The longest qualifyingData: a TPMT_HA.
const MAX_DATA: usize = 66;
/// The longest TPMS_ATTEST taken.
pub const MAX_ATTEST: usize = 1024;

/// An attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// [`GENERATED`], or a TPM did not make this.
    pub magic: u32,
    /// Name of the key that signed, qualified by its parents'.
    pub qualified_signer: Vec<u8>,
    /// What the one who asked gave: its nonce.
    pub extra_data: Vec<u8>,
    /// `TPMS_CLOCK_INFO` (table 110).
    pub clock: ClockInfo,
    /// The TPM's version, in a form of its maker's.
    pub firmware_version: u64,
    /// What is attested.
    pub attested: Attested,
}

/// A TPM's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds with power.
    pub clock: u64,
    /// TPM resets.
    pub reset_count: u32,
    /// TPM restarts and resumes since.
    pub restart_count: u32,
    /// `false`: time may have been gone through before.
    pub safe: bool,
}

/// `TPMU_ATTEST` (table 125).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attested {
    /// `TPMS_QUOTE_INFO` (table 120).
    Quote {
        /// Which PCRs.
        selections: Selections,
        /// Digest of their values, by the hash of the signature.
        digest: Vec<u8>,
    },
    /// Something else, and what it says.
    Other {
        /// `TPMI_ST_ATTEST`.
        kind: u16,
        /// Not understood here.
        bytes: Vec<u8>,
    },
}

impl Attest {
    /// A TPMS_ATTEST that is all of `bytes`. Magic and type are the caller's to judge.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_ATTEST {
            return Err(WireError::TooLong {
                what: "TPMS_ATTEST",
                offset: 0,
                found: bytes.len(),
                most: MAX_ATTEST,
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

    /// Whether a TPM made it, if a restricted key signed it.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.magic == GENERATED
    }

    /// Its bytes.
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

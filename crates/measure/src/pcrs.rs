// SPDX-License-Identifier: Apache-2.0
//! The PCRs that a guest of our firmware will have, from its files alone.
//!
//! Firmware, stub and system extend hashes of what they use into the PCRs of a TPM, so that secrets can be
//! sealed to what was started. What is extended is known before the first boot where it only depends on files
//! that are at hand: a disk can then be sealed in advance. What also depends on the host, on the disk or on
//! the kernel is listed with the reason why it is not predicted.
//!
//! The events are those of OVMF.cvmm.fd (`firmware/ovmf`) by the TCG PC Client Platform Firmware Profile, and
//! those of systemd's stub; `tests` compares them with an event log of that firmware.

mod firmware;
mod show;
mod signature;
mod stub;

use cvmm_launch::blob::ReadError;
use cvmm_launch::firmware::{Firmware, STAGE_PLACE_GUID};
use cvmm_launch::kernel::{KernelError, Program};
use cvmm_tpm::HashAlg;
use serde::Serialize;
use thiserror::Error;

pub use firmware::SecureBoot;
pub use show::show;
pub use signature::PcrSignature;
pub use stub::{PHASES, Stub};

/// The bank that is predicted: the default of `[vtpm]`.
pub const BANK: HashAlg = HashAlg::Sha256;
/// A digest of that bank.
pub type PcrDigest = [u8; 32];

/// Why nothing is predicted.
#[derive(Debug, Error)]
pub enum PcrError {
    /// The program is not one that the firmware could start.
    #[error(transparent)]
    Program(#[from] KernelError),
    /// A file could not be read to its end.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What the firmware starts.
#[derive(Clone, Debug)]
pub struct BootChain<'a> {
    /// The firmware image.
    pub firmware: &'a Firmware,
    /// Secure Boot variables; none if they are not known.
    pub secure_boot: Option<SecureBoot>,
    /// The first program: a unified kernel image, or another loader.
    pub loader: Program,
    /// Whether the loader is on a disk, whose partition table is measured.
    pub from_disk: bool,
}

/// An extension of a PCR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PcrEvent {
    /// What is measured.
    pub what: String,
    /// The digest that is extended, in hexadecimal digits.
    pub digest: String,
}

/// The value of a PCR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PcrState {
    /// The PCR.
    pub pcr: u8,
    /// Boot phases of systemd that the value is valid after, as `systemd-measure` writes them; empty before
    /// the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The value, in hexadecimal digits.
    pub value: String,
    /// What leads to it, in order.
    pub events: Vec<PcrEvent>,
}

/// PCRs that are not predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unpredicted {
    /// The PCRs.
    pub pcrs: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// PCRs of a guest before its first boot. Its JSON form is what `cvmm measure --pcrs --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// Name of the bank.
    pub bank: &'static str,
    /// Predicted values, ascending; PCR 11 once for each phase.
    pub pcrs: Vec<PcrState>,
    /// All others.
    pub unpredicted: Vec<Unpredicted>,
    /// Signed PCR policies in the image, with the state of PCR 11 that each is for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<PcrSignature>,
}

impl Prediction {
    /// The value of a PCR, without phases.
    #[must_use]
    pub fn value(&self, pcr: u8) -> Option<&str> {
        let found = self
            .pcrs
            .iter()
            .find(|state| state.pcr == pcr && state.phase.as_deref().unwrap_or("").is_empty());
        found.map(|state| state.value.as_str())
    }
}

/// A PCR while events are added.
#[derive(Clone, Debug)]
struct Register {
    value: PcrDigest,
    events: Vec<PcrEvent>,
}

impl Register {
    fn new() -> Self {
        Self { value: [0; 32], events: Vec::new() }
    }

    /// Extends with a digest.
    fn extend(&mut self, what: impl Into<String>, digest: PcrDigest) {
        self.value = sha256(&[&self.value, &digest]);
        self.events.push(PcrEvent { what: what.into(), digest: hex::encode(digest) });
    }

    /// Extends with the digest of `data`.
    fn measure(&mut self, what: impl Into<String>, data: &[&[u8]]) {
        self.extend(what, sha256(data));
    }

    fn state(self, pcr: u8, phase: Option<String>) -> PcrState {
        PcrState { pcr, phase, value: hex::encode(self.value), events: self.events }
    }
}

fn sha256(parts: &[&[u8]]) -> PcrDigest {
    let mut digest = [0; 32];
    // Both have the length of the bank.
    digest.iter_mut().zip(BANK.digest(parts)).for_each(|(to, from)| *to = from);
    digest
}

/// Predicts the PCRs of `chain`.
///
/// # Errors
/// A file cannot be read, or the kernel in the image is not a program.
pub fn predict(chain: &BootChain<'_>) -> Result<Prediction, PcrError> {
    let mut pcrs = Vec::new();
    let mut unpredicted = Vec::new();
    let mut leave_out = |pcrs: &[u8], reason: &str| {
        unpredicted.push(Unpredicted { pcrs: pcrs.to_vec(), reason: reason.to_owned() });
    };
    let stub = Stub::of(&chain.loader)?;
    if chain.firmware.guids().contains(&STAGE_PLACE_GUID) {
        leave_out(&[0], "the firmware's unpacked volumes: the same for each boot of this image");
        leave_out(&[1], "ACPI tables, which the host provides");
        for pcr in [2, 3, 6] {
            pcrs.push(firmware::separator_only().state(pcr, None));
        }
        match &chain.secure_boot {
            Some(keys) => {
                match firmware::boot_programs(&chain.loader, &stub, keys.is_on())? {
                    Ok(register) => pcrs.push(register.state(4, None)),
                    Err(reason) => leave_out(&[4], &reason),
                }
                match firmware::secure_boot(keys) {
                    Ok(register) => pcrs.push(register.state(7, None)),
                    Err(reason) => leave_out(&[7], reason),
                }
            }
            None => leave_out(&[4, 7], "the key region of the firmware image is malformed"),
        }
        let table = if chain.from_disk { "the partition table of the disk, and " } else { "" };
        leave_out(&[5], &format!("{table}how often the kernel tries to leave the boot services"));
    } else {
        let reason = "the firmware is not OVMF.cvmm.fd (firmware/ovmf), so what it measures is not known";
        leave_out(&[0, 1, 2, 3, 4, 5, 6, 7], reason);
    }
    leave_out(&[8], "GRUB's commands; no other loader uses it");
    leave_out(&[9], "what the kernel measures: command line and initrd, in the form of its version");
    leave_out(&[10], "IMA, if the kernel's policy has any");
    let mut signatures = Vec::new();
    match stub.image(&chain.loader)? {
        Ok(register) => {
            let states = stub::phases(&register);
            signatures = signature::read(&chain.loader, &states)?;
            pcrs.extend(states);
        }
        Err(reason) => leave_out(&[11], &reason),
    }
    leave_out(&[12, 13], "credentials, confexts and command lines that come with the disk; zero without any");
    leave_out(&[14], "shim's keys; zero without shim");
    leave_out(&[15], "what the system measures: machine id, volume keys");
    pcrs.sort_by_key(|state| state.pcr);
    unpredicted.sort_by_key(|left| left.pcrs.first().copied());
    Ok(Prediction { bank: BANK.name(), pcrs, unpredicted, signatures })
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0
//! The identity of a TPM: its endorsement keys, its attestation key and their certificates.
//!
//! Provisioning runs before the firmware, while the platform hierarchy's authorisation is still empty and the
//! guest does not run. The engine is on and has executed `TPM2_Startup(CLEAR)`. Afterwards power it off and
//! on, so that the firmware finds a TPM that is not started.
//!
//! - The endorsement keys are those of `swtpm_setup`, created once and persistent. A guest with the owner's
//!   authorisation may remove or replace them, so their public areas are also stored in an NV index that only
//!   the platform can write ([`RECORD`]). A key that differs from the record is created again from the seed,
//!   which gives the same key; if the guest has set an authorisation that prevents this, the record is used.
//!   The VM starts in either case.
//! - The attestation key is in the platform hierarchy, which the guest cannot change. It is created from the
//!   seed at each start and compared with the persistent key, which is replaced if it differs; it is never
//!   trusted just because it exists.
//! - Certificates are written only if they are missing or different.

mod activate;
mod keys;
mod nv;
mod record;
mod talk;

pub use cvmm_tpm::Public;
pub use cvmm_tpm::constants::place;

pub use self::activate::activate;
pub use self::nv::{Certificates, MAX_CERTIFICATE, install, installed};
pub use self::record::RECORD;
use self::talk::Talk;
use crate::engine::{EngineError, TpmEngine};

/// Why provisioning failed.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The TPM refused a command.
    #[error("provision-refused: {command}: the TPM returned {}", cvmm_tpm::response::describe(*.code))]
    Refused {
        /// The command.
        command: &'static str,
        /// The response code.
        code: u32,
    },
    /// The TPM's response is invalid.
    #[error("provision-answer: {command}: {why}")]
    Answer {
        /// The command.
        command: &'static str,
        /// The reason.
        why: String,
    },
    /// A key does not match its template.
    #[error(
        "provision-key: the TPM created a {0} that does not match its template; this version of libtpms is \
         not supported"
    )]
    Key(&'static str),
    /// The guest has set an authorisation that prevents the use of a key.
    #[error(
        "provision-auth: the {key} is needed, but the guest has set an authorisation of the endorsement \
         hierarchy; remove it in the guest (tpm2_changeauth -c e) or clear the TPM (tpm2_clear)"
    )]
    Auth {
        /// The key.
        key: &'static str,
    },
    /// A certificate that cannot be stored.
    #[error("provision-size: the {name} has {len} bytes; an NV index holds 1 to {MAX_CERTIFICATE}")]
    Size {
        /// The certificate.
        name: &'static str,
        /// Its length.
        len: usize,
    },
}

/// The endorsement keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ek {
    /// RSA-2048, template L-1 of the TCG's EK Credential Profile.
    Rsa,
    /// P-384, template H-3.
    Ecc,
}

impl Ek {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rsa => "RSA-2048 endorsement key",
            Self::Ecc => "P-384 endorsement key",
        }
    }

    /// Its persistent handle.
    #[must_use]
    pub fn handle(self) -> u32 {
        match self {
            Self::Rsa => place::EK_RSA,
            Self::Ecc => place::EK_ECC,
        }
    }

    /// Its template.
    #[must_use]
    pub fn template(self) -> Public {
        match self {
            Self::Rsa => cvmm_tpm::template::ek_rsa(),
            Self::Ecc => cvmm_tpm::template::ek_ecc(),
        }
    }
}

/// The public keys of a TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The RSA-2048 endorsement key.
    pub ek_rsa: Public,
    /// The P-384 endorsement key.
    pub ek_ecc: Public,
    /// The attestation key.
    pub ak: Public,
}

/// Creates the keys that are missing, and returns all public keys.
pub fn provision(engine: &mut dyn TpmEngine) -> Result<Identity, ProvisionError> {
    let mut talk = Talk(engine);
    // First, so that NV space is left for it.
    let ak = keys::attestation(&mut talk)?;
    let permanent = talk.permanent()?;
    let before = record::read(&mut talk)?;
    let (known_rsa, known_ecc) = match &before {
        Some(record) => (Some(&record.ek_rsa), Some(&record.ek_ecc)),
        None => (None, None),
    };
    let ek_rsa = keys::endorsement(&mut talk, Ek::Rsa, known_rsa, permanent)?;
    let ek_ecc = keys::endorsement(&mut talk, Ek::Ecc, known_ecc, permanent)?;
    let now = record::Record { ek_rsa, ek_ecc };
    if before.as_ref() != Some(&now) {
        record::write(&mut talk, &now)?;
    }
    Ok(Identity { ek_rsa: now.ek_rsa, ek_ecc: now.ek_ecc, ak })
}

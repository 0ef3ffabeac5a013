// SPDX-License-Identifier: Apache-2.0
//! Who a TPM is: its endorsement keys, its attestation key and their certificates.
//!
//! All of it is done before the firmware runs, when the platform hierarchy's authorisation is still empty and the guest is not
//! there: an engine that has power and has had `TPM2_Startup(CLEAR)`. Afterwards power it off and on again, so that the firmware finds
//! a TPM that nobody has started.
//!
//! - The endorsement keys are those of `swtpm_setup`, made once and persistent. A guest that has the owner's authorisation may remove
//!   them or put others in their place; so their public areas are also kept in an NV index that only the platform can write
//!   ([`RECORD`]). What is not as recorded is made anew from the seed, which gives the same key; where the guest has
//!   set an authorisation that forbids it, the record is the answer. The VM starts all the same.
//! - The attestation key is in the platform hierarchy, where the guest cannot get in the way. It is made from the seed at each start and
//!   compared with the persistent one, which is replaced when it is another: it is never believed because it is there.
//! - Certificates are written only if they are not there already.

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

/// Why a TPM has no identity.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The engine does not work.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The TPM did not do what it has to.
    #[error("provision-refused: {command}: the TPM refused with {}", cvmm_tpm::response::describe(*.code))]
    Refused {
        /// The command.
        command: &'static str,
        /// The response code.
        code: u32,
    },
    /// Its answer makes no sense.
    #[error("provision-answer: {command}: {why}")]
    Answer {
        /// The command.
        command: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A key that it made is not as asked for.
    #[error("provision-key: the TPM made a {0} that is not of its template; this libtpms cannot be used")]
    Key(&'static str),
    /// The guest is in the way.
    #[error(
        "provision-auth: the {key} is needed, and the guest has set an authorisation of the endorsement hierarchy; remove it in the guest (tpm2_changeauth -c e) or clear the TPM there (tpm2_clear)"
    )]
    Auth {
        /// Which.
        key: &'static str,
    },
    /// A certificate that cannot be stored.
    #[error("provision-size: the {name} has {len} bytes; an NV index holds 1 to {MAX_CERTIFICATE}")]
    Size {
        /// Which.
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
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ek::Rsa => "RSA-2048 endorsement key",
            Ek::Ecc => "P-384 endorsement key",
        }
    }

    /// Its persistent handle.
    #[must_use]
    pub fn handle(self) -> u32 {
        match self {
            Ek::Rsa => place::EK_RSA,
            Ek::Ecc => place::EK_ECC,
        }
    }

    /// What it is made of.
    #[must_use]
    pub fn template(self) -> Public {
        match self {
            Ek::Rsa => cvmm_tpm::template::ek_rsa(),
            Ek::Ecc => cvmm_tpm::template::ek_ecc(),
        }
    }
}

/// Who a TPM is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The RSA-2048 endorsement key.
    pub ek_rsa: Public,
    /// The P-384 endorsement key.
    pub ek_ecc: Public,
    /// The attestation key.
    pub ak: Public,
}

/// Makes sure that the TPM has its keys, and says which they are.
pub fn provision(engine: &mut dyn TpmEngine) -> Result<Identity, ProvisionError> {
    let mut talk = Talk(engine);
    // First, so that it has room in the NV before anything else.
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

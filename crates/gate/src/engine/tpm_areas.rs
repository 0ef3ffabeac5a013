// SPDX-License-Identifier: Apache-2.0
//! The public areas by which a VM's TPM identifies itself.

use cvmm_gate_protocol::messages::lease::Identify;
use cvmm_tpm::public::{Key, Public};
use cvmm_tpm::template;

use super::checks::decode;
use crate::reasons::{Code, Denial};
use crate::tpm_ca::{PublicKey, TpmKeys};

/// RSA keys have the exponent 65537 where they say 0 (TPM 2.0 Library, Part 2, 12.2.3.5).
const DEFAULT_EXPONENT: u32 = 65_537;

/// The endorsement keys and the attestation key, each of the template for such a key.
#[derive(Debug)]
pub(super) struct TpmAreas {
    pub(super) ek_rsa: Public,
    pub(super) ek_ecc: Public,
    pub(super) ak: Public,
}

impl TpmAreas {
    pub(super) fn parse(identify: &Identify) -> Result<Self, Denial> {
        let public = |field: &str, text: &str| {
            Public::parse(&decode(field, text)?).or_else(|error| {
                Code::TpmPublic.deny(format!("{field} is not the public area of a key: {error}"))
            })
        };
        let areas = Self {
            ek_rsa: public("ek_rsa", &identify.ek_rsa)?,
            ek_ecc: public("ek_ecc", &identify.ek_ecc)?,
            ak: public("ak", &identify.ak)?,
        };
        // A key that signs anything, or that another TPM can have, does not identify this one.
        for (field, public, template) in [
            ("ek_rsa", &areas.ek_rsa, template::ek_rsa()),
            ("ek_ecc", &areas.ek_ecc, template::ek_ecc()),
            ("ak", &areas.ak, template::ak()),
        ] {
            if !public.is_of(&template) {
                return Code::TpmPublic.deny(format!("{field} does not have the template of such a key"));
            }
        }
        Ok(areas)
    }

    /// The names of the keys, hexadecimal.
    pub(super) fn names(&self) -> [String; 3] {
        [&self.ek_rsa, &self.ek_ecc, &self.ak].map(|key| hex::encode(key.name().as_bytes()))
    }

    pub(super) fn keys(&self) -> Result<TpmKeys<'_>, Denial> {
        Ok(TpmKeys { ek_rsa: key(&self.ek_rsa)?, ek_ecc: key(&self.ek_ecc)?, ak: key(&self.ak)? })
    }
}

fn key(public: &Public) -> Result<PublicKey<'_>, Denial> {
    match &public.key {
        Key::Rsa { modulus, exponent, .. } => {
            let exponent = if *exponent == 0 { DEFAULT_EXPONENT } else { *exponent };
            Ok(PublicKey::Rsa { modulus, exponent })
        }
        Key::Ecc { x, y, .. } if x.len() == 48 && y.len() == 48 => Ok(PublicKey::P384 { x, y }),
        _ => Code::TpmPublic.deny("the coordinates of a key do not have the length of its curve"),
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The part of a guest's evidence that its TPM made.

use std::collections::btree_map::Entry;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_tpm::HashAlg;
use cvmm_tpm::pcr::PcrValues;
use serde::{Deserialize, Serialize};

/// What a guest's TPM says: TPM2_Quote by the attestation key, its qualifyingData being
/// [`crate::binding::quote_data`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// Base64 of the TPMS_ATTEST.
    pub attest: String,
    /// Base64 of the TPMT_SIGNATURE.
    pub signature: String,
    /// Values of the quoted PCRs, all and no others.
    pub pcrs: Vec<Pcr>,
    /// Base64 of the firmware's event log (at most 128 KiB), if the guest can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<String>,
}

/// Value of a PCR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcr {
    /// `sha256`, `sha384` ...
    pub bank: String,
    /// 0 to 23.
    pub index: u8,
    /// Hexadecimal.
    pub value: String,
}

impl Quote {
    /// From bytes.
    #[must_use]
    pub fn new(attest: &[u8], signature: &[u8], pcrs: &PcrValues, event_log: Option<&[u8]>) -> Self {
        Self {
            attest: STANDARD.encode(attest),
            signature: STANDARD.encode(signature),
            pcrs: from_values(pcrs),
            event_log: event_log.map(|log| STANDARD.encode(log)),
        }
    }
}

/// In the form of messages.
#[must_use]
pub fn from_values(values: &PcrValues) -> Vec<Pcr> {
    let pcr = |((bank, index), value): (&(HashAlg, u8), &Vec<u8>)| Pcr {
        bank: bank.name().to_owned(),
        index: *index,
        value: hex::encode(value),
    };
    values.0.iter().map(pcr).collect()
}

/// From a message; `None` if one is malformed or appears twice.
#[must_use]
pub fn to_values(pcrs: &[Pcr]) -> Option<PcrValues> {
    let mut values = PcrValues::default();
    for Pcr { bank, index, value } in pcrs {
        let bank = HashAlg::from_name(bank)?;
        match values.0.entry((bank, *index)) {
            Entry::Vacant(place) => place.insert(digest(value)?),
            Entry::Occupied(_) => return None,
        };
    }
    Some(values)
}

/// A digest in hexadecimal, SHA-512 or shorter.
fn digest(text: &str) -> Option<Vec<u8>> {
    if text.len() > 128 { None } else { hex::decode(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_out_as_they_went_in_or_not_at_all() {
        let mut values = PcrValues::default();
        values.0.insert((HashAlg::Sha256, 4), vec![0xa5; 32]);
        values.0.insert((HashAlg::Sha384, 4), vec![1; 48]);
        let pcrs = from_values(&values);
        assert_eq!(to_values(&pcrs), Some(values));
        let with = |change: fn(&mut Vec<Pcr>)| {
            let mut pcrs = pcrs.clone();
            change(&mut pcrs);
            to_values(&pcrs)
        };
        assert_eq!(with(|pcrs| pcrs[0].bank = "sha3".into()), None);
        assert_eq!(with(|pcrs| pcrs[0].value = "+f".into()), None);
        assert_eq!(with(|pcrs| pcrs[0].value = "0".into()), None);
        assert_eq!(with(|pcrs| pcrs[0].value = "00".repeat(65)), None);
        assert_eq!(with(|pcrs| pcrs.push(pcrs[0].clone())), None);
    }
}

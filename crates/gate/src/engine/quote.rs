// SPDX-License-Identifier: Apache-2.0
//! The quote of a running guest's TPM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::messages::quote::to_values;
use cvmm_gate_protocol::messages::{NONCE_LEN, Quote};
use cvmm_reason::Reason;
use cvmm_tpm::Public;
use cvmm_tpm::pcr::PcrValues;
use cvmm_tpm::quote::{Evidence, QuoteClaims, verify};

use super::{decode, one};
use crate::store::admissions::AdmittedTpm;

/// A quote, out of its base64, and the key that it has to be by.
pub(super) struct Shown {
    ak: Public,
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcrs: PcrValues,
    event_log: Option<Vec<u8>>,
}

impl Shown {
    /// What a guest shows whose TPM is on record.
    pub(super) fn new(quote: &Quote, tpm: Option<&AdmittedTpm>) -> Result<Self, Vec<Reason>> {
        let tpm = tpm.ok_or_else(|| {
            one("quote.tpm", "this VM was admitted without a TPM: nobody knows whose quote this is")
        })?;
        let Quote { attest, signature, pcrs, event_log } = quote;
        let pcrs = to_values(pcrs)
            .ok_or_else(|| one("evidence.format", "a PCR of the quote is malformed, or there twice"))?;
        Ok(Self {
            ak: recorded(tpm).ok_or_else(|| {
                one("gate.state", "the record of this VM's admission has no attestation key")
            })?,
            attest: decode("quote.attest", attest)?,
            signature: decode("quote.signature", signature)?,
            pcrs,
            event_log: event_log.as_deref().map(|log| decode("quote.event_log", log)).transpose()?,
        })
    }

    /// The REPORT_DATA that welds a report to this quote.
    pub(super) fn report_data(&self, nonce: &[u8; NONCE_LEN], vm_id: &str, key: &[u8]) -> [u8; 64] {
        let name = self.ak.name();
        let quoted =
            binding::Quoted { ak_name: name.as_bytes(), attest: &self.attest, signature: &self.signature };
        binding::quoted_report_data(nonce, vm_id, key, &quoted)
    }

    /// What it proves, if it answers `nonce` and is of the guest that has `key`.
    pub(super) fn verify(&self, nonce: &[u8; NONCE_LEN], key: &[u8]) -> Result<QuoteClaims, Vec<Reason>> {
        let evidence = Evidence {
            ak: &self.ak,
            attest: &self.attest,
            signature: &self.signature,
            qualifying_data: &binding::quote_data(nonce, key),
            pcrs: &self.pcrs,
            event_log: self.event_log.as_deref(),
        };
        verify(&evidence).map_err(|error| vec![Reason::new(error.code(), error.to_string())])
    }
}

/// The key of an admission, if its record is whole.
fn recorded(tpm: &AdmittedTpm) -> Option<Public> {
    let public = Public::parse(&STANDARD.decode(&tpm.ak_public).ok()?).ok()?;
    (public.name().to_string() == tpm.ak_name).then_some(public)
}

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

use super::checks::decode;
use crate::reasons::{Code, Denial, state_error};
use crate::store::admissions::AdmittedTpm;

/// A decoded quote, and the key that has to have signed it.
pub(super) struct QuoteEvidence {
    ak: Public,
    attest: Vec<u8>,
    signature: Vec<u8>,
    pcrs: PcrValues,
    event_log: Option<Vec<u8>>,
}

impl QuoteEvidence {
    /// Decodes the quote of a guest that was admitted with `tpm`.
    pub(super) fn parse(quote: &Quote, tpm: Option<&AdmittedTpm>) -> Result<Self, Denial> {
        let tpm = tpm.ok_or_else(|| {
            Code::QuoteTpm
                .reason("this VM was admitted without a TPM: there is no key to verify its quote with")
        })?;
        let Quote { attest, signature, pcrs, event_log } = quote;
        let pcrs = to_values(pcrs)
            .ok_or_else(|| Code::EvidenceFormat.reason("a PCR of the quote is malformed or appears twice"))?;
        Ok(Self {
            ak: recorded_ak(tpm).ok_or_else(|| {
                state_error("the record of this VM's admission has no valid attestation key")
            })?,
            attest: decode("quote.attest", attest)?,
            signature: decode("quote.signature", signature)?,
            pcrs,
            event_log: event_log.as_deref().map(|log| decode("quote.event_log", log)).transpose()?,
        })
    }

    /// The REPORT_DATA that binds a report to this quote.
    pub(super) fn report_data(&self, nonce: &[u8; NONCE_LEN], vm_id: &str, key: &[u8]) -> [u8; 64] {
        let name = self.ak.name();
        let quoted = binding::QuoteBinding {
            ak_name: name.as_bytes(),
            attest: &self.attest,
            signature: &self.signature,
        };
        binding::quoted_report_data(nonce, vm_id, key, &quoted)
    }

    /// Verifies that it answers `nonce` and belongs to the guest with `key`.
    pub(super) fn verify(&self, nonce: &[u8; NONCE_LEN], key: &[u8]) -> Result<QuoteClaims, Reason> {
        let evidence = Evidence {
            ak: &self.ak,
            attest: &self.attest,
            signature: &self.signature,
            qualifying_data: &binding::quote_data(nonce, key),
            pcrs: &self.pcrs,
            event_log: self.event_log.as_deref(),
        };
        verify(&evidence).map_err(|error| Reason::new(error.code(), error.to_string()))
    }
}

/// The attestation key of an admission, if its record is consistent.
fn recorded_ak(tpm: &AdmittedTpm) -> Option<Public> {
    let public = Public::parse(&STANDARD.decode(&tpm.ak_public).ok()?).ok()?;
    (public.name().to_string() == tpm.ak_name).then_some(public)
}

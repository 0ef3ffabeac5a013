// SPDX-License-Identifier: Apache-2.0
//! The evidence for one challenge.

use std::io::Write as _;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding::{self, Purpose, QuoteBinding, quote_data, report_data};
use cvmm_gate_protocol::bundle::{Bundle, TpmEvidence};
use cvmm_gate_protocol::messages::{NONCE_LEN, Quote};
use cvmm_tpm::constants::place;

use crate::tpm::{self, Device, Tpm};
use crate::tsm;

/// Report, certificates and quote.
#[derive(Debug)]
pub struct Evidence {
    /// The report.
    pub report: Vec<u8>,
    /// The certificate table that came with the report.
    pub certificates: Option<Vec<u8>>,
    tpm: Option<TpmQuote>,
}

/// A quote, with the TPM that made it.
#[derive(Debug)]
struct TpmQuote {
    tpm: Tpm<Device>,
    quote: tpm::Quote,
    event_log: Option<Vec<u8>>,
}

impl Evidence {
    /// Requests a quote and a report over `nonce`.
    pub fn collect(vm_id: &str, nonce: &[u8; NONCE_LEN]) -> Result<Self> {
        let tpm = Device::open()?.map(Tpm::new).transpose()?.flatten();
        let tpm = tpm.map(|tpm| TpmQuote::request(tpm, nonce)).transpose()?;
        let data = match &tpm {
            Some(TpmQuote { tpm, quote, .. }) => {
                let name = tpm.ak.name();
                let quoted = QuoteBinding {
                    ak_name: name.as_bytes(),
                    attest: &quote.attest,
                    signature: &quote.signature,
                };
                binding::quoted_report_data(nonce, vm_id, &[], &quoted)
            }
            None => report_data(Purpose::Attest, nonce, vm_id, &[]),
        };
        let tsm::Report { report, certificates } = tsm::report(&data)?;
        ensure!(report.get(0x50..0x90) == Some(&data[..]), "the report contains different report data");
        Ok(Self { report, certificates: (!certificates.is_empty()).then_some(certificates), tpm })
    }

    /// The quote, as the gate expects it.
    pub fn quote(&self) -> Option<Quote> {
        self.tpm.as_ref().map(TpmQuote::message)
    }

    /// The evidence as a bundle.
    pub fn bundle(self, vm_id: &str) -> Result<Bundle> {
        let mut bundle = Bundle::new(vm_id, STANDARD.encode(&self.report));
        bundle.certificates = self.certificates.map(|table| STANDARD.encode(table));
        if let Some(mut quote) = self.tpm {
            let mut certificate = |index| -> Result<Option<String>> {
                Ok(quote.tpm.nv(index)?.map(|certificate| STANDARD.encode(certificate)))
            };
            let (ak_certificate, ek_rsa_certificate, ek_ecc_certificate) = (
                certificate(place::AK_CERTIFICATE)?,
                certificate(place::EK_RSA_CERTIFICATE)?,
                certificate(place::EK_ECC_CERTIFICATE)?,
            );
            bundle.tpm = Some(TpmEvidence {
                ak: STANDARD.encode(quote.tpm.ak.to_bytes()),
                ak_certificate,
                ek_rsa_certificate,
                ek_ecc_certificate,
                quote: quote.message(),
            });
        }
        Ok(bundle)
    }
}

impl TpmQuote {
    fn request(mut tpm: Tpm<Device>, nonce: &[u8; NONCE_LEN]) -> Result<Self> {
        let quote = tpm.quote(&quote_data(nonce, &[]))?;
        // The verifier decides whether a quote without a log is sufficient.
        let event_log = tpm::event_log().unwrap_or_else(|error| {
            let _ = writeln!(std::io::stderr(), "warning: {error:#}");
            None
        });
        Ok(Self { tpm, quote, event_log })
    }

    fn message(&self) -> Quote {
        let Self { quote, event_log, .. } = self;
        Quote::new(&quote.attest, &quote.signature, &quote.pcrs, event_log.as_deref())
    }
}

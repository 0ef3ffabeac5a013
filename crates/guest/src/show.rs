// SPDX-License-Identifier: Apache-2.0
//! The evidence for one question.

use std::io::Write as _;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding::{self, Purpose, Quoted, quote_data, report_data};
use cvmm_gate_protocol::bundle::{Bundle, TpmEvidence};
use cvmm_gate_protocol::messages::{NONCE_LEN, Quote};
use cvmm_tpm::constants::place;

use crate::tpm::{self, Device, Tpm};
use crate::tsm;

/// What is shown.
#[derive(Debug)]
pub struct Shown {
    /// The report.
    pub report: Vec<u8>,
    /// The certificate table that came with it.
    pub certificates: Option<Vec<u8>>,
    tpm: Option<Says>,
}

/// What the TPM says.
#[derive(Debug)]
struct Says {
    tpm: Tpm<Device>,
    quoted: tpm::Quoted,
    event_log: Option<Vec<u8>>,
}

/// Asks TPM and security processor about `nonce`.
pub fn show(vm_id: &str, nonce: &[u8; NONCE_LEN]) -> Result<Shown> {
    let tpm = Device::open()?.map(Tpm::new).transpose()?.flatten();
    let tpm = tpm.map(|tpm| quote(tpm, nonce)).transpose()?;
    let data = match &tpm {
        Some(Says { tpm, quoted, .. }) => {
            let name = tpm.ak.name();
            let quoted =
                Quoted { ak_name: name.as_bytes(), attest: &quoted.attest, signature: &quoted.signature };
            binding::quoted_report_data(nonce, vm_id, &[], &quoted)
        }
        None => report_data(Purpose::Attest, nonce, vm_id, &[]),
    };
    let tsm::Report { report, certificates } = tsm::report(&data)?;
    ensure!(report.get(0x50..0x90) == Some(&data[..]), "the report is about something else");
    Ok(Shown { report, certificates: (!certificates.is_empty()).then_some(certificates), tpm })
}

fn quote(mut tpm: Tpm<Device>, nonce: &[u8; NONCE_LEN]) -> Result<Says> {
    let quoted = tpm.quote(&quote_data(nonce, &[]))?;
    // Whether a quote is enough is for who judges to say.
    let event_log = tpm::event_log().unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "warning: {error:#}");
        None
    });
    Ok(Says { tpm, quoted, event_log })
}

impl Shown {
    /// For the gate.
    pub fn quote(&self) -> Option<Quote> {
        self.tpm.as_ref().map(Says::quote)
    }

    /// All of it.
    pub fn bundle(self, vm_id: &str) -> Result<Bundle> {
        let mut bundle = Bundle::new(vm_id, STANDARD.encode(&self.report));
        bundle.certificates = self.certificates.map(|table| STANDARD.encode(table));
        if let Some(mut says) = self.tpm {
            let mut certificate = |index| -> Result<Option<String>> {
                Ok(says.tpm.nv(index)?.map(|certificate| STANDARD.encode(certificate)))
            };
            let (ak_certificate, ek_rsa_certificate, ek_ecc_certificate) = (
                certificate(place::AK_CERTIFICATE)?,
                certificate(place::EK_RSA_CERTIFICATE)?,
                certificate(place::EK_ECC_CERTIFICATE)?,
            );
            bundle.tpm = Some(TpmEvidence {
                ak: STANDARD.encode(says.tpm.ak.to_bytes()),
                ak_certificate,
                ek_rsa_certificate,
                ek_ecc_certificate,
                quote: says.quote(),
            });
        }
        Ok(bundle)
    }
}

impl Says {
    fn quote(&self) -> Quote {
        let Self { quoted, event_log, .. } = self;
        Quote::new(&quoted.attest, &quoted.signature, &quoted.pcrs, event_log.as_deref())
    }
}

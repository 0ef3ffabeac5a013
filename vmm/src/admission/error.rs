// SPDX-License-Identifier: Apache-2.0
//! Why the gate did not admit a guest.

use cvmm_gate_client::client::ClientError;
use cvmm_gate_client::tls::TlsSetupError;
use cvmm_kvm_snp::SevCallError;
use cvmm_kvm_snp::launch::AdmitError;
use cvmm_launch::digest::MeasureError;
use cvmm_launch::id_block::IdError;
use cvmm_sev_host::SevHostError;
use thiserror::Error;

use super::manifest::ManifestError;
use crate::inputs::VerdictKeyError;

/// Why the gate did not admit a guest.
#[derive(Debug, Error)]
pub enum AdmissionError {
    /// The verdict key.
    #[error(transparent)]
    Key(#[from] VerdictKeyError),
    /// The files of a TLS connection.
    #[error("[gate] cannot be used: {0}")]
    Tls(#[from] TlsSetupError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The launch digest.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The exchange with the gate.
    #[error("{source} [{}]", source.code())]
    Client {
        /// What happened.
        #[from]
        source: ClientError,
    },
    /// The ID block it gave.
    #[error("the gate returned an invalid ID block: {0} [gate.id-block]")]
    Identity(#[from] IdError),
    /// The host's own security processor.
    #[error("cannot read the security processor's status: {0}")]
    Platform(#[from] SevHostError),
    /// The host's own report.
    #[error("cannot get a report of the guest from the security processor: {0}")]
    Report(#[source] SevCallError),
    /// The ticket.
    #[error("{0} [ticket.launch]")]
    Admit(#[from] AdmitError),
    /// A first stage presented evidence a second time.
    #[error("the first stage presented evidence twice, but a session has one answer [stage.twice]")]
    StageTwice,
    /// A gate without support for first stages.
    #[error("the gate returned no ticket for the first stage [stage.no-ticket]")]
    NoStageTicket,
    /// A first stage that finished without presenting evidence.
    #[error("the first stage finished without presenting a ticket [stage.not-shown]")]
    NotShown,
}

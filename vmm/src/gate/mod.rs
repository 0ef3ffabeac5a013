// SPDX-License-Identifier: Apache-2.0
//! Asking the attestation gate: before a launch whether it may be, and after it whether the guest may run.
//!
//! The gate judges the manifest ([`manifest`]) and answers with the ID block and HOST_DATA to launch with, and after the launch with a
//! ticket for that very launch. Nothing of an answer is believed that can be checked here. A guest that runs can ask the gate itself
//! through [`channel`].

pub mod channel;
pub mod hold;
pub mod manifest;
pub mod stage;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cvmm_gate_client::client::lease::{Key, Prepared};
use cvmm_gate_client::client::{Approved, ClientError, Gate, Launched, Proposal};
use cvmm_gate_client::frame::FrameError;
use cvmm_gate_client::tls::{Files, Tls, TlsSetupError};
use cvmm_gate_client::transport::{ConnectError, Endpoint};
use cvmm_gate_protocol::manifest::{Manifest, TpmIdentity};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_kvm_snp::SevCallError;
use cvmm_kvm_snp::launch::{AdmitError, Admitted, Finished};
use cvmm_launch::digest::{self, MeasureError};
use cvmm_launch::id_block::{IdError, Identity};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_sev_host::{SevDevice, SevHostError};
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use thiserror::Error;
use zerocopy::IntoBytes;

use self::hold::Claim;
use self::manifest::ManifestError;
use crate::config::{self, Config, GateEndpoint};
use crate::exit_code::ExitStatus;
use crate::machine::Inputs;

/// A public key's file has a few hundred bytes.
const MAX_KEY: u64 = 4096;

/// Why the gate did not admit the guest.
#[derive(Debug, Error)]
pub enum GateError {
    /// The verdict key.
    #[error("gate.verdict_key {path} cannot be used: {problem}")]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The files of a TLS connection.
    #[error("[gate] cannot be used: {0}")]
    Tls(#[from] TlsSetupError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The launch digest.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// Asking.
    #[error("{source} [{}]", source.code())]
    Client {
        /// What happened.
        #[from]
        source: ClientError,
    },
    /// The ID block it gave.
    #[error("the gate's id block is of no use: {0} [gate.id-block]")]
    Identity(#[from] IdError),
    /// The host's own security processor.
    #[error("cannot read the security processor's status: {0}")]
    Platform(#[from] SevHostError),
    /// The host's own report.
    #[error("the security processor gave no report of the guest: {0}")]
    Report(#[source] SevCallError),
    /// The ticket.
    #[error("{0} [ticket.launch]")]
    Admit(#[from] AdmitError),
    /// A first stage shows evidence a second time.
    #[error("the first stage showed evidence twice: a session has one answer [stage.twice]")]
    StageTwice,
    /// A gate that knows nothing of first stages.
    #[error("the gate gave no ticket for the first stage [stage.no-ticket]")]
    NoStageTicket,
    /// A first stage that was done without having shown anything.
    #[error("the first stage was done without a ticket [stage.not-shown]")]
    NotShown,
}

impl GateError {
    /// The exit code for it.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Key { .. } | Self::Tls(_) => ExitStatus::File,
            Self::Manifest(_) | Self::Measure(_) => ExitStatus::LaunchRefused,
            Self::Client { source: ClientError::Connect(ConnectError::Unreachable { .. }) } => {
                ExitStatus::GateUnreachable
            }
            // Somebody listens. A stranger, or a gate that takes us for one, is not there for us; one that is late is silent.
            Self::Client {
                source:
                    ClientError::Connect(ConnectError::Handshake { source, .. })
                    | ClientError::NoAnswer { source, .. },
            } => match source {
                FrameError::Tls(_) => ExitStatus::GateUnreachable,
                _ => ExitStatus::GateSilent,
            },
            Self::Client { source: ClientError::Denied(_) } => ExitStatus::GateDenied,
            Self::Client { source: ClientError::Answer { .. } } | Self::Identity(_) => ExitStatus::GateAnswer,
            Self::Client { source: ClientError::Ticket(_) } | Self::Admit(_) => ExitStatus::Ticket,
            Self::Platform(_) | Self::Report(_) => ExitStatus::Host,
            Self::NoStageTicket => ExitStatus::GateAnswer,
            Self::StageTwice | Self::NotShown => ExitStatus::NotAdmitted,
        }
    }
}

/// Where the gate listens, with the files of a TLS connection read.
pub fn endpoint(settings: &GateEndpoint) -> Result<Endpoint, TlsSetupError> {
    Ok(match settings {
        GateEndpoint::Unix { socket } => Endpoint::Unix(socket.clone()),
        GateEndpoint::Tls { host, port, ca, client_certificate, client_key } => Endpoint::Tls(Tls::new(
            host,
            *port,
            Files { ca, certificate: client_certificate, key: client_key },
        )?),
    })
}

/// The gate of a VM.
#[derive(Debug)]
pub struct Asker {
    gate: Gate,
    policy: String,
    vm_id: String,
}

/// What the gate is asked about.
#[derive(Debug)]
pub struct Described {
    manifest: Manifest,
    digest: Digest,
}

/// A launch that the gate has approved.
#[derive(Debug)]
pub struct Approval {
    approved: Approved,
    identity: Identity,
    digest: Digest,
}

/// The key in a PEM file; what is wrong with it.
pub fn verdict_key(path: &Path) -> Result<VerdictKey, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    io::Read::read_to_string(&mut io::Read::take(file, MAX_KEY), &mut text)
        .map_err(|error| error.to_string())?;
    VerdictKey::from_pem(&text).map_err(|error| error.to_string())
}

impl Asker {
    /// The gate that `settings` name.
    pub fn open(settings: &config::Gate) -> Result<Self, GateError> {
        let config::Gate { endpoint: at, verdict_key, policy, vm_id, timeout, channel: _ } = settings;
        let key = self::verdict_key(verdict_key)
            .map_err(|problem| GateError::Key { path: verdict_key.clone(), problem })?;
        Ok(Self {
            gate: Gate { endpoint: endpoint(at)?, key, timeout: Duration::from_secs((*timeout).into()) },
            policy: policy.clone(),
            vm_id: vm_id.clone(),
        })
    }

    /// The VM's name at the gate.
    pub fn vm_id(&self) -> &str {
        &self.vm_id
    }

    /// What there is to ask about: the VM of `config` and `inputs` with virtual CPUs of `model`. Reads all that is launched.
    pub fn describe(
        &self,
        config: &Config,
        inputs: &Inputs,
        model: VcpuModel,
    ) -> Result<Described, GateError> {
        let (signature, features) = (model.signature.0, model.features.0);
        Ok(Described {
            manifest: manifest::manifest(config, inputs, &self.vm_id, signature, features)?,
            digest: digest::measure(&inputs.plan, model, None, &mut ())?,
        })
    }

    /// Asks for the keys of the VM's state, before its TPM is known.
    pub fn prepare(&self, described: &Described) -> Result<Prepared, GateError> {
        Ok(self.gate.prepare(&self.proposal(described))?)
    }

    /// What it takes to take a run up again whose file has `key`.
    pub fn claim(&self, key: Key) -> Claim {
        Claim { gate: self.gate.clone(), vm_id: self.vm_id.clone(), key }
    }

    fn proposal(&self, described: &Described) -> Proposal {
        Proposal {
            policy: self.policy.clone(),
            vm_id: self.vm_id.clone(),
            // Strings, numbers and structs of them are always JSON.
            manifest: serde_json::to_string(&described.manifest).unwrap_or_default(),
            digest: described.digest,
        }
    }

    /// Asks whether that VM may be launched; its TPM is `tpm`, if the gate has certified one.
    pub fn ask(&self, mut described: Described, tpm: Option<&TpmIdentity>) -> Result<Approval, GateError> {
        if let Some(vtpm) = &mut described.manifest.machine.vtpm {
            vtpm.identity = tpm.cloned();
        }
        let approved = self.gate.admit(self.proposal(&described))?;
        let Described { manifest, digest } = described;
        let identity = Identity::from_bytes(approved.id_block(), approved.id_auth())?;
        // The security processor would find out too; here it costs no launch.
        identity.check_launch(digest, GuestPolicy(manifest.launch.policy))?;
        cvmm_log_limit::info!(
            session = approved.session(),
            policy = approved.policy().id,
            version = approved.policy().version,
            "the gate approves of this launch"
        );
        Ok(Approval { approved, identity, digest })
    }
}

impl Approval {
    /// The launch digest that was approved.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The gate's ID block.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The gate's name for this launch.
    pub fn session(&self) -> &str {
        self.approved.session()
    }

    /// HOST_DATA to launch with.
    pub fn host_data(&self) -> &[u8; 32] {
        self.approved.host_data()
    }

    /// Shows the gate what was launched, and lets the guest run if it says so.
    pub fn admit(self, finished: Finished) -> Result<Admitted, GateError> {
        let platform_status = SevDevice::open()?.platform_status()?.as_bytes().to_vec();
        let report = finished.host_report().map_err(GateError::Report)?.map(|report| report.to_vec());
        let ticket =
            self.approved.evidence(Launched { platform_status, report, key: None, certificates: None })?;
        cvmm_log_limit::info!(evidence = ticket.evidence_class(), "the gate admits the guest");
        Ok(finished.admit(ticket)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_is_not_there_differs_from_one_that_is_silent() {
        let connect = |source| GateError::from(ClientError::Connect(source));
        let handshake = |source| connect(ConnectError::Handshake { at: String::new(), source });
        let answer = |source| GateError::from(ClientError::NoAnswer { question: "admit", source });
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (error, status, code) in [
            (
                connect(ConnectError::Unreachable { at: String::new(), source: refused }),
                ExitStatus::GateUnreachable,
                "gate.unreachable",
            ),
            // TLS 1.3: a client may hear that it is not accepted when it waits for its first answer.
            (handshake(FrameError::Tls(String::new())), ExitStatus::GateUnreachable, "gate.tls"),
            (answer(FrameError::Tls(String::new())), ExitStatus::GateUnreachable, "gate.tls"),
            (handshake(FrameError::Timeout), ExitStatus::GateSilent, "gate.timeout"),
            (handshake(FrameError::Closed), ExitStatus::GateSilent, "gate.closed"),
            (answer(FrameError::Timeout), ExitStatus::GateSilent, "gate.timeout"),
        ] {
            assert_eq!(error.exit_status(), status, "{error}");
            assert!(error.to_string().contains(&format!("[{code}]")), "{error}");
        }
    }
}

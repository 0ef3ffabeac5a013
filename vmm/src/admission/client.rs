// SPDX-License-Identifier: Apache-2.0
//! The client of the gate: what it proposes, and what it makes of the answers.

use std::time::Duration;

use cvmm_gate_client::client::lease::{Key, PendingLease};
use cvmm_gate_client::client::{Gate, Proposal};
use cvmm_gate_client::tls::{Files, Tls, TlsSetupError};
use cvmm_gate_client::transport::Endpoint;
use cvmm_gate_protocol::manifest::{Manifest, TpmIdentity};
use cvmm_launch::digest;
use cvmm_launch::id_block::Identity;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;

use super::error::AdmissionError;
use super::lease::ResumeToken;
use super::manifest::manifest;
use super::session::LaunchSession;
use crate::config::{self, Config, GateEndpoint};
use crate::inputs::{Inputs, verdict_key};

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
pub struct AdmissionClient {
    gate: Gate,
    policy: String,
    vm_id: String,
}

/// The launch to be admitted.
#[derive(Debug)]
pub struct LaunchRequest {
    manifest: Manifest,
    digest: Digest,
}

impl AdmissionClient {
    /// The gate of `settings`.
    pub fn open(settings: &config::Gate) -> Result<Self, AdmissionError> {
        let config::Gate { endpoint: at, verdict_key: key, policy, vm_id, timeout, channel: _ } = settings;
        let key = verdict_key(key)?;
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

    /// Describes the VM of `config` and `inputs` with virtual CPUs of `model`. Reads and hashes everything
    /// that is launched.
    pub fn request(
        &self,
        config: &Config,
        inputs: &Inputs,
        model: VcpuModel,
    ) -> Result<LaunchRequest, AdmissionError> {
        let (signature, features) = (model.signature.0, model.features.0);
        Ok(LaunchRequest {
            manifest: manifest(config, inputs, &self.vm_id, signature, features)?,
            digest: digest::measure(&inputs.plan, model, None, &mut ())?,
        })
    }

    /// Asks for the keys of the VM's persistent state, before its TPM is known.
    pub fn prepare(&self, request: &LaunchRequest) -> Result<PendingLease, AdmissionError> {
        Ok(self.gate.prepare(&self.proposal(request))?)
    }

    /// Credentials to resume the lease of the VM whose state file has `key`.
    pub fn resume_token(&self, key: Key) -> ResumeToken {
        ResumeToken { gate: self.gate.clone(), vm_id: self.vm_id.clone(), key }
    }

    fn proposal(&self, request: &LaunchRequest) -> Proposal {
        Proposal {
            policy: self.policy.clone(),
            vm_id: self.vm_id.clone(),
            // Strings, numbers and structs of them are always JSON.
            manifest: serde_json::to_string(&request.manifest).unwrap_or_default(),
            digest: request.digest,
        }
    }

    /// Proposes a launch; its TPM is `tpm`, if the gate has certified one.
    pub fn propose(
        &self,
        mut request: LaunchRequest,
        tpm: Option<&TpmIdentity>,
    ) -> Result<LaunchSession, AdmissionError> {
        if let Some(vtpm) = &mut request.manifest.machine.vtpm {
            vtpm.identity = tpm.cloned();
        }
        let approved = self.gate.admit(self.proposal(&request))?;
        let LaunchRequest { manifest, digest } = request;
        let identity = Identity::from_bytes(approved.id_block(), approved.id_auth())?;
        // The security processor would find out too; here it costs no launch.
        identity.check_launch(digest, GuestPolicy(manifest.launch.policy))?;
        cvmm_log_limit::info!(
            session = approved.session(),
            policy = approved.policy().id,
            version = approved.policy().version,
            "gate approved the launch"
        );
        Ok(LaunchSession::new(approved, identity, digest, manifest.launch.first_stage.is_some()))
    }
}

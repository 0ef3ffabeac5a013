// SPDX-License-Identifier: Apache-2.0
//! A launch: approved by its manifest, admitted by its evidence.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::manifest::{self, Manifest};
use cvmm_gate_protocol::messages::{Admit, Approval, Evidence, NONCE_LEN, Response};
use cvmm_launch::id_block::Identity;
use cvmm_policy::{EvidenceClass, Expected, LaunchFacts};
use cvmm_snp::digest::Digest;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::appraisal::TicketRequest;
use super::checks::{check_deadline, check_protocol, decode, expect_eq, random, session_id};
use super::core::Engine;
use super::exchange::Exchange;
use super::platform;
use super::record::{Change, Outcome};
use super::session::{Launch, Session, State};
use crate::clients::Client;
use crate::policies::ActivePolicy;
use crate::reasons::{Code, Denial, reject_if_any};
use crate::store::admissions::Admission;
use crate::store::check_vm_name;
use cvmm_gate_protocol::binding::sha384;
use cvmm_policy::rego::input::{Facts, Stage};

/// A launch that satisfies its policy, as far as the manifest tells.
pub(super) struct ApprovedLaunch {
    pub(super) manifest: Manifest,
    pub(super) policy: Arc<ActivePolicy>,
    pub(super) digest: Digest,
}

impl Engine {
    /// Appraises a launch by its manifest `text`, for which the VMM claims a digest. A client learns nothing
    /// about VMs that it may not ask about.
    pub(super) fn appraise_launch(
        &self,
        client: &Client,
        policy: &str,
        text: &str,
        claimed: &str,
        exchange: &mut Exchange,
    ) -> Result<ApprovedLaunch, Denial> {
        let now = exchange.now;
        let manifest: Manifest = serde_json::from_str(text)
            .or_else(|error| Code::ManifestFormat.deny(format!("the manifest cannot be parsed: {error}")))?;
        if manifest.format != manifest::FORMAT {
            return Code::ManifestFormat.deny(format!("unknown format {} of the manifest", manifest.format));
        }
        check_vm_name(&manifest.vm_id)?;
        exchange.vm_id.clone_from(&manifest.vm_id);
        client.may_ask(policy, &manifest.vm_id)?;
        let policy = self.policy(policy)?;
        self.check_owner(&policy, &manifest.vm_id)?;
        reject_if_any(policy.policy.appraise_time(now))?;
        let digest = self.artifacts.digest(client.name(), &manifest.launch)?;
        if claimed.parse() != Ok(digest) {
            return Code::ManifestDigest.deny(format!(
                "launch digest mismatch: the VMM expects {claimed}, but its manifest gives {digest}; compare the files"
            ));
        }
        let facts = LaunchFacts {
            snp: manifest.isolation == "snp",
            profile: profile(&manifest),
            digest,
            policy: GuestPolicy(manifest.launch.policy),
            vcpus: manifest.launch.vcpus,
            memory: manifest.launch.memory,
            debug: &manifest.machine.debug,
            vlek_only: manifest.machine.vlek_only,
            cpuid_corrections: manifest.machine.cpuid_corrections,
        };
        reject_if_any(policy.policy.appraise_launch(&facts))?;
        // Rego code can only refuse more: it is asked about launches that satisfy the policy's keys.
        reject_if_any(policy.ask(&Facts {
            stage: Stage::Launch,
            now,
            policy: (&policy.id.id, policy.id.version),
            launch: Some((&manifest, digest.to_string())),
            platform: None,
            report: None,
        }))?;
        Ok(ApprovedLaunch { manifest, policy, digest })
    }

    pub(super) fn admit(
        &self,
        session: &mut Session,
        admit: &Admit,
        exchange: &mut Exchange,
    ) -> Result<Outcome, Denial> {
        let Admit { protocol, policy, manifest: text, digest: claimed, nonce: vmm_nonce } = admit;
        check_protocol(*protocol)?;
        if decode("nonce", vmm_nonce)?.len() != NONCE_LEN {
            return Code::EvidenceFormat.deny(format!("the VMM's nonce has to have {NONCE_LEN} bytes"));
        }
        let ApprovedLaunch { manifest, policy, digest } =
            self.appraise_launch(&session.client, policy, text, claimed, exchange)?;
        let tpm = self.tpm_of(&policy.id.id, &manifest)?;
        let (id, nonce) = (session_id()?, random()?);
        exchange.session.clone_from(&id);
        let mut block = IdBlock::new(digest, GuestPolicy(manifest.launch.policy));
        block.family_id = policy.policy.guest.family_id.unwrap_or_default();
        block.image_id = policy.policy.guest.image_id.unwrap_or_default();
        block.guest_svn = U32::new(policy.policy.guest.min_svn);
        let identity = Identity::signed(block, &self.keys.id, self.keys.author.as_ref())
            .or_else(|error| Code::GateKey.deny(error.to_string()))?;
        let host_data = binding::host_data(text.as_bytes(), &nonce, &policy.digest);
        let time = Duration::from_secs(policy.policy.ticket.launch_s.into());
        let approval = Approval {
            session: id.clone(),
            nonce: STANDARD.encode(nonce),
            deadline_ms: u64::from(policy.policy.ticket.launch_s) * 1000,
            policy: policy.id.clone(),
            id_block: STANDARD.encode(identity.block().as_bytes()),
            id_auth: STANDARD.encode(identity.auth().as_bytes()),
            host_data: hex::encode(host_data),
        };
        session.state = State::Launch(Box::new(Launch {
            id,
            nonce,
            vmm_nonce: vmm_nonce.clone(),
            until: Instant::now() + time,
            policy,
            manifest_digest: sha384(text.as_bytes()),
            manifest,
            digest,
            host_data,
            tpm,
        }));
        Ok(Response::Approval(approval).into())
    }

    pub(super) fn evidence(
        &self,
        client: &Client,
        launch: &Launch,
        evidence: &Evidence,
        now: i64,
    ) -> Result<Outcome, Denial> {
        check_deadline(launch.until)?;
        let Evidence { session, digest, host_data, platform_status, report, key, certificates } = evidence;
        expect_eq("session", session, &launch.id)?;
        expect_eq("launch digest", digest, &launch.digest.to_string())?;
        expect_eq("HOST_DATA", host_data, &hex::encode(launch.host_data))?;
        let (policy, vm_id) = (&launch.policy.id, &launch.manifest.vm_id);
        // The policy that approved the launch may no longer be in force.
        if self.policy(&policy.id)?.digest != launch.policy.digest {
            return Code::GatePolicy.deny(format!(
                "policy {} has changed since it approved this launch: start the VM again",
                policy.id
            ));
        }
        reject_if_any(launch.policy.policy.appraise_time(now))?;
        let status = decode("platform_status", platform_status)?;
        let mut class = EvidenceClass::IdBlock;
        let mut stage = None;
        let mut host_claims = None;
        if launch.manifest.isolation != "snp" {
            class = EvidenceClass::HostAsserted;
        } else if launch.manifest.launch.first_stage.is_some() {
            stage = Some(self.stage_evidence(launch, evidence, now)?);
            class = EvidenceClass::GuestReport;
        } else if key.is_some() {
            return Code::EvidenceFormat
                .deny("the evidence has a first stage's key, but the launch has no first stage");
        } else if let Some(report) = report {
            let claims =
                self.claims(&decode("report", report)?, certificates.as_deref(), &launch.policy, now)?;
            let expected = Expected {
                // A report that the host requested has no challenge in it.
                report_data: Some(&[0; 64]),
                host_data: Some(&launch.host_data),
                measurement: Some(launch.digest),
                id_key: Some(self.id_key),
            };
            reject_if_any(launch.policy.policy.appraise_claims(&claims, &expected, now))?;
            class = EvidenceClass::HostReport;
            host_claims = Some(claims);
        }
        let facts = platform::facts(&status, launch.manifest.launch.cpu_signature, class)?;
        reject_if_any(launch.policy.policy.appraise_platform(&facts))?;
        reject_if_any(launch.policy.ask(&Facts {
            stage: Stage::Evidence,
            now,
            policy: (&policy.id, policy.version),
            launch: Some((&launch.manifest, launch.digest.to_string())),
            platform: Some(&facts),
            // Of the guest's first stage, or of the host.
            report: stage.as_ref().map(|stage| &stage.claims).or(host_claims.as_ref()),
        }))?;
        // Admissions of one VM are numbered, logged and recorded one after the other.
        let guard = self.admission_locks.lock(vm_id);
        self.admissions.check_put(&policy.id, vm_id, |record| {
            self.admission_quota.add(client, record, self.config.limits.client_vms())
        })?;
        let admission = Admission {
            epoch: self.admissions.epoch(&policy.id, vm_id)?.saturating_add(1),
            session: launch.id.clone(),
            launch_digest: launch.digest.to_string(),
            host_data: hex::encode(launch.host_data),
            manifest_sha384: launch.manifest_digest.to_string(),
            policy: policy.clone(),
            tpm: launch.tpm.clone(),
        };
        let stage = stage.map(|stage| self.stage_ticket(launch, &stage, admission.epoch)).transpose()?;
        let response = self.ticket(TicketRequest {
            stage,
            purpose: "admit",
            vm_id,
            session: &launch.id,
            nonce: &launch.nonce,
            vmm_nonce: &launch.vmm_nonce,
            admission: &admission,
            class,
            now,
            lifetime: launch.policy.policy.ticket.lifetime_s,
        })?;
        let change =
            Change::Admission { vm_id: vm_id.clone(), admission: Box::new(admission), _guard: guard };
        Ok(Outcome { response, change })
    }
}

fn profile(manifest: &Manifest) -> &'static str {
    match manifest.launch.boot {
        manifest::Boot::Uki { .. } => "uki",
        manifest::Boot::Hashes { .. } => "hashes",
        manifest::Boot::Disk => "disk",
    }
}

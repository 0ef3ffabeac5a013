// SPDX-License-Identifier: Apache-2.0
//! A launch: approved by its manifest, admitted by what was launched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::policy::{EvidenceClass, Expected, LaunchFacts, is_name};
use cvmm_gate_protocol::binding;
use cvmm_gate_protocol::manifest::{self, Manifest};
use cvmm_gate_protocol::messages::{Admit, Approval, Evidence, NONCE_LEN, Response};
use cvmm_launch::id_block::Identity;
use cvmm_reason::Reason;
use cvmm_snp::digest::Digest;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{
    Change, Decision, Engine, Outcome, Session, State, Subject, decode, in_time, known_protocol, none_or,
    one, platform, random, same, session_id,
};
use crate::clients::Client;
use crate::policies::{InForce, sha384};
use crate::rego::input::{Known, Stage};
use crate::store::admissions::{Admission, AdmittedTpm};

/// An approved launch.
#[derive(Debug)]
pub struct Launch {
    pub(super) id: String,
    pub(super) nonce: [u8; NONCE_LEN],
    vmm_nonce: String,
    pub(super) until: Instant,
    pub(super) policy: Arc<InForce>,
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    pub(super) digest: Digest,
    pub(super) host_data: [u8; 32],
    tpm: Option<AdmittedTpm>,
}

/// A launch that a policy has nothing against.
pub(super) struct Judged {
    pub(super) manifest: Manifest,
    pub(super) policy: Arc<InForce>,
    pub(super) digest: Digest,
}

impl Engine {
    pub(super) fn admit(&self, session: &mut Session, admit: &Admit, now: i64) -> Decision {
        let mut decision = Decision { vm_id: String::new(), session: String::new(), result: Err(Vec::new()) };
        let result = self.judge(session, admit, now, &mut decision.vm_id, &mut decision.session);
        decision.result = result.map(Outcome::from);
        decision
    }

    /// What policy `policy` says of a launch by the manifest `text`, for which the VMM claims a digest; nothing, to a client that may
    /// not ask about this VM.
    pub(super) fn judge_launch(
        &self,
        client: &Client,
        policy: &str,
        text: &str,
        claimed: &str,
        now: i64,
        vm_id: &mut String,
    ) -> Result<Judged, Vec<Reason>> {
        let manifest: Manifest = serde_json::from_str(text)
            .map_err(|error| one("manifest.format", format!("the manifest is not understood: {error}")))?;
        if manifest.format != manifest::FORMAT {
            return Err(one("manifest.format", format!("the manifest has format {}", manifest.format)));
        }
        if !is_name(&manifest.vm_id) {
            return Err(one("manifest.vm-id", "the VM's name is not 1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        vm_id.clone_from(&manifest.vm_id);
        client.may_ask(policy, vm_id).map_err(|reason| vec![reason])?;
        let policy = self.policy(policy)?;
        self.name_is_free(&policy, vm_id)?;
        none_or(policy.policy.judge_time(now))?;
        let digest = self.artifacts.digest(client.name(), &manifest.launch).map_err(|reason| vec![reason])?;
        if claimed.parse() != Ok(digest) {
            return Err(one(
                "manifest.digest",
                format!(
                    "the VMM expects launch digest {claimed}, its manifest gives {digest}: they are not of the same files"
                ),
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
        none_or(policy.policy.judge_launch(&facts))?;
        // Only what the typed policy has nothing against is asked about: the answer cannot take a refusal back.
        none_or(policy.ask(&Known {
            stage: Stage::Launch,
            now,
            policy: (&policy.id.id, policy.id.version),
            launch: Some((&manifest, digest.to_string())),
            platform: None,
            report: None,
        }))?;
        Ok(Judged { manifest, policy, digest })
    }

    fn judge(
        &self,
        session: &mut Session,
        admit: &Admit,
        now: i64,
        vm_id: &mut String,
        id: &mut String,
    ) -> Result<Response, Vec<Reason>> {
        let Admit { protocol, policy, manifest: text, digest: claimed, nonce: vmm_nonce } = admit;
        known_protocol(*protocol)?;
        if decode("nonce", vmm_nonce)?.len() != NONCE_LEN {
            return Err(one("evidence.format", "the VMM's nonce has another length"));
        }
        let Judged { manifest, policy, digest } =
            self.judge_launch(&session.client, policy, text, claimed, now, vm_id)?;
        let tpm = self.tpm_of(&policy.id.id, &manifest)?;
        let nonce = random()?;
        *id = session_id()?;
        let mut block = IdBlock::new(digest, GuestPolicy(manifest.launch.policy));
        block.family_id = policy.policy.family_id.unwrap_or_default();
        block.image_id = policy.policy.image_id.unwrap_or_default();
        block.guest_svn = U32::new(policy.policy.min_svn);
        let identity = Identity::signed(block, &self.keys.id, self.keys.author.as_ref())
            .map_err(|error| one("gate.key", error.to_string()))?;
        let host_data = binding::host_data(text.as_bytes(), &nonce, &policy.digest);
        let time = Duration::from_secs(policy.policy.launch_time.into());
        let approval = Approval {
            session: id.clone(),
            nonce: STANDARD.encode(nonce),
            deadline_ms: u64::from(policy.policy.launch_time) * 1000,
            policy: policy.id.clone(),
            id_block: STANDARD.encode(identity.block().as_bytes()),
            id_auth: STANDARD.encode(identity.auth().as_bytes()),
            host_data: hex::encode(host_data),
        };
        session.state = State::Launch(Box::new(Launch {
            id: id.clone(),
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
        Ok(Response::Approval(approval))
    }

    pub(super) fn evidence(
        &self,
        client: &Client,
        launch: &Launch,
        evidence: &Evidence,
        now: i64,
    ) -> Result<Outcome, Vec<Reason>> {
        in_time(launch.until)?;
        let Evidence { session, digest, host_data, platform_status, report, key, certificates } = evidence;
        same("session", session, &launch.id)?;
        same("launch digest", digest, &launch.digest.to_string())?;
        same("HOST_DATA", host_data, &hex::encode(launch.host_data))?;
        // It was approved by a policy that may not be in force any more.
        if self.policy(&launch.policy.id.id)?.digest != launch.policy.digest {
            let message = format!(
                "policy {} was changed after it had approved this launch: start the VM again",
                launch.policy.id.id
            );
            return Err(one("gate.policy", message));
        }
        none_or(launch.policy.policy.judge_time(now))?;
        let status = decode("platform_status", platform_status)?;
        let mut class = EvidenceClass::IdBlock;
        let mut stage = None;
        let mut shown = None;
        if launch.manifest.isolation != "snp" {
            class = EvidenceClass::HostAsserted;
        } else if launch.manifest.launch.first_stage.is_some() {
            stage = Some(self.stage_evidence(launch, evidence, now)?);
            class = EvidenceClass::GuestReport;
        } else if key.is_some() {
            return Err(one("evidence.format", "there is a key, but no first stage that it could be of"));
        } else if let Some(report) = report {
            let claims =
                self.claims(&decode("report", report)?, certificates.as_deref(), &launch.policy, now)?;
            let expected = Expected {
                // A report the host asked for has no question in it.
                report_data: Some(&[0; 64]),
                host_data: Some(&launch.host_data),
                measurement: Some(launch.digest),
                id_key: Some(self.id_key),
            };
            none_or(launch.policy.policy.judge_claims(&claims, &expected, now))?;
            class = EvidenceClass::HostReport;
            shown = Some(claims);
        }
        let facts = platform::facts(&status, launch.manifest.launch.cpu_signature, class)?;
        none_or(launch.policy.policy.judge_platform(&facts))?;
        none_or(launch.policy.ask(&Known {
            stage: Stage::Evidence,
            now,
            policy: (&launch.policy.id.id, launch.policy.id.version),
            launch: Some((&launch.manifest, launch.digest.to_string())),
            platform: Some(&facts),
            // Of the guest's first stage, or of the host.
            report: stage.as_ref().map(|stage| &stage.claims).or(shown.as_ref()),
        }))?;
        // Admissions of one VM are numbered, written and remembered one after the other.
        let turn = self.turns.take(&launch.manifest.vm_id);
        self.admitted
            .may_put(&launch.policy.id.id, &launch.manifest.vm_id, |record| {
                self.admitted_quota.add(client, record, self.config.limits.client_vms())
            })
            .map_err(|reason| vec![reason])?;
        let epoch = self
            .admitted
            .epoch(&launch.policy.id.id, &launch.manifest.vm_id)
            .map_err(|reason| vec![reason])?;
        let admission = Admission {
            epoch: epoch.saturating_add(1),
            session: launch.id.clone(),
            launch_digest: launch.digest.to_string(),
            host_data: hex::encode(launch.host_data),
            manifest_sha384: launch.manifest_digest.to_string(),
            policy: launch.policy.id.clone(),
            tpm: launch.tpm.clone(),
        };
        let stage = stage.map(|stage| self.stage_ticket(launch, &stage, admission.epoch)).transpose()?;
        let ticket = self.ticket(Subject {
            stage,
            purpose: "admit",
            vm_id: &launch.manifest.vm_id,
            session: &launch.id,
            nonce: &launch.nonce,
            vmm_nonce: &launch.vmm_nonce,
            admission: &admission,
            class,
            now,
            lifetime: launch.policy.policy.lifetime,
        })?;
        let vm_id = launch.manifest.vm_id.clone();
        Ok(Outcome {
            response: ticket,
            change: Change::Admission { vm_id, admission: Box::new(admission), _turn: turn },
        })
    }
}

fn profile(manifest: &Manifest) -> &'static str {
    match manifest.launch.boot {
        manifest::Boot::Uki { .. } => "uki",
        manifest::Boot::Hashes { .. } => "hashes",
        manifest::Boot::Disk => "disk",
    }
}

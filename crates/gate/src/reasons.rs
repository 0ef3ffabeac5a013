// SPDX-License-Identifier: Apache-2.0
//! Reason codes of the gate, and denials. Other codes come from the policy and the verifier
//! (`cvmm_attest`), from Rego code (`cvmm_policy::rego`) and from the client.

use std::fmt;

use cvmm_attest::refusal::Refusal;
use cvmm_reason::Reason;

macro_rules! codes {
    ($($(#[$attribute:meta])* $name:ident = $code:literal;)*) => {
        /// A code of this gate. Never reused for something else; docs/reference/reasons.md says what to do
        /// about each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code {
            $($(#[$attribute])* $name,)*
        }

        impl Code {
            // Only for the test: outside of it, the compiler finds codes that are never given.
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name),*];

            /// As it is sent and logged.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

codes! {
    /// The protocol's version.
    GateProtocol = "gate.protocol";
    /// A message that cannot be parsed.
    GateMessage = "gate.message";
    /// A message in the wrong state of its session.
    GateOrder = "gate.order";
    /// An answer after its deadline.
    GateLate = "gate.late";
    /// A policy that is not in force.
    GatePolicy = "gate.policy";
    /// A VM that was not admitted.
    GateVm = "gate.vm";
    /// A peer without a `[[client]]`.
    GatePeer = "gate.peer";
    /// A limit on what is done at a time.
    GateBusy = "gate.busy";
    /// A VM or policy that the client's tables do not cover.
    GateClient = "gate.client";
    /// A message of a VMM on a guest's connection, or the reverse.
    GateRole = "gate.role";
    /// A channel for another VM or launch.
    GateChannel = "gate.channel";
    /// A limit per time.
    GateRate = "gate.rate";
    /// A limit on records.
    GateQuota = "gate.quota";
    /// A file that is launched is missing.
    GateArtifact = "gate.artifact";
    /// A certificate or revocation list is missing or unusable.
    GateCertificate = "gate.certificate";
    /// The clock was set back.
    GateClock = "gate.clock";
    /// A signature, a random number or an encryption failed.
    GateKey = "gate.key";
    /// A secret that cannot be released.
    GateSecret = "gate.secret";
    /// A file of the state folder.
    GateState = "gate.state";
    /// The audit log cannot be written.
    GateAudit = "gate.audit";
    /// This gate has no persistent state of VMs.
    KeyNone = "key.none";
    /// A VM without a key.
    KeyVm = "key.vm";
    /// A VM that is running.
    KeyInUse = "key.in-use";
    /// Persistent state of another policy.
    KeyPolicy = "key.policy";
    /// A lease that a later one has superseded.
    KeySuperseded = "key.superseded";
    /// An epoch that was not confirmed.
    KeyOrder = "key.order";
    /// A proof that does not verify.
    KeyProof = "key.proof";
    /// A record that cannot be used.
    KeyRecord = "key.record";
    /// A manifest that cannot be parsed.
    ManifestFormat = "manifest.format";
    /// A VM's name.
    ManifestVmId = "manifest.vm-id";
    /// A launch that is not possible.
    ManifestLaunch = "manifest.launch";
    /// A launch digest that is not the manifest's.
    ManifestDigest = "manifest.digest";
    /// A TPM with persistent state and its identity.
    ManifestVtpm = "manifest.vtpm";
    /// A public area that is not a key of its template.
    TpmPublic = "tpm.public";
    /// Another TPM than the one on record.
    TpmIdentity = "tpm.identity";
    /// A credential that was not activated.
    TpmActivation = "tpm.activation";
    /// Evidence that cannot be parsed.
    EvidenceFormat = "evidence.format";
    /// Evidence of another launch.
    EvidenceOther = "evidence.other";
    /// A platform that is not ready for SNP.
    EvidencePlatform = "evidence.platform";
    /// A report that neither the guest nor its first stage has asked for. Shared with the policy.
    PolicyEvidence = "policy.evidence";
    /// A quote of a VM without a TPM on record.
    QuoteTpm = "quote.tpm";
    /// Limits of RCAR.
    RcarBusy = "rcar.busy";
    /// Evidence of devices.
    RcarDevices = "rcar.devices";
    /// A body that cannot be parsed.
    RcarFormat = "rcar.format";
    /// No common hash algorithm.
    RcarHash = "rcar.hash";
    /// Initialisation data.
    RcarInitData = "rcar.init-data";
    /// A key that nothing can be encrypted to.
    RcarKey = "rcar.key";
    /// The nonce of another challenge.
    RcarNonce = "rcar.nonce";
    /// A guest that another policy has admitted.
    RcarPolicy = "rcar.policy";
    /// A repository that is not released.
    RcarRelease = "rcar.release";
    /// A resource that does not exist.
    RcarResource = "rcar.resource";
    /// A session that does not exist.
    RcarSession = "rcar.session";
    /// Another kind of guest.
    RcarTee = "rcar.tee";
    /// A body that is too long.
    RcarTooLong = "rcar.too-long";
    /// A resource that cannot be read.
    RcarUnreadable = "rcar.unreadable";
    /// The protocol's version.
    RcarVersion = "rcar.version";
}

impl Code {
    /// A reason with this code.
    pub(crate) fn reason(self, message: impl Into<String>) -> Reason {
        Reason::new(self.name(), message)
    }

    /// A denial for this reason alone.
    pub(crate) fn deny<T>(self, message: impl Into<String>) -> Result<T, Denial> {
        Err(self.reason(message).into())
    }

    /// Whether `reason` has this code.
    pub(crate) fn is_of(self, reason: &Reason) -> bool {
        reason.code == self.name()
    }
}

/// Why a request is denied: at least one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial(pub(crate) Vec<Reason>);

impl From<Reason> for Denial {
    fn from(reason: Reason) -> Self {
        Self(vec![reason])
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        refusal.reason().into()
    }
}

/// A denial unless `reasons` is empty.
pub(crate) fn reject_if_any(reasons: Vec<Reason>) -> Result<(), Denial> {
    if reasons.is_empty() { Ok(()) } else { Err(Denial(reasons)) }
}

/// A failure of the state folder.
pub(crate) fn state_error(error: impl fmt::Display) -> Reason {
    Code::GateState.reason(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Code;

    #[test]
    fn every_code_has_one_meaning_and_a_row_in_the_docs() {
        let own =
            Code::ALL.iter().map(|code| code.name()).filter(|code| *code != Code::PolicyEvidence.name());
        let others = [
            cvmm_policy::rego::CODES,
            cvmm_policy::CODES,
            cvmm_attest::refusal::Refusal::CODES,
            cvmm_gate_protocol::bundle::CODES,
            cvmm_gate_client::client::CODES,
            cvmm_gate_client::frame::CODES,
            cvmm_gate_protocol::ticket::CODES,
            cvmm_boot_image::CODES,
            cvmm_launch::reasons::CODES,
            cvmm_launch::reasons::FILES,
            cvmm_igvm::reasons::CODES,
            cvmm_tpm::quote::CODES,
        ];
        assert!(cvmm_policy::CODES.contains(&Code::PolicyEvidence.name()));
        let all: Vec<_> = others.concat().into_iter().chain(own).collect();
        let distinct: BTreeSet<_> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len(), "a code has two meanings");
        // Each of them, and nothing else, has a row in the docs.
        let rows: Vec<_> = include_str!("../../../docs/reference/reasons.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .collect();
        assert!(
            rows.iter().all(|(_, rest)| rest.split('|').filter(|cell| !cell.trim().is_empty()).count() == 2)
        );
        let documented: BTreeSet<_> = rows.iter().map(|(code, _)| *code).collect();
        let missing: Vec<_> = distinct.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&distinct).collect();
        assert!(missing.is_empty(), "docs/reference/reasons.md lacks {missing:?}");
        assert!(unknown.is_empty(), "docs/reference/reasons.md has {unknown:?}, which are never given");
        assert_eq!(documented.len(), rows.len(), "docs/reference/reasons.md has a code twice");
    }
}

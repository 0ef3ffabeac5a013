// SPDX-License-Identifier: Apache-2.0
//! Appraisal by a policy. Every clause is checked, and every reason is reported.

use cvmm_attest::claims::{Claims, FirmwareVersion, Product, Requester, Revocation};
use cvmm_reason::Reason;
use cvmm_reason::duration::Span;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;
use cvmm_tpm::quote::QuoteClaims;

use crate::evidence::EvidenceClass;
use crate::guest::GuestBit;
use crate::platform::CrlRule;
use crate::policy::Policy;
use crate::reasons::Reasons;

/// What is to be launched.
#[derive(Clone, Debug)]
pub struct LaunchFacts<'a> {
    /// Whether it is an SNP guest.
    pub snp: bool,
    /// Boot profile.
    pub profile: &'a str,
    /// Launch digest, as computed by the caller.
    pub digest: Digest,
    /// Guest policy.
    pub policy: GuestPolicy,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Development options that are on.
    pub debug: &'a [String],
    /// Whether reports can only be signed with a VLEK.
    pub vlek_only: bool,
    /// Whether corrections of the CPUID page are accepted.
    pub cpuid_corrections: bool,
}

/// What the host says about its platform.
#[derive(Clone, Copy, Debug)]
pub struct PlatformFacts {
    /// How strong the evidence is.
    pub class: EvidenceClass,
    /// Product.
    pub product: Option<Product>,
    /// Firmware.
    pub firmware: FirmwareVersion,
    /// TCB that reports name.
    pub reported_tcb: Option<TcbParts>,
}

/// What a report has to say, as far as it is known; `None` accepts any value.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// REPORT_DATA.
    pub report_data: Option<&'a [u8; 64]>,
    /// HOST_DATA.
    pub host_data: Option<&'a [u8; 32]>,
    /// Launch digest.
    pub measurement: Option<Digest>,
    /// ID_KEY_DIGEST.
    pub id_key: Option<Digest>,
}

/// The codes a policy gives.
pub const CODES: &[&str] = &[
    "policy.not-yet",
    "policy.over",
    "policy.unresolved",
    "policy.isolation",
    "policy.profile",
    "policy.measurement",
    "policy.guest-policy",
    "policy.debug",
    "policy.migration-agent",
    "policy.vcpus",
    "policy.memory",
    "policy.debug-knob",
    "policy.vlek-only",
    "policy.cpuid-corrections",
    "policy.evidence",
    "policy.product",
    "policy.firmware",
    "policy.min-tcb",
    "policy.min-launch-tcb",
    "policy.provisional",
    "policy.mitigations",
    "policy.signing-key",
    "policy.vmpl",
    "policy.svn",
    "policy.family-id",
    "policy.image-id",
    "policy.id-key",
    "policy.author-key",
    "policy.platform-info",
    "policy.chip-id",
    "policy.csp-id",
    "policy.crl",
    "policy.report-data",
    "policy.host-data",
    "policy.quote",
    "policy.event-log",
    "policy.pcr",
    "policy.rego",
];

impl Policy {
    /// Whether the policy applies at `now`, in seconds of Unix time.
    #[must_use]
    pub fn appraise_time(&self, now: i64) -> Vec<Reason> {
        let mut reasons = Reasons::default();
        reasons.require(self.not_before.is_none_or(|from| now >= from), "policy.not-yet", || {
            format!("policy {} is not valid yet (not_before)", self.id)
        });
        reasons.require(self.not_after.is_none_or(|to| now <= to), "policy.over", || {
            format!("policy {} has expired (not_after)", self.id)
        });
        reasons.0
    }

    /// Appraises what is to be launched.
    #[must_use]
    pub fn appraise_launch(&self, facts: &LaunchFacts<'_>) -> Vec<Reason> {
        let LaunchFacts { snp, profile, digest, policy, vcpus, memory, debug, vlek_only, cpuid_corrections } =
            facts;
        let rules = &self.guest;
        let mut reasons = Reasons::default();
        self.resolved(&mut reasons);
        reasons.require(rules.host_data.is_empty(), "policy.host-data", || {
            "guest.host_data is for guests that were launched without a gate: a gate gives each launch a HOST_DATA of its own".to_owned()
        });
        reasons.require(*snp || self.unsafe_isolation_none, "policy.isolation", || {
            "the guest has no isolation: the host could read it (unsafe_isolation_none)".to_owned()
        });
        reasons.require(rules.profiles.iter().any(|name| name == profile), "policy.profile", || {
            format!("boot profile {profile} is not one of {:?} (guest.profiles)", rules.profiles)
        });
        self.measurement(&mut reasons, *digest);
        self.guest_policy(&mut reasons, *policy);
        reasons.require(rules.max_vcpus.is_none_or(|max| *vcpus <= max), "policy.vcpus", || {
            format!("{vcpus} virtual CPUs are more than guest.max_vcpus")
        });
        let max = rules.max_memory_mib.map_or(u64::MAX, |mib| mib.saturating_mul(1 << 20));
        reasons.require(*memory <= max, "policy.memory", || {
            format!("{memory} bytes of RAM are more than guest.max_memory_mib")
        });
        for knob in *debug {
            reasons.require(rules.debug_knobs.contains(knob), "policy.debug-knob", || {
                format!("debug.{knob} is on in vm.toml (guest.debug_knobs)")
            });
        }
        reasons.require(*vlek_only || !rules.vlek_only, "policy.vlek-only", || {
            "reports could be signed with the chip's own key (guest.vlek_only)".to_owned()
        });
        reasons.require(!cpuid_corrections || rules.cpuid_corrections, "policy.cpuid-corrections", || {
            "corrections of the CPUID page are accepted (guest.cpuid_corrections)".to_owned()
        });
        reasons.0
    }

    /// Appraises the platform, as the host describes it.
    #[must_use]
    pub fn appraise_platform(&self, facts: &PlatformFacts) -> Vec<Reason> {
        let PlatformFacts { class, product, firmware, reported_tcb } = facts;
        let mut reasons = Reasons::default();
        reasons.require(*class >= self.evidence, "policy.evidence", || {
            format!(
                "the evidence is {}, required is at least {} (evidence)",
                class.name(),
                self.evidence.name()
            )
        });
        let Some(product) = product else {
            reasons.require(false, "policy.product", || {
                "the processor belongs to no known product (platform.products)".to_owned()
            });
            return reasons.0;
        };
        self.product(&mut reasons, *product);
        self.firmware(&mut reasons, *firmware, "running");
        let (tcb, min) = (reported_tcb.as_ref(), self.platform.min_tcb.get(product));
        require_tcb(&mut reasons, "policy.min-tcb", "REPORTED_TCB", tcb, min);
        reasons.0
    }

    /// Appraises the claims of a verified report.
    #[must_use]
    pub fn appraise_claims(&self, claims: &Claims, expected: &Expected<'_>, now: i64) -> Vec<Reason> {
        let mut reasons = Reasons::default();
        let (guest, platform) = (&self.guest, &self.platform);
        // Each claim is appraised or named here: a new one does not compile until it is.
        let Claims {
            report_version: _,
            product,
            cpuid: _,
            signing_key,
            requester,
            policy,
            guest_svn,
            family_id,
            image_id,
            measurement,
            host_data,
            report_data,
            id_key_digest,
            author_key_digest,
            report_id: _,
            platform_info,
            chip_id,
            csp_id,
            reported_tcb,
            current_tcb,
            committed_tcb,
            launch_tcb,
            current_firmware,
            committed_firmware,
            launch_mit_vector,
            current_mit_vector,
            revocation,
        } = claims;
        self.resolved(&mut reasons);
        self.product(&mut reasons, *product);
        reasons.require(platform.signing_keys.contains(signing_key), "policy.signing-key", || {
            format!("the report is signed with a {signing_key:?} (platform.signing_keys)")
        });
        match requester {
            Requester::Guest(vmpl) => reasons.require(*vmpl <= guest.max_vmpl, "policy.vmpl", || {
                format!("the report was requested at VMPL {vmpl} (guest.max_vmpl is {})", guest.max_vmpl)
            }),
            Requester::Host => {
                reasons.require(self.evidence <= EvidenceClass::HostReport, "policy.evidence", || {
                    let required = self.evidence.name();
                    format!("the host requested the report, required is at least {required} (evidence)")
                })
            }
        }
        self.guest_policy(&mut reasons, *policy);
        reasons.require(*guest_svn >= guest.min_svn, "policy.svn", || {
            format!("the guest's SVN is {guest_svn} (guest.min_svn is {})", guest.min_svn)
        });
        reasons.require(guest.family_id.is_none_or(|id| id == *family_id), "policy.family-id", || {
            "FAMILY_ID differs from guest.family_id".to_owned()
        });
        reasons.require(guest.image_id.is_none_or(|id| id == *image_id), "policy.image-id", || {
            "IMAGE_ID differs from guest.image_id".to_owned()
        });
        self.measurement(&mut reasons, *measurement);
        let admitted = expected.measurement.is_none_or(|digest| digest == *measurement);
        reasons.require(admitted, "policy.measurement", || {
            format!("launch digest {measurement} differs from the one that this VM was admitted with")
        });
        let admitted = expected.host_data.is_none_or(|data| data == host_data);
        reasons.require(admitted, "policy.host-data", || {
            "HOST_DATA differs from that of this VM's admission".to_owned()
        });
        let listed = guest.host_data.is_empty() || guest.host_data.contains(host_data);
        reasons.require(listed, "policy.host-data", || "HOST_DATA is not in guest.host_data".to_owned());
        let answers = expected.report_data.is_none_or(|data| data == report_data);
        reasons.require(answers, "policy.report-data", || {
            "REPORT_DATA does not answer this challenge".to_owned()
        });
        let known = expected.id_key == Some(*id_key_digest) || guest.id_keys.contains(id_key_digest);
        let any = expected.id_key.is_none() && guest.id_keys.is_empty();
        reasons.require(known || any, "policy.id-key", || {
            format!(
                "the guest was launched with ID key {id_key_digest}, not with the gate's ID block (guest.id_keys)"
            )
        });
        let author = author_key_digest.is_some_and(|key| guest.author_keys.contains(&key));
        reasons.require(guest.author_keys.is_empty() || author, "policy.author-key", || {
            "the author key is not in guest.author_keys".to_owned()
        });
        let missing = platform.required_bits() & !platform_info;
        reasons.require(missing == 0, "policy.platform-info", || {
            format!("PLATFORM_INFO {platform_info:#x} lacks bits {missing:#x} (platform.require)")
        });
        let forbidden = platform.forbidden_bits() & platform_info;
        reasons.require(forbidden == 0, "policy.platform-info", || {
            format!(
                "PLATFORM_INFO {platform_info:#x} has bits {forbidden:#x} (platform.forbid, refuse_unknown_bits)"
            )
        });
        let wanted =
            platform.chip_ids.is_empty() || chip_id.is_some_and(|id| platform.chip_ids.contains(&id));
        let refused = chip_id.is_some_and(|id| platform.refused_chip_ids.contains(&id));
        // A chip that hides its identifier may be any, so also one of these.
        let hidden = chip_id.is_none() && !platform.refused_chip_ids.is_empty();
        reasons.require(wanted && !refused && !hidden, "policy.chip-id", || {
            "the chip is not in platform.chip_ids, or is in platform.refused_chip_ids".to_owned()
        });
        let listed = csp_id.as_ref().is_some_and(|id| platform.csp_ids.contains(id));
        reasons.require(platform.csp_ids.is_empty() || listed, "policy.csp-id", || match csp_id {
            Some(id) => format!("cspID {id:?} is not in platform.csp_ids"),
            None => "the signing key's certificate has no cspID (platform.csp_ids)".to_owned(),
        });
        let min = platform.min_tcb.get(product);
        require_tcb(&mut reasons, "policy.min-tcb", "REPORTED_TCB", Some(reported_tcb), min);
        require_tcb(&mut reasons, "policy.min-tcb", "CURRENT_TCB", Some(current_tcb), min);
        // A product without a minimum for the launch is held to the other one.
        let min = platform.min_launch_tcb.get(product).or(min);
        require_tcb(&mut reasons, "policy.min-launch-tcb", "LAUNCH_TCB", Some(launch_tcb), min);
        let provisional = current_tcb != committed_tcb || current_firmware != committed_firmware;
        reasons.require(platform.allow_provisional || !provisional, "policy.provisional", || {
            "the platform's firmware is not committed: it can be rolled back (platform.allow_provisional)"
                .to_owned()
        });
        self.firmware(&mut reasons, *current_firmware, "running");
        self.firmware(&mut reasons, *committed_firmware, "committed");
        if let Some(mask) = platform.mit_vector.as_ref().and_then(|vector| vector.mask(*product)) {
            for (name, vector) in [("LAUNCH", launch_mit_vector), ("CURRENT", current_mit_vector)] {
                let good = vector.is_some_and(|vector| vector & mask == mask);
                reasons.require(good, "policy.mitigations", || match vector {
                    Some(vector) => {
                        format!("{name}_MIT_VECTOR {vector:#x} lacks bits of {mask:#x} (platform.mit_vector)")
                    }
                    None => format!("the report has no {name}_MIT_VECTOR (platform.mit_vector)"),
                });
            }
        }
        self.crl(&mut reasons, *revocation, now);
        reasons.0
    }

    /// Appraises the verified quote of a running guest's TPM; `None` if the guest has presented none.
    #[must_use]
    pub fn appraise_quote(&self, quote: Option<&QuoteClaims>) -> Vec<Reason> {
        let mut reasons = Reasons::default();
        self.vtpm.appraise(quote, &mut reasons);
        reasons.0
    }

    /// A policy that names configurations instead of digests does not have all its digests yet.
    fn resolved(&self, reasons: &mut Reasons) {
        let unresolved = self.unresolved();
        reasons.require(unresolved.is_none(), "policy.unresolved", || unresolved.unwrap_or_default());
    }

    fn measurement(&self, reasons: &mut Reasons, digest: Digest) {
        let known = self.unsafe_any_measurement || self.guest.measurements.contains(&digest);
        reasons.require(known, "policy.measurement", || {
            format!(
                "launch digest {digest} is not in guest.measurements; cvmm measure --diff shows what differs"
            )
        });
    }

    fn guest_policy(&self, reasons: &mut Reasons, policy: GuestPolicy) {
        let debug = policy.has(GuestPolicy::DEBUG);
        reasons.require(self.unsafe_allow_debug || !debug, "policy.debug", || {
            "the guest policy allows debugging: the host could read the guest's memory (unsafe_allow_debug)".to_owned()
        });
        let agent = policy.has(GuestPolicy::MIGRATE_MA);
        reasons.require(self.unsafe_allow_migration_agent || !agent, "policy.migration-agent", || {
            "the guest policy allows a migration agent (unsafe_allow_migration_agent)".to_owned()
        });
        let missing = GuestBit::mask_of(&self.guest.require) & !policy.0;
        reasons.require(missing == 0, "policy.guest-policy", || {
            format!("guest policy {policy} lacks bits {missing:#x} (guest.require)")
        });
        let forbidden = GuestBit::mask_of(&self.guest.forbid) & policy.0;
        reasons.require(forbidden == 0, "policy.guest-policy", || {
            format!("guest policy {policy} has bits {forbidden:#x} (guest.forbid)")
        });
    }

    fn product(&self, reasons: &mut Reasons, product: Product) {
        reasons.require(self.platform.products.contains(&product), "policy.product", || {
            format!("the processor is a {product} (platform.products)")
        });
    }

    fn firmware(&self, reasons: &mut Reasons, firmware: FirmwareVersion, which: &str) {
        let recent = self.platform.min_firmware.is_none_or(|min| firmware >= min);
        reasons.require(recent, "policy.firmware", || {
            let FirmwareVersion { major, minor, build } = firmware;
            format!("the {which} firmware {major}.{minor}.{build} is older than platform.min_firmware")
        });
    }

    fn crl(&self, reasons: &mut Reasons, revocation: Revocation, now: i64) {
        let platform = &self.platform;
        let Revocation::List { this_update, next_update } = revocation else {
            reasons.require(platform.crl == CrlRule::IfPresent, "policy.crl", || {
                "there is no revocation list (platform.crl)".to_owned()
            });
            return;
        };
        let overdue = platform.crl == CrlRule::Require && next_update.is_none_or(|next| now > next);
        reasons.require(!overdue, "policy.crl", || {
            "the revocation list is overdue; fetch a newer one (platform.crl)".to_owned()
        });
        let age = now.saturating_sub(this_update);
        let max = platform.max_crl_age_days.map_or(i64::MAX, |days| i64::from(days) * 86_400);
        reasons.require(age <= max, "policy.crl", || {
            format!("the revocation list is {} old (platform.max_crl_age_days)", Span(age))
        });
    }
}

/// Part by part: no part makes up for another that is too old.
fn require_tcb(
    reasons: &mut Reasons,
    code: &'static str,
    field: &str,
    found: Option<&TcbParts>,
    min: Option<&TcbParts>,
) {
    // A product without a minimum is not accepted at all, so there is a reason already.
    let Some(min) = min else { return };
    reasons.require(found.is_some_and(|found| found.is_at_least(min)), code, || match found {
        Some(found) => format!("{field} is {found}, the minimum is {min}"),
        None => format!("{field} is malformed, the minimum is {min}"),
    });
}

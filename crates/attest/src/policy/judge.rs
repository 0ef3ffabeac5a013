// SPDX-License-Identifier: Apache-2.0
//! Judging. Every clause is looked at, and every reason is told.

use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;

use super::{CrlRule, EvidenceClass, Policy};
use crate::claims::{Claims, FirmwareVersion, Product, Requester, Revocation};
use cvmm_reason::Reason;
use cvmm_reason::duration::Span;

/// What is to be launched.
#[derive(Clone, Debug)]
pub struct LaunchFacts<'a> {
    /// Whether it is an SNP guest.
    pub snp: bool,
    /// Boot profile.
    pub profile: &'a str,
    /// Launch digest, as computed by whoever asks.
    pub digest: Digest,
    /// Guest policy.
    pub policy: GuestPolicy,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Development knobs that are on.
    pub debug: &'a [String],
    /// Whether reports can only be signed with a VLEK.
    pub vlek_only: bool,
    /// Whether corrections of the CPUID page are taken over.
    pub cpuid_corrections: bool,
}

/// What the host says of its platform.
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

/// What a report has to be about.
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

/// Reasons, as they are found.
#[derive(Default)]
pub(super) struct Reasons(pub(super) Vec<Reason>);

impl Reasons {
    pub(super) fn unless(&mut self, holds: bool, code: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Reason::new(code, message()));
        }
    }
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
    pub fn judge_time(&self, now: i64) -> Vec<Reason> {
        let mut reasons = Reasons(Vec::new());
        reasons.unless(self.not_before.is_none_or(|from| now >= from), "policy.not-yet", || {
            format!("policy {} does not apply yet (not_before)", self.id)
        });
        reasons.unless(self.not_after.is_none_or(|to| now <= to), "policy.over", || {
            format!("policy {} does not apply any more (not_after)", self.id)
        });
        reasons.0
    }

    /// About what is to be launched.
    #[must_use]
    pub fn judge_launch(&self, facts: &LaunchFacts<'_>) -> Vec<Reason> {
        let LaunchFacts { snp, profile, digest, policy, vcpus, memory, debug, vlek_only, cpuid_corrections } =
            facts;
        let mut reasons = Reasons(Vec::new());
        self.resolved(&mut reasons);
        reasons.unless(self.host_data.is_empty(), "policy.host-data", || {
            "guest.host_data is for guests that were launched without a gate: a gate gives each launch a HOST_DATA of its own".to_owned()
        });
        reasons.unless(*snp || self.unsafe_isolation_none, "policy.isolation", || {
            "the guest has no isolation: the host could read it (unsafe_isolation_none)".to_owned()
        });
        reasons.unless(self.profiles.iter().any(|name| name == profile), "policy.profile", || {
            format!("boot profile {profile} is none of {:?} (guest.profiles)", self.profiles)
        });
        self.measurement(&mut reasons, *digest);
        self.guest_policy(&mut reasons, *policy);
        reasons.unless(self.max_vcpus.is_none_or(|most| *vcpus <= most), "policy.vcpus", || {
            format!("{vcpus} virtual CPUs are more than guest.max_vcpus")
        });
        let most = self.max_memory_mib.map_or(u64::MAX, |mib| mib.saturating_mul(1 << 20));
        reasons.unless(*memory <= most, "policy.memory", || {
            format!("{memory} bytes of RAM are more than guest.max_memory_mib")
        });
        for knob in *debug {
            reasons.unless(self.debug_knobs.contains(knob), "policy.debug-knob", || {
                format!("debug.{knob} is on in vm.toml (guest.debug_knobs)")
            });
        }
        reasons.unless(*vlek_only || !self.vlek_only, "policy.vlek-only", || {
            "reports could be signed with the chip's own key (guest.vlek_only)".to_owned()
        });
        reasons.unless(!cpuid_corrections || self.cpuid_corrections, "policy.cpuid-corrections", || {
            "corrections of the CPUID page are taken over (guest.cpuid_corrections)".to_owned()
        });
        reasons.0
    }

    /// About the platform, as the host describes it.
    #[must_use]
    pub fn judge_platform(&self, facts: &PlatformFacts) -> Vec<Reason> {
        let PlatformFacts { class, product, firmware, reported_tcb } = facts;
        let mut reasons = Reasons(Vec::new());
        reasons.unless(*class >= self.evidence, "policy.evidence", || {
            format!(
                "the evidence is {}, at least {} is wanted (evidence)",
                class.name(),
                self.evidence.name()
            )
        });
        let Some(product) = product else {
            reasons.unless(false, "policy.product", || {
                "the processor is of no known product (platform.products)".to_owned()
            });
            return reasons.0;
        };
        self.product(&mut reasons, *product);
        self.firmware(&mut reasons, *firmware, "running");
        let tcb = reported_tcb.as_ref();
        self.tcb(&mut reasons, "policy.min-tcb", "REPORTED_TCB", tcb, self.min_tcb.get(product));
        reasons.0
    }

    /// About a verified report.
    #[must_use]
    pub fn judge_claims(&self, claims: &Claims, expected: &Expected<'_>, now: i64) -> Vec<Reason> {
        let mut reasons = Reasons(Vec::new());
        // Each claim is judged or named here: a new one does not compile until it is.
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
        reasons.unless(self.signing_keys.contains(signing_key), "policy.signing-key", || {
            format!("the report is signed with a {signing_key:?} (platform.signing_keys)")
        });
        match requester {
            Requester::Guest(vmpl) => reasons.unless(*vmpl <= self.max_vmpl, "policy.vmpl", || {
                format!("the report was asked for at VMPL {vmpl} (guest.max_vmpl is {})", self.max_vmpl)
            }),
            Requester::Host => {
                reasons.unless(self.evidence <= EvidenceClass::HostReport, "policy.evidence", || {
                    format!(
                        "the host asked for the report, at least {} is wanted (evidence)",
                        self.evidence.name()
                    )
                })
            }
        }
        self.guest_policy(&mut reasons, *policy);
        reasons.unless(*guest_svn >= self.min_svn, "policy.svn", || {
            format!("the guest's SVN is {guest_svn} (guest.min_svn is {})", self.min_svn)
        });
        reasons.unless(self.family_id.is_none_or(|id| id == *family_id), "policy.family-id", || {
            "FAMILY_ID is another than guest.family_id".to_owned()
        });
        reasons.unless(self.image_id.is_none_or(|id| id == *image_id), "policy.image-id", || {
            "IMAGE_ID is another than guest.image_id".to_owned()
        });
        self.measurement(&mut reasons, *measurement);
        reasons.unless(
            expected.measurement.is_none_or(|digest| digest == *measurement),
            "policy.measurement",
            || format!("the launch digest is {measurement}, this VM was admitted with another"),
        );
        reasons.unless(expected.host_data.is_none_or(|data| data == host_data), "policy.host-data", || {
            "HOST_DATA is not that of this VM's admission".to_owned()
        });
        reasons.unless(
            self.host_data.is_empty() || self.host_data.contains(host_data),
            "policy.host-data",
            || "HOST_DATA is none of guest.host_data".to_owned(),
        );
        reasons.unless(
            expected.report_data.is_none_or(|data| data == report_data),
            "policy.report-data",
            || "REPORT_DATA does not answer this challenge".to_owned(),
        );
        let known = expected.id_key == Some(*id_key_digest) || self.id_keys.contains(id_key_digest);
        let free = expected.id_key.is_none() && self.id_keys.is_empty();
        reasons.unless(known || free, "policy.id-key", || {
            format!("the guest was launched with ID key {id_key_digest}, not with the gate's ID block (guest.id_keys)")
        });
        let author = author_key_digest.is_some_and(|key| self.author_keys.contains(&key));
        reasons.unless(self.author_keys.is_empty() || author, "policy.author-key", || {
            "the author key is none of guest.author_keys".to_owned()
        });
        let (lacks, has) = (self.platform_require & !platform_info, self.platform_forbid & platform_info);
        reasons.unless(lacks == 0, "policy.platform-info", || {
            format!("PLATFORM_INFO {platform_info:#x} lacks bits {lacks:#x} (platform.require)")
        });
        reasons.unless(has == 0, "policy.platform-info", || {
            format!(
                "PLATFORM_INFO {platform_info:#x} has bits {has:#x} (platform.forbid, refuse_unknown_bits)"
            )
        });
        let wanted = self.chip_ids.is_empty() || chip_id.is_some_and(|id| self.chip_ids.contains(&id));
        let refused = chip_id.is_some_and(|id| self.refused_chip_ids.contains(&id));
        // A chip that hides its identifier may be any, so also one of these.
        let hidden = chip_id.is_none() && !self.refused_chip_ids.is_empty();
        reasons.unless(wanted && !refused && !hidden, "policy.chip-id", || {
            "the chip is none of platform.chip_ids or one of platform.refused_chip_ids".to_owned()
        });
        let csp = self.csp_ids.is_empty() || csp_id.as_ref().is_some_and(|id| self.csp_ids.contains(id));
        reasons.unless(csp, "policy.csp-id", || format!("cspID {csp_id:?} is none of platform.csp_ids"));
        let least = self.min_tcb.get(product);
        self.tcb(&mut reasons, "policy.min-tcb", "REPORTED_TCB", Some(reported_tcb), least);
        self.tcb(&mut reasons, "policy.min-tcb", "CURRENT_TCB", Some(current_tcb), least);
        // A product without a least launch TCB of its own is held to the least TCB.
        let least = self.min_launch_tcb.get(product).or(least);
        self.tcb(&mut reasons, "policy.min-launch-tcb", "LAUNCH_TCB", Some(launch_tcb), least);
        let provisional = current_tcb != committed_tcb || current_firmware != committed_firmware;
        reasons.unless(self.allow_provisional || !provisional, "policy.provisional", || {
            "the platform's firmware is not committed: it can go back to an older one (platform.allow_provisional)".to_owned()
        });
        self.firmware(&mut reasons, *current_firmware, "running");
        self.firmware(&mut reasons, *committed_firmware, "committed");
        if let Some(&need) = self.mit_vector.get(product) {
            for (name, vector) in [("LAUNCH", launch_mit_vector), ("CURRENT", current_mit_vector)] {
                reasons.unless(vector.is_some_and(|vector| vector & need == need), "policy.mitigations", || {
                    format!("{name}_MIT_VECTOR is {vector:x?}, not all of {need:#x} is in it (platform.mit_vector)")
                });
            }
        }
        self.crl(&mut reasons, *revocation, now);
        reasons.0
    }

    /// A policy that names configurations instead of digests has not all its digests.
    fn resolved(&self, reasons: &mut Reasons) {
        let unresolved = self.unresolved();
        reasons.unless(unresolved.is_none(), "policy.unresolved", || unresolved.unwrap_or_default());
    }

    fn measurement(&self, reasons: &mut Reasons, digest: Digest) {
        let known = self.unsafe_any_measurement || self.measurements.contains(&digest);
        reasons.unless(known, "policy.measurement", || {
            format!(
                "launch digest {digest} is none of guest.measurements; cvmm measure --diff tells what differs"
            )
        });
    }

    fn guest_policy(&self, reasons: &mut Reasons, policy: GuestPolicy) {
        reasons.unless(self.unsafe_allow_debug || !policy.has(GuestPolicy::DEBUG), "policy.debug", || {
            "the guest policy allows debugging: the host could read the guest's memory (unsafe_allow_debug)".to_owned()
        });
        let agent = policy.has(GuestPolicy::MIGRATE_MA);
        reasons.unless(self.unsafe_allow_migration_agent || !agent, "policy.migration-agent", || {
            "the guest policy allows a migration agent (unsafe_allow_migration_agent)".to_owned()
        });
        let (lacks, has) = (self.guest_require & !policy.0, self.guest_forbid & policy.0);
        reasons.unless(lacks == 0, "policy.guest-policy", || {
            format!("guest policy {policy} lacks bits {lacks:#x} (guest.require)")
        });
        reasons.unless(has == 0, "policy.guest-policy", || {
            format!("guest policy {policy} has bits {has:#x} (guest.forbid)")
        });
    }

    fn product(&self, reasons: &mut Reasons, product: Product) {
        reasons.unless(self.products.contains(&product), "policy.product", || {
            format!("the processor is a {product} (platform.products)")
        });
    }

    fn firmware(&self, reasons: &mut Reasons, firmware: FirmwareVersion, which: &str) {
        reasons.unless(self.min_firmware.is_none_or(|least| firmware >= least), "policy.firmware", || {
            let FirmwareVersion { major, minor, build } = firmware;
            format!("the {which} firmware is {major}.{minor}.{build}, older than platform.min_firmware")
        });
    }

    /// Part by part: nothing makes up for a part that is too old.
    fn tcb(
        &self,
        reasons: &mut Reasons,
        code: &'static str,
        field: &str,
        found: Option<&TcbParts>,
        least: Option<&TcbParts>,
    ) {
        // Products without a least TCB are not accepted at all, so that there is a reason already.
        let Some(least) = least else { return };
        reasons.unless(found.is_some_and(|found| found.is_at_least(least)), code, || match found {
            Some(found) => format!("{field} is {found}, the least is {least}"),
            None => format!("{field} is malformed, the least is {least}"),
        });
    }

    fn crl(&self, reasons: &mut Reasons, revocation: Revocation, now: i64) {
        match (revocation, self.crl) {
            (Revocation::NoList, CrlRule::IfPresent) => {}
            (Revocation::NoList, CrlRule::Require) => reasons
                .unless(false, "policy.crl", || "there is no revocation list (platform.crl)".to_owned()),
            (Revocation::List { this_update, next_update }, rule) => {
                let overdue = rule == CrlRule::Require && next_update.is_none_or(|next| now > next);
                reasons.unless(!overdue, "policy.crl", || {
                    "the revocation list is overdue; fetch a newer one (platform.crl)".to_owned()
                });
                let age = now.saturating_sub(this_update);
                reasons.unless(self.max_crl_age.is_none_or(|most| age <= most), "policy.crl", || {
                    format!("the revocation list is {} old (platform.max_crl_age_days)", Span(age))
                });
            }
        }
    }
}

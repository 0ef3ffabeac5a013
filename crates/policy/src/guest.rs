// SPDX-License-Identifier: Apache-2.0
//! `[guest]`: which guests a policy admits.

use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::PolicyError;
use crate::text::{self, is_default};

/// Digests that the configurations of one policy can stand for, at most.
const MAX_CONFIGS: usize = 64;
/// Every boot profile.
const PROFILES: [&str; 3] = ["uki", "hashes", "disk"];

/// A bit of the guest policy that a policy can require or forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "GuestPolicy explains them")]
pub enum GuestBit {
    Smt,
    SingleSocket,
    CxlAllowed,
    #[serde(rename = "aes-256-xts")]
    Aes256Xts,
    RaplDisabled,
    CiphertextHiding,
    PageSwapDisabled,
}

impl GuestBit {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Smt,
        Self::SingleSocket,
        Self::CxlAllowed,
        Self::Aes256Xts,
        Self::RaplDisabled,
        Self::CiphertextHiding,
        Self::PageSwapDisabled,
    ];

    /// Its mask in the guest policy.
    #[must_use]
    pub fn mask(self) -> u64 {
        match self {
            Self::Smt => GuestPolicy::SMT,
            Self::SingleSocket => GuestPolicy::SINGLE_SOCKET,
            Self::CxlAllowed => GuestPolicy::CXL_ALLOWED,
            Self::Aes256Xts => GuestPolicy::AES_256_XTS,
            Self::RaplDisabled => GuestPolicy::RAPL_DISABLED,
            Self::CiphertextHiding => GuestPolicy::CIPHERTEXT_HIDING,
            Self::PageSwapDisabled => GuestPolicy::PAGE_SWAP_DISABLED,
        }
    }

    /// The masks of `bits` together.
    pub(crate) fn mask_of(bits: &[Self]) -> u64 {
        bits.iter().fold(0, |all, bit| all | bit.mask())
    }
}

/// `[guest]`. The keys are explained in docs/guide/policy.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "docs/guide/policy.md explains the keys")]
pub struct GuestRules {
    #[serde(with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<Digest>,
    /// Configurations whose digests are still to be measured; a gate refuses such a policy.
    #[serde(deserialize_with = "one_or_more", skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<String>,
    /// The processors they are measured for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vcpu_types: Vec<String>,
    #[serde(with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub host_data: Vec<[u8; 32]>,
    pub profiles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<GuestBit>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forbid: Vec<GuestBit>,
    pub min_svn: u32,
    #[serde(with = "text::option", skip_serializing_if = "Option::is_none")]
    pub family_id: Option<[u8; 16]>,
    #[serde(with = "text::option", skip_serializing_if = "Option::is_none")]
    pub image_id: Option<[u8; 16]>,
    #[serde(with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub id_keys: Vec<Digest>,
    #[serde(with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub author_keys: Vec<Digest>,
    pub max_vmpl: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory_mib: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub debug_knobs: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub cpuid_corrections: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub vlek_only: bool,
}

impl Default for GuestRules {
    /// The strict defaults.
    fn default() -> Self {
        Self {
            measurements: Vec::new(),
            config: Vec::new(),
            vcpu_types: Vec::new(),
            host_data: Vec::new(),
            profiles: vec!["uki".to_owned()],
            require: Vec::new(),
            forbid: Vec::new(),
            min_svn: 0,
            family_id: None,
            image_id: None,
            id_keys: Vec::new(),
            author_keys: Vec::new(),
            max_vmpl: 0,
            max_vcpus: None,
            max_memory_mib: None,
            debug_knobs: Vec::new(),
            cpuid_corrections: false,
            vlek_only: false,
        }
    }
}

/// `"vm.toml"` or a list of such.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a vm.toml or a list of them")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(path) => vec![path],
        OneOrMore::More(paths) => paths,
    })
}

impl GuestRules {
    /// Refuses what contradicts itself.
    pub(crate) fn check(&self, any_measurement: bool) -> Result<(), PolicyError> {
        // A new key does not compile until it is checked or named here.
        let Self {
            measurements,
            config,
            vcpu_types,
            profiles,
            require,
            forbid,
            max_vmpl,
            host_data: _,
            min_svn: _,
            family_id: _,
            image_id: _,
            id_keys: _,
            author_keys: _,
            max_vcpus: _,
            max_memory_mib: _,
            debug_knobs: _,
            cpuid_corrections: _,
            vlek_only: _,
        } = self;
        let refuse = |key: &str, problem: &str| Err(PolicyError::value(key, problem));
        if measurements.is_empty() && config.is_empty() && !any_measurement {
            return refuse(
                "guest.measurements",
                "is empty: no guest could ever run; cvmm policy init computes them",
            );
        }
        if config.is_empty() != vcpu_types.is_empty() {
            return refuse(
                "guest.vcpu_types",
                "and guest.config belong together: a launch digest depends on the processor",
            );
        }
        if config.len().saturating_mul(vcpu_types.len()) > MAX_CONFIGS {
            return refuse("guest.config", &format!("and vcpu_types make more than {MAX_CONFIGS} digests"));
        }
        if let Some(path) = config.iter().find(|path| path.is_empty() || path.contains('\0')) {
            return refuse("guest.config", &format!("{path:?} is not a file name"));
        }
        if let Some(name) = vcpu_types.iter().find(|name| vcpu_signature(name).is_none()) {
            return refuse(
                "guest.vcpu_types",
                &format!("{name:?} is not a processor such as EPYC-Milan or 0xa00f11"),
            );
        }
        if let Some(other) = profiles.iter().find(|name| !PROFILES.contains(&name.as_str())) {
            return refuse("guest.profiles", &format!("{other:?} is not one of uki, hashes and disk"));
        }
        if GuestBit::mask_of(require) & GuestBit::mask_of(forbid) != 0 {
            return refuse("guest.require", "and guest.forbid name the same bit");
        }
        if *max_vmpl > 3 {
            return refuse(
                "guest.max_vmpl",
                "is more than 3; a report that the host asked for never counts as one of the guest",
            );
        }
        Ok(())
    }
}

/// What the launch digest of a guest with a boot profile does not prove, and what to use instead; `None` if
/// it covers all that runs.
#[must_use]
pub fn unproven(profile: &str) -> Option<&'static str> {
    match profile {
        "hashes" => Some(
            "boot profile \"hashes\": with stock firmware the launch digest does not prove which code runs: a hostile host can have the \
             firmware start an unmeasured shim before the kernel whose hash is measured. Use the boot profile \"uki\", where the \
             digest covers firmware, kernel, initrd and command line",
        ),
        "disk" => Some(
            "boot profile \"disk\": the launch digest proves the firmware, and the keys of [secure_boot] if the guest has any, and nothing that \
             runs after it: the host chooses the disk and so loader, kernel and command line, among those that the keys accept. Use the \
             boot profile \"uki\", where the digest covers them, or [secure_boot] with a key of your own",
        ),
        _ => None,
    }
}

/// The processor that `guest.vcpu_types` means by a QEMU name or by EAX of CPUID leaf 1, as in `0xa00f11`.
#[must_use]
pub fn vcpu_signature(text: &str) -> Option<CpuSignature> {
    match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok().map(CpuSignature)
        }
        _ => text.parse().ok(),
    }
}

/// Whether this is a valid name of a policy or a VM: 1 to 64 of `A-Z a-z 0-9 . _ -`, not with a dot first.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(known) && !name.starts_with('.')
}

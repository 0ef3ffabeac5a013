// SPDX-License-Identifier: Apache-2.0
//! Policies: which guests may run, and on what.
//!
//! A policy is a TOML file (docs/guide/policy.md). What it does not mention is refused or has to be at its strict default; under everything
//! lies a floor, which only a key that begins with `unsafe_` lowers, and each of those is a warning whoever uses the policy has to
//! make heard. A policy is asked about what is to be launched ([`Policy::judge_launch`]), about the platform it was launched on
//! ([`Policy::judge_platform`]), about the claims of a report ([`Policy::judge_claims`]), and about the quote of a running guest's TPM
//! ([`Policy::judge_quote`]). An answer is the list of all
//! reasons against it; only an empty one is a yes.

mod explain;
mod file;
mod judge;
pub mod release;
#[cfg(test)]
mod tests;
mod vtpm;
mod write;

use std::collections::BTreeMap;

use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use judge::{CODES, Expected, LaunchFacts, PlatformFacts};
pub use release::Release;
pub use vtpm::{Shown, VtpmRules};

use crate::claims::{FirmwareVersion, Product, SigningKey};
use crate::der::unix;

/// The longest policy file in bytes.
pub const MAX_FILE: usize = 256 << 10;
/// Digests that the configurations of one policy can stand for, at most.
pub const MAX_CONFIGS: usize = 64;
/// The longest a ticket is valid, in seconds.
pub const MAX_LIFETIME: u32 = 300;

/// How strong the evidence for a launch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceClass {
    /// The host says what it has launched.
    HostAsserted,
    /// The host says that the security processor has accepted the gate's ID block, which fits one launch digest only.
    #[default]
    IdBlock,
    /// A signed report that the host asked for.
    HostReport,
    /// A signed report that software in the guest asked for, with the gate's nonce in it.
    GuestReport,
}

impl EvidenceClass {
    /// As in policies and tickets.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HostAsserted => "host-asserted",
            Self::IdBlock => "id-block",
            Self::HostReport => "host-report",
            Self::GuestReport => "guest-report",
        }
    }
}

/// A bit of the guest policy that a policy can ask for or forbid.
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
    const ALL: [Self; 7] = [
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
    pub fn bit(self) -> u64 {
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
}

/// A bit of PLATFORM_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "AMD's names")]
pub enum PlatformBit {
    Smt,
    Tsme,
    Ecc,
    RaplDisabled,
    CiphertextHiding,
    AliasCheckComplete,
    Tio,
}

impl PlatformBit {
    const ALL: [Self; 7] = [
        Self::Smt,
        Self::Tsme,
        Self::Ecc,
        Self::RaplDisabled,
        Self::CiphertextHiding,
        Self::AliasCheckComplete,
        Self::Tio,
    ];

    /// The bits that have no name here.
    #[must_use]
    pub fn unknown() -> u64 {
        !Self::ALL.iter().fold(0, |all, bit| all | bit.bit())
    }

    /// Its mask in PLATFORM_INFO.
    #[must_use]
    pub fn bit(self) -> u64 {
        1 << match self {
            Self::Smt => 0,
            Self::Tsme => 1,
            Self::Ecc => 2,
            Self::RaplDisabled => 3,
            Self::CiphertextHiding => 4,
            Self::AliasCheckComplete => 5,
            Self::Tio => 7,
        }
    }
}

/// What to make of revocation lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrlRule {
    /// There must be a fresh one.
    #[default]
    Require,
    /// One that is there is heeded.
    IfPresent,
}

/// Rego code that may refuse what the rest of the policy has nothing against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rego {
    /// Its file, beside the policy's.
    pub file: String,
    /// SHA-384 of the file: it is signed together with the policy.
    pub sha384: Digest,
}

/// The version of a gate: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GateVersion(pub [u32; 3]);

impl std::str::FromStr for GateVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let part = |part: &str| if digits(part) { part.parse().map_err(|_| ()) } else { Err(()) };
        let parts: Vec<u32> = text.split('.').map(part).collect::<Result<_, _>>()?;
        parts.try_into().map(Self).map_err(|_| ())
    }
}

impl std::fmt::Display for GateVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/guide/policy.md explains the keys")]
pub struct Policy {
    pub id: String,
    pub version: u64,
    pub not_before: Option<i64>,
    pub not_after: Option<i64>,
    pub min_gate_version: Option<GateVersion>,
    pub evidence: EvidenceClass,
    pub measurements: Vec<Digest>,
    /// Guests whose digests are still to be measured; a gate refuses such a policy.
    pub configs: Vec<String>,
    /// The processors they are measured for.
    pub vcpu_types: Vec<String>,
    pub host_data: Vec<[u8; 32]>,
    pub profiles: Vec<String>,
    pub guest_require: u64,
    pub guest_forbid: u64,
    pub min_svn: u32,
    pub family_id: Option<[u8; 16]>,
    pub image_id: Option<[u8; 16]>,
    pub id_keys: Vec<Digest>,
    pub author_keys: Vec<Digest>,
    pub max_vmpl: u8,
    pub max_vcpus: Option<u32>,
    pub max_memory_mib: Option<u64>,
    pub debug_knobs: Vec<String>,
    pub cpuid_corrections: bool,
    pub vlek_only: bool,
    pub products: Vec<Product>,
    pub signing_keys: Vec<SigningKey>,
    pub platform_require: u64,
    pub platform_forbid: u64,
    pub min_tcb: BTreeMap<Product, TcbParts>,
    pub min_launch_tcb: BTreeMap<Product, TcbParts>,
    pub min_firmware: Option<FirmwareVersion>,
    pub allow_provisional: bool,
    pub mit_vector: BTreeMap<Product, u64>,
    pub chip_ids: Vec<[u8; 64]>,
    pub refused_chip_ids: Vec<[u8; 64]>,
    pub csp_ids: Vec<String>,
    pub allow_masked_chip_id: bool,
    pub crl: CrlRule,
    pub max_crl_age: Option<i64>,
    /// Seconds a ticket is valid.
    pub lifetime: u32,
    /// Seconds from an approval to the end of the launch.
    pub launch_time: u32,
    pub rego: Option<Rego>,
    pub vtpm: VtpmRules,
    pub release: Release,
    pub unsafe_allow_debug: bool,
    pub unsafe_allow_migration_agent: bool,
    pub unsafe_any_measurement: bool,
    pub unsafe_isolation_none: bool,
}

/// A file that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// More than [`MAX_FILE`] bytes.
    #[error("the policy has {0} bytes, at most {MAX_FILE} are read")]
    TooLong(usize),
    /// Not TOML, an unknown key or a wrong type; with its place.
    #[error("{0}")]
    Syntax(String),
    /// A value that makes no sense.
    #[error("{key}: {problem}")]
    Value {
        /// Which.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

fn value(key: impl Into<String>, problem: impl Into<String>) -> PolicyError {
    PolicyError::Value { key: key.into(), problem: problem.into() }
}

impl Policy {
    /// Reads a policy's text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_FILE {
            return Err(PolicyError::TooLong(text.len()));
        }
        let file: file::File = toml::from_str(text)
            .map_err(|error| PolicyError::Syntax(error.to_string().trim_end().to_owned()))?;
        let file::File {
            id,
            version,
            not_before,
            not_after,
            min_gate_version,
            evidence,
            guest,
            platform,
            ticket,
            rego,
            vtpm,
            release,
            unsafe_allow_debug,
            unsafe_allow_migration_agent,
            unsafe_any_measurement,
            unsafe_isolation_none,
        } = file;
        if !is_name(&id) {
            return Err(value("id", "is not 1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        let file::Guest {
            measurements,
            config,
            vcpu_types,
            host_data,
            profiles,
            require,
            forbid,
            min_svn,
            family_id,
            image_id,
            id_keys,
            author_keys,
            max_vmpl,
            max_vcpus,
            max_memory_mib,
            debug_knobs,
            cpuid_corrections,
            vlek_only,
        } = guest;
        let file::Platform {
            products,
            signing_keys,
            require: platform_require,
            forbid: platform_forbid,
            refuse_unknown_bits,
            min_tcb,
            min_launch_tcb,
            min_firmware,
            allow_provisional,
            mit_vector,
            chip_ids,
            refused_chip_ids,
            csp_ids,
            allow_masked_chip_id,
            crl,
            max_crl_age_days,
        } = platform;
        let configs = match config {
            None => Vec::new(),
            Some(file::OneOrMore::One(path)) => vec![path],
            Some(file::OneOrMore::More(paths)) => paths,
        };
        if measurements.is_empty() && configs.is_empty() && !unsafe_any_measurement {
            return Err(value(
                "guest.measurements",
                "is empty: no guest could ever run; cvmm policy init computes them",
            ));
        }
        if configs.is_empty() != vcpu_types.is_empty() {
            return Err(value(
                "guest.vcpu_types",
                "and guest.config belong together: a launch digest depends on the processor",
            ));
        }
        if configs.len().saturating_mul(vcpu_types.len()) > MAX_CONFIGS {
            return Err(value(
                "guest.config",
                format!("and vcpu_types make more than {MAX_CONFIGS} digests"),
            ));
        }
        if let Some(path) = configs.iter().find(|path| path.is_empty() || path.contains('\0')) {
            return Err(value("guest.config", format!("{path:?} is no file")));
        }
        if let Some(name) = vcpu_types.iter().find(|name| vcpu_signature(name).is_none()) {
            return Err(value(
                "guest.vcpu_types",
                format!("{name:?} is no processor such as EPYC-Milan or 0xa00f11"),
            ));
        }
        if products.is_empty() {
            return Err(value(
                "platform.products",
                "is empty: write which of milan, genoa and turin are accepted",
            ));
        }
        for product in &products {
            if !min_tcb.contains_key(product) {
                let key = format!("platform.min_tcb.{product}");
                return Err(value(key, "is missing: every accepted product needs its least TCB"));
            }
        }
        let profiles = profiles.unwrap_or_else(|| vec!["uki".to_owned()]);
        if let Some(other) = profiles.iter().find(|name| !matches!(name.as_str(), "uki" | "hashes" | "disk"))
        {
            return Err(value("guest.profiles", format!("{other:?} is none of uki, hashes and disk")));
        }
        let bits = |bits: &[GuestBit]| bits.iter().fold(0, |all, bit| all | bit.bit());
        let (guest_require, guest_forbid) = (bits(&require), bits(&forbid));
        let bits = |bits: &[PlatformBit]| bits.iter().fold(0, |all, bit| all | bit.bit());
        let (must, mut must_not) = (bits(&platform_require), bits(&platform_forbid));
        if guest_require & guest_forbid != 0 || must & must_not != 0 {
            return Err(value("require", "and forbid name the same bit"));
        }
        let mit_vector = match mit_vector {
            None => BTreeMap::new(),
            Some(file::MitVector::All(mask)) => products.iter().map(|product| (*product, mask)).collect(),
            Some(file::MitVector::Each(masks)) => masks,
        };
        if let Some(product) = mit_vector.keys().find(|product| !products.contains(product)) {
            return Err(value(format!("platform.mit_vector.{product}"), "is of no accepted product"));
        }
        let min_gate_version = min_gate_version.map(|text| {
            text.parse()
                .map_err(|()| value("min_gate_version", format!("{text:?} is no version such as \"0.1.0\"")))
        });
        let rego = rego.map(|file::Rego { file, sha384 }| {
            if !is_name(&file) || !file.ends_with(".rego") {
                return Err(value(
                    "rego.file",
                    format!("{file:?} is no name such as \"web.rego\" of a file beside the policy"),
                ));
            }
            let sha384 = sha384.parse().map_err(|error| value("rego.sha384", format!("{error}")))?;
            Ok(Rego { file, sha384 })
        });
        if refuse_unknown_bits {
            must_not |= PlatformBit::unknown();
        }
        let release = Release::parse(release, &id)?;
        Ok(Self {
            id,
            version,
            not_before: not_before.map(|time| seconds("not_before", time)).transpose()?,
            not_after: not_after.map(|time| seconds("not_after", time)).transpose()?,
            min_gate_version: min_gate_version.transpose()?,
            evidence,
            measurements: digests("guest.measurements", &measurements)?,
            configs,
            vcpu_types,
            host_data: host_data
                .iter()
                .map(|text| bytes("guest.host_data", text))
                .collect::<Result<_, _>>()?,
            profiles,
            guest_require,
            guest_forbid,
            min_svn,
            family_id: family_id.map(|text| bytes("guest.family_id", &text)).transpose()?,
            image_id: image_id.map(|text| bytes("guest.image_id", &text)).transpose()?,
            id_keys: digests("guest.id_keys", &id_keys)?,
            author_keys: digests("guest.author_keys", &author_keys)?,
            max_vmpl: max_vmpl.filter(|vmpl| *vmpl <= 3).or(max_vmpl.is_none().then_some(0)).ok_or_else(
                || {
                    value(
                        "guest.max_vmpl",
                        "is more than 3; what the host asked for is never taken for a guest's",
                    )
                },
            )?,
            max_vcpus,
            max_memory_mib,
            debug_knobs,
            cpuid_corrections,
            vlek_only,
            products,
            signing_keys: signing_keys.unwrap_or_else(|| vec![SigningKey::Vcek, SigningKey::Vlek]),
            platform_require: must,
            platform_forbid: must_not,
            min_tcb: tcbs("platform.min_tcb", min_tcb)?,
            min_launch_tcb: tcbs("platform.min_launch_tcb", min_launch_tcb)?,
            min_firmware: min_firmware.map(|text| firmware(&text)).transpose()?,
            allow_provisional,
            mit_vector,
            chip_ids: chips("platform.chip_ids", &chip_ids)?,
            refused_chip_ids: chips("platform.refused_chip_ids", &refused_chip_ids)?,
            csp_ids,
            allow_masked_chip_id,
            crl,
            max_crl_age: max_crl_age_days.map(|days| i64::from(days) * 86_400),
            lifetime: limited("ticket.lifetime_s", ticket.lifetime_s, 60, MAX_LIFETIME)?,
            launch_time: limited("ticket.launch_s", ticket.launch_s, 120, 3600)?,
            rego: rego.transpose()?,
            vtpm: VtpmRules::parse(vtpm)?,
            release,
            unsafe_allow_debug,
            unsafe_allow_migration_agent,
            unsafe_any_measurement,
            unsafe_isolation_none,
        })
    }

    /// Why a gate cannot use the policy as it is; `None` if it can.
    #[must_use]
    pub fn unresolved(&self) -> Option<String> {
        let config = self.configs.first()?;
        Some(format!(
            "guest.config = {config:?} is not measured yet, and a gate has no vm.toml (policy.unresolved): \
             cvmm policy resolve SOURCE -o OUT puts the digests in its place; sign OUT"
        ))
    }

    /// The keys that lower the floor, with what that means. Whoever uses the policy logs each of them.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        [
            (self.unsafe_allow_debug, "unsafe_allow_debug: the host may read and change the guest's memory"),
            (
                self.unsafe_allow_migration_agent,
                "unsafe_allow_migration_agent: somebody else may move the guest to where he likes",
            ),
            (self.unsafe_any_measurement, "unsafe_any_measurement: any guest whatever is admitted"),
            (self.unsafe_isolation_none, "unsafe_isolation_none: guests that the host can read are admitted"),
        ]
        .into_iter()
        .filter_map(|(on, text)| on.then_some(text))
        .collect()
    }
}

/// What the launch digest of a guest with a boot profile does not prove, and what to use instead; `None` if it covers all that runs.
#[must_use]
pub fn unproven(profile: &str) -> Option<&'static str> {
    match profile {
        "hashes" => Some(
            "boot profile \"hashes\": with stock firmware the launch digest does not prove which code runs: a hostile host can have the \
             firmware start an unmeasured shim before the kernel whose hash is measured. Use the boot profile \"uki\", where the \
             digest covers firmware, kernel, initrd and command line",
        ),
        "disk" => Some(
            "boot profile \"disk\": the launch digest proves the firmware and nothing that runs after it: the host chooses the disk and so \
             loader, kernel and command line. Use the boot profile \"uki\", where the digest covers them",
        ),
        _ => None,
    }
}

impl Policy {
    /// What the launch digests that the policy admits do not prove about the code: a sentence for each boot profile.
    #[must_use]
    pub fn unproven(&self) -> Vec<&'static str> {
        self.profiles.iter().filter_map(|profile| unproven(profile)).collect()
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

/// Whether a policy or a VM can be called so.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(known) && !name.starts_with('.')
}

fn limited(key: &str, given: Option<u32>, default: u32, most: u32) -> Result<u32, PolicyError> {
    let seconds = given.unwrap_or(default);
    if (1..=most).contains(&seconds) { Ok(seconds) } else { Err(value(key, format!("is not 1 to {most}"))) }
}

fn digests(key: &str, texts: &[String]) -> Result<Vec<Digest>, PolicyError> {
    texts.iter().map(|text| text.parse().map_err(|error| value(key, format!("{error}")))).collect()
}

fn bytes<const N: usize>(key: &str, text: &str) -> Result<[u8; N], PolicyError> {
    let wrong = || value(key, format!("{text:?} is not {} hexadecimal digits", 2 * N));
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut out = [0; N];
    for (at, byte) in out.iter_mut().enumerate() {
        let digits = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(out)
}

/// Identifiers of 64 bytes, or of the 8 that Turin uses.
fn chips(key: &str, texts: &[String]) -> Result<Vec<[u8; 64]>, PolicyError> {
    let chip = |text: &String| {
        if text.len() != 16 {
            return bytes(key, text);
        }
        let mut id = [0; 64];
        id[..8].copy_from_slice(&bytes::<8>(key, text)?);
        Ok(id)
    };
    texts.iter().map(chip).collect()
}

fn tcbs(key: &str, given: BTreeMap<Product, file::Tcb>) -> Result<BTreeMap<Product, TcbParts>, PolicyError> {
    let parts = |(product, tcb): (Product, file::Tcb)| {
        let file::Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
        if fmc.is_some() != (product == Product::Turin) {
            return Err(value(format!("{key}.{product}.fmc"), "Turin has an FMC and the others have none"));
        }
        Ok((product, TcbParts { fmc, bootloader, tee, snp, microcode }))
    };
    given.into_iter().map(parts).collect()
}

/// "1.55.21": major, minor, build.
fn firmware(text: &str) -> Result<FirmwareVersion, PolicyError> {
    let parts: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
    match parts.as_deref() {
        Some([major, minor, build]) => Ok(FirmwareVersion { major: *major, minor: *minor, build: *build }),
        _ => Err(value("platform.min_firmware", format!("{text:?} is no version such as \"1.55.21\""))),
    }
}

fn seconds(key: &str, time: toml::value::Datetime) -> Result<i64, PolicyError> {
    let (Some(date), Some(clock), Some(toml::value::Offset::Z)) = (time.date, time.time, time.offset) else {
        return Err(value(key, "is no time in UTC such as 2027-01-01T00:00:00Z"));
    };
    unix(
        date.year.into(),
        date.month.into(),
        date.day.into(),
        clock.hour.into(),
        clock.minute.into(),
        clock.second.unwrap_or(0).into(),
    )
    .ok_or_else(|| value(key, "is no time"))
}

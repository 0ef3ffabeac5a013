// SPDX-License-Identifier: Apache-2.0
//! Policies: which guests may run, and on what.
//!
//! A policy is a TOML file (docs/policy.md). What it does not mention is refused or has to be at its strict default; under everything
//! lies a floor, which only a key that begins with `unsafe_` lowers, and each of those is a warning whoever uses the policy has to
//! make heard. A policy is asked three times: about what is to be launched ([`Policy::judge_launch`]), about the platform it was
//! launched on ([`Policy::judge_platform`]), and about the claims of a report ([`Policy::judge_claims`]). An answer is the list of all
//! reasons against it; only an empty one is a yes.

mod explain;
mod file;
mod judge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use judge::{CODES, Expected, LaunchFacts, PlatformFacts};

use crate::claims::{FirmwareVersion, Product, SigningKey};
use crate::der::unix;

/// The longest policy file in bytes.
pub const MAX_FILE: usize = 256 << 10;
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
    fn bit(self) -> u64 {
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

    fn bit(self) -> u64 {
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

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/policy.md explains the keys")]
pub struct Policy {
    pub id: String,
    pub version: u64,
    pub not_before: Option<i64>,
    pub not_after: Option<i64>,
    pub evidence: EvidenceClass,
    pub measurements: Vec<Digest>,
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
    pub mit_vector: Option<u64>,
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
            evidence,
            guest,
            platform,
            ticket,
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
        if measurements.is_empty() && !unsafe_any_measurement {
            return Err(value(
                "guest.measurements",
                "is empty: no guest could ever run; cvmm policy init computes them",
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
        let known = bits(&PlatformBit::ALL);
        let (must, mut must_not) = (bits(&platform_require), bits(&platform_forbid));
        if guest_require & guest_forbid != 0 || must & must_not != 0 {
            return Err(value("require", "and forbid name the same bit"));
        }
        if refuse_unknown_bits {
            must_not |= !known;
        }
        Ok(Self {
            id,
            version,
            not_before: not_before.map(|time| seconds("not_before", time)).transpose()?,
            not_after: not_after.map(|time| seconds("not_after", time)).transpose()?,
            evidence,
            measurements: digests("guest.measurements", &measurements)?,
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
            unsafe_allow_debug,
            unsafe_allow_migration_agent,
            unsafe_any_measurement,
            unsafe_isolation_none,
        })
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

// SPDX-License-Identifier: Apache-2.0
//! `[snp]`: what an SNP guest requires and accepts.

use std::path::PathBuf;

use cvmm_snp::policy::GuestPolicy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paths::{Paths, text};
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::table::Table;

pub(super) const TABLE: Table = Table { name: "snp", repeated: false, example };

/// What an SNP guest requires and accepts.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Snp")]
pub(super) struct RawSnp {
    /// Guest policy (SEV-SNP firmware ABI 4.3). Default 0x30000: multithreading allowed, debugging not.
    #[schemars(range(min = 0x20000, max = 0x3ff_ffff))]
    pub(super) policy: Option<i64>,
    /// ID block of the guest's owner (96 bytes, from `cvmm measure --id-block`), relative to this file: the
    /// security processor refuses another guest. Default: one without a key, made for the files named here.
    #[schemars(length(min = 1))]
    pub(super) id_block: Option<String>,
    /// Its keys and signatures (4096 bytes, from `cvmm measure --id-auth`). Goes with `id_block`.
    #[schemars(length(min = 1))]
    pub(super) id_auth: Option<String>,
    /// Folder of certificates for guests that ask for their report with them, relative to this file;
    /// kernels of today may not ask.
    #[schemars(length(min = 1))]
    pub(super) certificates: Option<String>,
    /// HOST_DATA of every report: 64 hexadecimal digits. Default: zeros.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub(super) host_data: Option<String>,
    /// Reports may be signed with a VLEK only, never with the chip's own VCEK. Default false.
    pub(super) vlek_only: Option<bool>,
    /// What to do when the security processor wants other CPUID values than KVM gave. Default "refuse".
    pub(super) cpuid_corrections: Option<CpuidTolerance>,
}

/// What to do when the security processor wants other CPUID values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CpuidCorrections")]
pub enum CpuidTolerance {
    /// Refuse the launch and show them.
    #[default]
    Refuse,
    /// Take over those of the cache description (leaf 0x8000001d) only.
    Caches,
}

/// What an SNP guest requires and accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snp {
    /// Guest policy, SEV-SNP firmware ABI 4.3.
    pub policy: u64,
    /// The owner's ID block and its authentication; without, one without a key is made.
    pub identity: Option<IdentityFiles>,
    /// Folder of certificates for the guest.
    pub certificates: Option<PathBuf>,
    /// HOST_DATA of the guest's reports.
    pub host_data: [u8; 32],
    /// Whether VCEK-signed reports are forbidden.
    pub vlek_only: bool,
    /// What to do when the security processor wants other CPUID values.
    pub cpuid_corrections: CpuidTolerance,
}

/// An ID block and its authentication, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// 96 bytes.
    pub id_block: PathBuf,
    /// 4096 bytes.
    pub id_auth: PathBuf,
}

pub(super) fn check(raw: Option<RawSnp>, rules: &mut Rules<'_>) -> Snp {
    if raw.is_some() && rules.not_snp() {
        let message = "[snp] requires isolation = \"snp\"";
        rules.add(Problem::at("snp", "isolation", message).allowed("isolation = \"snp\""));
    }
    let RawSnp { policy, id_block, id_auth, certificates, host_data, vlek_only, cpuid_corrections } =
        raw.unwrap_or_default();
    for (key, given) in [("id_block", id_block.is_some()), ("host_data", host_data.is_some())] {
        if given && rules.vm.gate {
            let message = format!("{key} conflicts with [gate]: the gate provides it");
            let problem = Problem::at(&format!("snp.{key}"), "gate", message);
            rules.add(problem.help("remove the key; the policy of the gate has the owner's requirements"));
        }
    }
    Snp {
        policy: check_policy(policy, rules),
        identity: check_identity(id_block, id_auth, rules),
        certificates: certificates.map(|path| rules.path("snp.certificates", &path)),
        host_data: host_data.map_or([0; 32], |digits| check_host_data(&digits, rules)),
        vlek_only: vlek_only.unwrap_or(false),
        cpuid_corrections: cpuid_corrections.unwrap_or_default(),
    }
}

fn check_identity(
    id_block: Option<String>,
    id_auth: Option<String>,
    rules: &mut Rules<'_>,
) -> Option<IdentityFiles> {
    let (there, absent) = match (id_block, id_auth) {
        (Some(block), Some(auth)) => {
            return Some(IdentityFiles {
                id_block: rules.path("snp.id_block", &block),
                id_auth: rules.path("snp.id_auth", &auth),
            });
        }
        (None, None) => return None,
        (Some(_), None) => ("id_block", "id_auth"),
        (None, Some(_)) => ("id_auth", "id_block"),
    };
    if !rules.is_cut(&format!("snp.{absent}")) {
        let message = format!("{there} requires {absent}");
        rules.add(Problem::at(&format!("snp.{there}"), "missing", message).allowed("both or neither"));
    }
    None
}

fn check_policy(value: Option<i64>, rules: &mut Rules<'_>) -> u64 {
    let default = GuestPolicy::default();
    let Some(value) = value else { return default.0 };
    let checked = u64::try_from(value).ok().map(|bits| GuestPolicy(bits).check());
    let (reason, message) = match checked {
        Some(Ok(policy)) => return policy.0,
        Some(Err(error)) => ("value", error.to_string()),
        None => ("range", format!("policy is {value}, which is negative")),
    };
    rules.add(Problem::at("snp.policy", reason, message).allowed("such as 0x30000"));
    default.0
}

fn check_host_data(digits: &str, rules: &mut Rules<'_>) -> [u8; 32] {
    let mut bytes = [0; 32];
    if hex::decode_to_slice(digits, &mut bytes).is_err() {
        rules.add(
            Problem::at("snp.host_data", "format", "host_data is not 64 hexadecimal digits")
                .allowed("64 hexadecimal digits"),
        );
    }
    bytes
}

impl RawSnp {
    /// The table; with a gate it has no HOST_DATA, which the gate makes.
    pub(super) fn new(snp: &Snp, gate: bool) -> Self {
        let Snp { policy, identity, certificates, host_data, vlek_only, cpuid_corrections } = snp;
        Self {
            policy: i64::try_from(*policy).ok(),
            id_block: identity.as_ref().map(|files| text(&files.id_block)),
            id_auth: identity.as_ref().map(|files| text(&files.id_auth)),
            certificates: certificates.as_deref().map(text),
            host_data: (!gate).then(|| hex::encode(host_data)),
            vlek_only: Some(*vlek_only),
            cpuid_corrections: Some(*cpuid_corrections),
        }
    }
}

pub(super) fn check_files(snp: &Snp, paths: &mut Paths) {
    if let Some(identity) = &snp.identity {
        paths.image("snp.id_block", &identity.id_block);
        paths.image("snp.id_auth", &identity.id_auth);
    }
    if let Some(path) = &snp.certificates {
        paths.folder("snp.certificates", path);
    }
}

fn example(_: Profile) -> String {
    EXAMPLE.to_owned()
}

const EXAMPLE: &str = r#"# What an SNP guest requires and accepts.
# [snp]
# policy = 0x30000               # guest policy: multithreading allowed, debugging not
# Without [gate]: the owner's ID block, from cvmm measure --id-block and --id-auth; by default one
# without a key. And HOST_DATA of every report, 64 hexadecimal digits:
# id_block = "vm.id-block"
# id_auth = "vm.id-auth"
# host_data = "0000000000000000000000000000000000000000000000000000000000000000"
# certificates = "certs"         # a folder: for guests that ask for their report with them
# vlek_only = false              # reports are never signed with the chip's own key
# cpuid_corrections = "refuse"   # or "caches": take the security processor's cache description
"#;

// SPDX-License-Identifier: Apache-2.0
//! `[vtpm]`: the guest's TPM 2.0.

use std::path::PathBuf;

use cvmm_tpm::HashAlg;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paths::text;
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::table::Table;

pub(super) const TABLE: Table = Table { name: "vtpm", repeated: false, example };

/// The guest's TPM 2.0.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Vtpm")]
pub(super) struct RawVtpm {
    /// Where the TPM is.
    #[schemars(required)]
    pub(super) mode: Option<RawMode>,
    /// Mode `in-process`: where in cvmm the TPM's code runs. Default "thread".
    pub(super) sandbox: Option<Sandbox>,
    /// Mode `in-process`: the file that keeps the TPM's state, relative to this file; made when there is
    /// none. Encrypted with a key that `[gate]` gives. Without it the TPM is new whenever cvmm starts.
    #[schemars(length(min = 1))]
    pub(super) state: Option<String>,
    /// Mode `in-process`: the PCR banks that are active, at least one. Default sha256 and sha384; firmware
    /// extends each.
    #[schemars(length(min = 1, max = 4))]
    pub(super) pcr_banks: Option<Vec<PcrBank>>,
    /// Mode `in-process`: whether KVM collects the guest's writes to the command buffer, so that they cost
    /// no exits to cvmm. Default true.
    pub(super) coalesced_mmio: Option<bool>,
    /// Mode `in-process`: whether the command buffer is also a page of ordinary memory, which Linux uses
    /// without exits. Default true.
    pub(super) shared_buffer: Option<bool>,
}

/// Where the TPM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "VtpmMode")]
pub(super) enum RawMode {
    /// There is none.
    None,
    /// On the host's side, in cvmm. It does not protect from the host.
    InProcess,
}

/// Where the TPM's code runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// On a thread of cvmm.
    #[default]
    Thread,
    /// In a jailed process of its own.
    Process,
}

/// A PCR bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PcrBank {
    /// SHA-1, which is broken; for old software only.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl PcrBank {
    /// All banks that a TPM of ours can have.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];
    /// What is active unless the file says otherwise: what the TCG's PC client profile wants, and no more,
    /// because firmware extends every active bank.
    pub const DEFAULT: [Self; 2] = [Self::Sha256, Self::Sha384];

    /// Its hash.
    #[must_use]
    pub fn hash(self) -> HashAlg {
        match self {
            Self::Sha1 => HashAlg::Sha1,
            Self::Sha256 => HashAlg::Sha256,
            Self::Sha384 => HashAlg::Sha384,
            Self::Sha512 => HashAlg::Sha512,
        }
    }

    /// As in `vm.toml` and in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.hash().name()
    }
}

/// The guest's TPM: in cvmm, on the host's side of the boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtpm {
    /// Where its code runs.
    pub sandbox: Sandbox,
    /// The file that keeps its state; without one it is new whenever cvmm starts.
    pub state: Option<PathBuf>,
    /// The active PCR banks, without duplicates, in ascending order; at least one.
    pub pcr_banks: Vec<PcrBank>,
    /// Whether KVM collects writes to the command buffer.
    pub coalesced_mmio: bool,
    /// Whether the command buffer is also a page of ordinary memory.
    pub shared_buffer: bool,
}

impl RawVtpm {
    pub(super) fn check(self, rules: &mut Rules<'_>) -> Option<Vtpm> {
        let Self { mode, sandbox, state, pcr_banks, coalesced_mmio, shared_buffer } = self;
        let mode = rules.required("vtpm.mode", mode, "\"none\" or \"in-process\"")?;
        if mode == RawMode::None {
            let given = [
                ("sandbox", sandbox.is_some()),
                ("state", state.is_some()),
                ("pcr_banks", pcr_banks.is_some()),
                ("coalesced_mmio", coalesced_mmio.is_some()),
                ("shared_buffer", shared_buffer.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                let message = format!("{key} requires mode \"in-process\"");
                let problem = Problem::at(&format!("vtpm.{key}"), "mode", message);
                rules.add(problem.help(format!("remove {key} or set mode = \"in-process\"")));
            }
            return None;
        }
        if state.is_some() && !rules.vm.gate {
            let message = "state requires a [gate], which keeps the key that encrypts it";
            let problem = Problem::at("vtpm.state", "gate", message);
            rules.add(problem.help(
                "add [gate], or remove state: without it, what the guest seals is lost when cvmm ends",
            ));
        }
        Some(Vtpm {
            state: state.map(|state| rules.path("vtpm.state", &state)),
            sandbox: sandbox.unwrap_or_default(),
            pcr_banks: check_banks(pcr_banks, rules),
            coalesced_mmio: coalesced_mmio.unwrap_or(true),
            shared_buffer: shared_buffer.unwrap_or(true),
        })
    }
}

fn check_banks(given: Option<Vec<PcrBank>>, rules: &mut Rules<'_>) -> Vec<PcrBank> {
    let Some(mut banks) = given else { return PcrBank::DEFAULT.to_vec() };
    let given = banks.len();
    banks.sort_unstable();
    banks.dedup();
    if banks.is_empty() || banks.len() != given {
        let message = "pcr_banks is empty or names a bank twice";
        let allowed = "one to four of \"sha1\", \"sha256\", \"sha384\", \"sha512\"";
        rules.add(Problem::at("vtpm.pcr_banks", "value", message).allowed(allowed));
    }
    banks
}

impl RawVtpm {
    pub(super) fn new(vtpm: Option<&Vtpm>) -> Self {
        let Some(Vtpm { sandbox, state, pcr_banks, coalesced_mmio, shared_buffer }) = vtpm else {
            return Self { mode: Some(RawMode::None), ..Self::default() };
        };
        Self {
            mode: Some(RawMode::InProcess),
            sandbox: Some(*sandbox),
            state: state.as_deref().map(text),
            pcr_banks: Some(pcr_banks.clone()),
            coalesced_mmio: Some(*coalesced_mmio),
            shared_buffer: Some(*shared_buffer),
        }
    }
}

fn example(_: Profile) -> String {
    EXAMPLE.to_owned()
}

const EXAMPLE: &str = r#"# A TPM 2.0 in cvmm. It is on the host's side: it does not protect the guest's keys from the host.
# [vtpm]
# mode = "in-process"            # or "none"
# sandbox = "thread"             # or "process": a jailed process
# state = "example.vmgs"         # where its state is kept, encrypted with a key from the gate; default: nowhere
# pcr_banks = ["sha256", "sha384"]
# coalesced_mmio = true          # KVM collects writes to the command buffer
# shared_buffer = true           # the command buffer is also a page of memory, for Linux
"#;

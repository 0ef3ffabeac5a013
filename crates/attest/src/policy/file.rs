// SPDX-License-Identifier: Apache-2.0
//! A policy's file, as it is written. Every key but the first two has a default, and the default is the strict one.
//!
//! Both ways: [`super::Policy::parse`] reads one, [`super::Policy::to_toml`] writes one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::value::Datetime;

use super::{CrlRule, EvidenceClass, GuestBit, PlatformBit, Shown};
use crate::claims::{Product, SigningKey};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_before: Option<Datetime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_after: Option<Datetime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_gate_version: Option<String>,
    #[serde(default)]
    pub(super) evidence: EvidenceClass,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) unsafe_allow_debug: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) unsafe_allow_migration_agent: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) unsafe_any_measurement: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) unsafe_isolation_none: bool,
    #[serde(default)]
    pub(super) guest: Guest,
    #[serde(default)]
    pub(super) platform: Platform,
    #[serde(default)]
    pub(super) ticket: Ticket,
    #[serde(default, skip_serializing_if = "Vtpm::is_default")]
    pub(super) vtpm: Vtpm,
    #[serde(default, skip_serializing_if = "Release::is_default")]
    pub(super) release: Release,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rego: Option<Rego>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) measurements: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<OneOrMore>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) vcpu_types: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) host_data: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) profiles: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) require: Vec<GuestBit>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) forbid: Vec<GuestBit>,
    #[serde(default)]
    pub(super) min_svn: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) family_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) id_keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) author_keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_vmpl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_memory_mib: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) debug_knobs: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) cpuid_corrections: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) vlek_only: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Platform {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) products: Vec<Product>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signing_keys: Option<Vec<SigningKey>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) require: Vec<PlatformBit>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) forbid: Vec<PlatformBit>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) refuse_unknown_bits: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) min_tcb: BTreeMap<Product, Tcb>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) min_launch_tcb: BTreeMap<Product, Tcb>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_firmware: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) allow_provisional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mit_vector: Option<MitVector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) chip_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refused_chip_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) csp_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) allow_masked_chip_id: bool,
    #[serde(default)]
    pub(super) crl: CrlRule,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_crl_age_days: Option<u32>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcb {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fmc: Option<u8>,
    pub(super) bootloader: u8,
    pub(super) tee: u8,
    pub(super) snp: u8,
    pub(super) microcode: u8,
}

/// `"vm.toml"` or a list of such.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// One mask for all products, or a table with one for each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum MitVector {
    All(u64),
    Each(BTreeMap<Product, u64>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rego {
    pub(super) file: String,
    pub(super) sha384: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vtpm {
    #[serde(default)]
    pub(super) quote: Shown,
    #[serde(default)]
    pub(super) event_log: Shown,
    /// By bank and index; TOML's keys are strings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) pcr: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

impl Vtpm {
    fn is_default(&self) -> bool {
        self.quote == Shown::IfPresent && self.event_log == Shown::IfPresent && self.pcr.is_empty()
    }
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) secrets: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) resources: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) hand_over: Vec<String>,
}

impl Release {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lifetime_s: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) launch_s: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

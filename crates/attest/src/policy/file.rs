// SPDX-License-Identifier: Apache-2.0
//! A policy's file, as it is written. Every key but the first two has a default, and the default is the strict one.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::value::Datetime;

use super::{CrlRule, EvidenceClass, GuestBit, PlatformBit};
use crate::claims::{Product, SigningKey};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) version: u64,
    pub(super) not_before: Option<Datetime>,
    pub(super) not_after: Option<Datetime>,
    #[serde(default)]
    pub(super) evidence: EvidenceClass,
    #[serde(default)]
    pub(super) guest: Guest,
    #[serde(default)]
    pub(super) platform: Platform,
    #[serde(default)]
    pub(super) ticket: Ticket,
    #[serde(default)]
    pub(super) unsafe_allow_debug: bool,
    #[serde(default)]
    pub(super) unsafe_allow_migration_agent: bool,
    #[serde(default)]
    pub(super) unsafe_any_measurement: bool,
    #[serde(default)]
    pub(super) unsafe_isolation_none: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Guest {
    #[serde(default)]
    pub(super) measurements: Vec<String>,
    pub(super) profiles: Option<Vec<String>>,
    #[serde(default)]
    pub(super) require: Vec<GuestBit>,
    #[serde(default)]
    pub(super) forbid: Vec<GuestBit>,
    #[serde(default)]
    pub(super) min_svn: u32,
    pub(super) family_id: Option<String>,
    pub(super) image_id: Option<String>,
    #[serde(default)]
    pub(super) id_keys: Vec<String>,
    #[serde(default)]
    pub(super) author_keys: Vec<String>,
    pub(super) max_vmpl: Option<u8>,
    pub(super) max_vcpus: Option<u32>,
    pub(super) max_memory_mib: Option<u64>,
    #[serde(default)]
    pub(super) debug_knobs: Vec<String>,
    #[serde(default)]
    pub(super) cpuid_corrections: bool,
    #[serde(default)]
    pub(super) vlek_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) products: Vec<Product>,
    pub(super) signing_keys: Option<Vec<SigningKey>>,
    #[serde(default)]
    pub(super) require: Vec<PlatformBit>,
    #[serde(default)]
    pub(super) forbid: Vec<PlatformBit>,
    #[serde(default)]
    pub(super) refuse_unknown_bits: bool,
    #[serde(default)]
    pub(super) min_tcb: BTreeMap<Product, Tcb>,
    #[serde(default)]
    pub(super) min_launch_tcb: BTreeMap<Product, Tcb>,
    pub(super) min_firmware: Option<String>,
    #[serde(default)]
    pub(super) allow_provisional: bool,
    pub(super) mit_vector: Option<u64>,
    #[serde(default)]
    pub(super) chip_ids: Vec<String>,
    #[serde(default)]
    pub(super) refused_chip_ids: Vec<String>,
    #[serde(default)]
    pub(super) csp_ids: Vec<String>,
    #[serde(default)]
    pub(super) allow_masked_chip_id: bool,
    #[serde(default)]
    pub(super) crl: CrlRule,
    pub(super) max_crl_age_days: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcb {
    pub(super) fmc: Option<u8>,
    pub(super) bootloader: u8,
    pub(super) tee: u8,
    pub(super) snp: u8,
    pub(super) microcode: u8,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    pub(super) lifetime_s: Option<u32>,
    pub(super) launch_s: Option<u32>,
}

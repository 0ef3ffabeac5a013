// SPDX-License-Identifier: Apache-2.0
//! A policy as text again: what [`Policy::parse`] reads as the same policy.

use std::collections::BTreeMap;

use cvmm_snp::digest::Digest;
use cvmm_snp::tcb::TcbParts;
use toml::value::{Date, Datetime, Offset, Time};

use super::file::{File, Guest, MitVector, OneOrMore, Platform, Rego, Tcb, Ticket};
use super::{GuestBit, PlatformBit, Policy, PolicyError};
use crate::claims::{FirmwareVersion, Product};

impl Policy {
    /// The policy as TOML, every clause of it. An error is a number that TOML has no room for: the highest bit of a mask.
    pub fn to_toml(&self) -> Result<String, PolicyError> {
        // By name: a new field does not compile until it is written, too.
        let Self {
            id,
            version,
            not_before,
            not_after,
            min_gate_version,
            evidence,
            measurements,
            configs,
            vcpu_types,
            host_data,
            profiles,
            guest_require,
            guest_forbid,
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
            products,
            signing_keys,
            platform_require,
            platform_forbid,
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
            max_crl_age,
            lifetime,
            launch_time,
            rego,
            vtpm,
            release,
            unsafe_allow_debug,
            unsafe_allow_migration_agent,
            unsafe_any_measurement,
            unsafe_isolation_none,
        } = self;
        let guest_bits = |mask: u64| GuestBit::ALL.into_iter().filter(|bit| mask & bit.bit() != 0).collect();
        let platform_bits =
            |mask: u64| PlatformBit::ALL.into_iter().filter(|bit| mask & bit.bit() != 0).collect();
        let file = File {
            id: id.clone(),
            version: *version,
            not_before: not_before.map(datetime),
            not_after: not_after.map(datetime),
            min_gate_version: min_gate_version.map(|version| version.to_string()),
            evidence: *evidence,
            unsafe_allow_debug: *unsafe_allow_debug,
            unsafe_allow_migration_agent: *unsafe_allow_migration_agent,
            unsafe_any_measurement: *unsafe_any_measurement,
            unsafe_isolation_none: *unsafe_isolation_none,
            guest: Guest {
                measurements: digests(measurements),
                config: (!configs.is_empty()).then(|| OneOrMore::More(configs.clone())),
                vcpu_types: vcpu_types.clone(),
                host_data: host_data.iter().map(hex::encode).collect(),
                profiles: Some(profiles.clone()),
                require: guest_bits(*guest_require),
                forbid: guest_bits(*guest_forbid),
                min_svn: *min_svn,
                family_id: family_id.map(hex::encode),
                image_id: image_id.map(hex::encode),
                id_keys: digests(id_keys),
                author_keys: digests(author_keys),
                max_vmpl: Some(*max_vmpl),
                max_vcpus: *max_vcpus,
                max_memory_mib: *max_memory_mib,
                debug_knobs: debug_knobs.clone(),
                cpuid_corrections: *cpuid_corrections,
                vlek_only: *vlek_only,
            },
            platform: Platform {
                products: products.clone(),
                signing_keys: Some(signing_keys.clone()),
                require: platform_bits(*platform_require),
                forbid: platform_bits(*platform_forbid),
                refuse_unknown_bits: platform_forbid & PlatformBit::unknown() != 0,
                min_tcb: tcbs(min_tcb),
                min_launch_tcb: tcbs(min_launch_tcb),
                min_firmware: min_firmware
                    .map(|FirmwareVersion { major, minor, build }| format!("{major}.{minor}.{build}")),
                allow_provisional: *allow_provisional,
                mit_vector: (!mit_vector.is_empty()).then(|| MitVector::Each(mit_vector.clone())),
                chip_ids: chip_ids.iter().map(hex::encode).collect(),
                refused_chip_ids: refused_chip_ids.iter().map(hex::encode).collect(),
                csp_ids: csp_ids.clone(),
                allow_masked_chip_id: *allow_masked_chip_id,
                crl: *crl,
                max_crl_age_days: max_crl_age.map(|age| u32::try_from(age / 86_400).unwrap_or(u32::MAX)),
            },
            ticket: Ticket { lifetime_s: Some(*lifetime), launch_s: Some(*launch_time) },
            vtpm: vtpm.to_file(),
            release: release.to_file(),
            rego: rego.as_ref().map(|rego| Rego { file: rego.file.clone(), sha384: rego.sha384.to_string() }),
        };
        toml::to_string(&file).map_err(|error| PolicyError::Syntax(error.to_string()))
    }
}

fn digests(digests: &[Digest]) -> Vec<String> {
    digests.iter().map(ToString::to_string).collect()
}

fn tcbs(given: &BTreeMap<Product, TcbParts>) -> BTreeMap<Product, Tcb> {
    let tcb = |(product, parts): (&Product, &TcbParts)| {
        let TcbParts { fmc, bootloader, tee, snp, microcode } = *parts;
        (*product, Tcb { fmc, bootloader, tee, snp, microcode })
    };
    given.iter().map(tcb).collect()
}

/// Seconds of Unix time as a time in UTC; the inverse of what reads one.
fn datetime(seconds: i64) -> Datetime {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years from March on, in eras of 400: then the leap day is a year's last.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    // What was read has four digits for the year.
    let part = |number: i64| u8::try_from(number).unwrap_or_default();
    Datetime {
        date: Some(Date {
            year: u16::try_from(year + 400 * era + next).unwrap_or_default(),
            month: part(month),
            day: part(day),
        }),
        time: Some(Time {
            hour: part(second / 3600),
            minute: part(second / 60 % 60),
            second: Some(part(second % 60)),
            nanosecond: None,
        }),
        offset: Some(Offset::Z),
    }
}

// SPDX-License-Identifier: Apache-2.0
//! A policy in sentences, its defaults and the floor included.

use cvmm_snp::digest::Digest;

use crate::guest::{GuestBit, GuestRules};
use crate::platform::{CrlRule, PlatformBit, PlatformRules};
use crate::policy::{Policy, RegoFile};

impl Policy {
    /// What a guest and its platform need, a sentence each.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        // A new key does not compile until it is explained.
        let Self {
            id,
            version,
            not_before,
            not_after,
            min_gate_version,
            evidence,
            unsafe_allow_debug,
            unsafe_allow_migration_agent,
            unsafe_any_measurement,
            unsafe_isolation_none,
            guest,
            platform,
            ticket,
            vtpm,
            release,
            rego,
        } = self;
        let mut lines = vec![format!("policy {id}, version {version}")];
        let say = &mut |line: String| lines.push(line);
        if let Some(from) = not_before {
            say(format!("applies from {from} on (seconds of Unix time)"));
        }
        if let Some(to) = not_after {
            say(format!("applies until {to} (seconds of Unix time)"));
        }
        if let Some(min) = min_gate_version {
            say(format!("gate: version {min} or newer"));
        }
        say(format!("evidence: at least {}", evidence.name()));
        guest.explain(*unsafe_any_measurement, say);
        let floor = |lowered: bool| if lowered { "allowed (unsafe)" } else { "never" };
        say(format!("guest policy, debugging by the host: {}", floor(*unsafe_allow_debug)));
        say(format!("guest policy, migration agent: {}", floor(*unsafe_allow_migration_agent)));
        say(format!("guests without isolation: {}", floor(*unsafe_isolation_none)));
        platform.explain(say);
        vtpm.explain(say);
        release.explain(say);
        if let Some(RegoFile { file, sha384 }) = rego {
            say(format!("Rego: {file}, SHA-384 {sha384}, must not refuse it either"));
        }
        ticket.explain(say);
        lines
    }
}

impl GuestRules {
    fn explain(&self, any_measurement: bool, say: &mut impl FnMut(String)) {
        let Self {
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
        } = self;
        for config in config {
            say(format!("launch digest: that of {config} on {} (not measured yet)", vcpu_types.join(", ")));
        }
        if any_measurement {
            say("launch digest: any (unsafe)".to_owned());
        } else if !measurements.is_empty() {
            say(format!("launch digest: one of {}", digests(measurements)));
        }
        say(format!("boot profile: {}", profiles.join(", ")));
        for warning in profiles.iter().filter_map(|profile| crate::guest::unproven(profile)) {
            say(format!("  not proven, {warning}"));
        }
        for bit in GuestBit::ALL {
            if require.contains(&bit) {
                say(format!("guest policy, {}: required", name(&bit)));
            } else if forbid.contains(&bit) {
                say(format!("guest policy, {}: forbidden", name(&bit)));
            }
        }
        say(format!("VMPL: at most {max_vmpl}"));
        if *min_svn > 0 {
            say(format!("guest SVN: at least {min_svn}"));
        }
        if let Some(max) = max_vcpus {
            say(format!("virtual CPUs: at most {max}"));
        }
        if let Some(max) = max_memory_mib {
            say(format!("RAM: at most {max} MiB"));
        }
        for (what, keys) in [("ID key", id_keys), ("author key", author_keys)] {
            if !keys.is_empty() {
                say(format!("{what}: one of {}", digests(keys)));
            }
        }
        if !host_data.is_empty() {
            say(format!("HOST_DATA: one of {}", hex_list(host_data)));
        }
        for (what, id) in [("family", family_id), ("image", image_id)] {
            if let Some(id) = id {
                say(format!("{what} id: {}", hex::encode(id)));
            }
        }
        if *vlek_only {
            say("reports: only ever signed with a VLEK".to_owned());
        }
        let knobs = if debug_knobs.is_empty() { "none".to_owned() } else { debug_knobs.join(", ") };
        say(format!("development options that may be on: {knobs}"));
        let corrections = if *cpuid_corrections { "caches" } else { "none" };
        say(format!("corrections of the CPUID page: {corrections}"));
    }
}

impl PlatformRules {
    fn explain(&self, say: &mut impl FnMut(String)) {
        let Self {
            products,
            signing_keys,
            require,
            forbid,
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
        } = self;
        for product in products {
            if let Some(min) = min_tcb.get(product) {
                say(format!("platform {product}: TCB at least {min}"));
            }
            if let Some(min) = min_launch_tcb.get(product) {
                say(format!("platform {product}: TCB at launch at least {min}"));
            }
            if let Some(mask) = mit_vector.as_ref().and_then(|vector| vector.mask(*product)) {
                say(format!("platform {product}: mitigations, all of {mask:#x}, at launch and now"));
            }
        }
        if let Some(min) = min_firmware {
            say(format!("firmware: at least {}.{}.{}", min.major, min.minor, min.build));
        }
        let allowed = |allowed: bool| if allowed { "allowed" } else { "refused" };
        say(format!("firmware that is not committed: {}", allowed(*allow_provisional)));
        for bit in PlatformBit::ALL {
            if require.contains(&bit) {
                say(format!("platform, {}: required", name(&bit)));
            } else if forbid.contains(&bit) {
                say(format!("platform, {}: forbidden", name(&bit)));
            }
        }
        if *refuse_unknown_bits {
            say("platform, bits that are not known: forbidden".to_owned());
        }
        let keys: Vec<_> = signing_keys.iter().map(name).collect();
        let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
        say(format!("reports signed with: {keys}"));
        say(format!("chips that hide their identifier: {}", allowed(*allow_masked_chip_id)));
        for (what, chips) in [("one of", chip_ids), ("none of", refused_chip_ids)] {
            if !chips.is_empty() {
                say(format!("chip: {what} {}", hex_list(chips)));
            }
        }
        if !csp_ids.is_empty() {
            say(format!("cloud (VLEK): one of {}", csp_ids.join(", ")));
        }
        let age = max_crl_age_days.map_or(String::new(), |days| format!(", at most {days} days old"));
        say(match crl {
            CrlRule::Require => format!("revocation list: required and not overdue{age}"),
            CrlRule::IfPresent => format!("revocation list: heeded if there is one{age}"),
        });
    }
}

fn digests(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn hex_list<const N: usize>(values: &[[u8; N]]) -> String {
    values.iter().map(hex::encode).collect::<Vec<_>>().join(", ")
}

/// The name that a value has in a policy.
fn name(value: &impl serde::Serialize) -> String {
    // They are strings, in any format.
    toml::Value::try_from(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

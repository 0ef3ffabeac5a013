// SPDX-License-Identifier: Apache-2.0
//! A policy in sentences, its defaults and the floor included.

use cvmm_snp::digest::Digest;

use super::{CrlRule, GuestBit, PlatformBit, Policy};

impl Policy {
    /// What a guest and its platform need, a sentence each.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        let mut lines = vec![format!("policy {}, version {}", self.id, self.version)];
        let mut say = |line: String| lines.push(line);
        if let Some(from) = self.not_before {
            say(format!("applies from {from} on (seconds of Unix time)"));
        }
        if let Some(to) = self.not_after {
            say(format!("applies until {to} (seconds of Unix time)"));
        }
        if let Some(least) = self.min_gate_version {
            say(format!("gate: version {least} or newer"));
        }
        say(format!("evidence: at least {}", self.evidence.name()));
        for config in &self.configs {
            say(format!(
                "launch digest: that of {config} on {} (not measured yet)",
                self.vcpu_types.join(", ")
            ));
        }
        if self.measurements.is_empty() && !self.configs.is_empty() {
            // Said above.
        } else if self.unsafe_any_measurement {
            say("launch digest: any (unsafe)".to_owned());
        } else {
            say(format!("launch digest: one of {}", list(&self.measurements)));
        }
        say(format!("boot profile: {}", self.profiles.join(", ")));
        for warning in self.unproven() {
            say(format!("  not proven, {warning}"));
        }
        let floor = |lowered: bool| if lowered { "allowed (unsafe)" } else { "never" };
        say(format!("guest policy, debugging by the host: {}", floor(self.unsafe_allow_debug)));
        say(format!("guest policy, migration agent: {}", floor(self.unsafe_allow_migration_agent)));
        say(format!("guests without isolation: {}", floor(self.unsafe_isolation_none)));
        for bit in GuestBit::ALL {
            let name = name(&bit);
            match (self.guest_require & bit.bit() != 0, self.guest_forbid & bit.bit() != 0) {
                (true, _) => say(format!("guest policy, {name}: required")),
                (_, true) => say(format!("guest policy, {name}: forbidden")),
                _ => {}
            }
        }
        say(format!("VMPL: at most {}", self.max_vmpl));
        if self.min_svn > 0 {
            say(format!("guest SVN: at least {}", self.min_svn));
        }
        let most = [
            self.max_vcpus.map(|most| format!("virtual CPUs: at most {most}")),
            self.max_memory_mib.map(|most| format!("RAM: at most {most} MiB")),
        ];
        most.into_iter().flatten().for_each(&mut say);
        for (what, digests) in [("ID key", &self.id_keys), ("author key", &self.author_keys)] {
            if !digests.is_empty() {
                say(format!("{what}: one of {}", list(digests)));
            }
        }
        if !self.host_data.is_empty() {
            say(format!(
                "HOST_DATA: one of {}",
                self.host_data.iter().map(hex::encode).collect::<Vec<_>>().join(", ")
            ));
        }
        for (what, id) in [("family", self.family_id), ("image", self.image_id)] {
            if let Some(id) = id {
                say(format!("{what} id: {}", hex::encode(id)));
            }
        }
        if self.vlek_only {
            say("reports: only ever signed with a VLEK".to_owned());
        }
        let knobs = if self.debug_knobs.is_empty() { "none".to_owned() } else { self.debug_knobs.join(", ") };
        say(format!("development knobs that may be on: {knobs}"));
        say(format!(
            "corrections of the CPUID page: {}",
            if self.cpuid_corrections { "caches" } else { "none" }
        ));
        for product in &self.products {
            if let Some(least) = self.min_tcb.get(product) {
                say(format!("platform {product}: TCB at least {least}"));
            }
            if let Some(least) = self.min_launch_tcb.get(product) {
                say(format!("platform {product}: TCB at launch at least {least}"));
            }
            if let Some(mask) = self.mit_vector.get(product) {
                say(format!("platform {product}: mitigations, all of {mask:#x}, at launch and now"));
            }
        }
        if let Some(least) = self.min_firmware {
            say(format!("firmware: at least {}.{}.{}", least.major, least.minor, least.build));
        }
        say(format!(
            "firmware that is not committed: {}",
            if self.allow_provisional { "allowed" } else { "refused" }
        ));
        for bit in PlatformBit::ALL {
            let name = name(&bit);
            match (self.platform_require & bit.bit() != 0, self.platform_forbid & bit.bit() != 0) {
                (true, _) => say(format!("platform, {name}: required")),
                (_, true) => say(format!("platform, {name}: forbidden")),
                _ => {}
            }
        }
        let keys: Vec<_> = self.signing_keys.iter().map(name).collect();
        say(format!(
            "reports signed with: {}",
            if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
        ));
        if self.platform_forbid & PlatformBit::unknown() != 0 {
            say("platform, bits that are not known: forbidden".to_owned());
        }
        say(format!(
            "chips that hide their identifier: {}",
            if self.allow_masked_chip_id { "allowed" } else { "refused" }
        ));
        for (what, chips) in [("one of", &self.chip_ids), ("none of", &self.refused_chip_ids)] {
            if !chips.is_empty() {
                say(format!("chip: {what} {}", chips.iter().map(hex::encode).collect::<Vec<_>>().join(", ")));
            }
        }
        if !self.csp_ids.is_empty() {
            say(format!("cloud (VLEK): one of {}", self.csp_ids.join(", ")));
        }
        let age =
            self.max_crl_age.map_or(String::new(), |age| format!(", at most {} days old", age / 86_400));
        say(match self.crl {
            CrlRule::Require => format!("revocation list: required and not overdue{age}"),
            CrlRule::IfPresent => format!("revocation list: heeded if there is one{age}"),
        });
        self.vtpm.explain(&mut say);
        self.release.explain(&mut say);
        if let Some(rego) = &self.rego {
            say(format!("Rego: {}, SHA-384 {}, has nothing against it either", rego.file, rego.sha384));
        }
        say(format!("tickets: valid for {} s; a launch may take {} s", self.lifetime, self.launch_time));
        lines
    }
}

fn list(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The name a bit has in a policy.
fn name(bit: &impl serde::Serialize) -> String {
    // They are strings, in any format.
    toml::Value::try_from(bit).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

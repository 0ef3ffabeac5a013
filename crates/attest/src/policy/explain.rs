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
        say(format!("evidence: at least {}", self.evidence.name()));
        if self.unsafe_any_measurement {
            say("launch digest: any (unsafe)".to_owned());
        } else {
            say(format!("launch digest: one of {}", list(&self.measurements)));
        }
        say(format!("boot profile: {}", self.profiles.join(", ")));
        if self.profiles.iter().any(|profile| profile == "hashes") {
            say("  hashes: a hostile host can have the stock firmware run an unmeasured program before the kernel".to_owned());
        }
        let floor = |lowered: bool| if lowered { "allowed (unsafe)" } else { "never" };
        say(format!("guest policy, debugging by the host: {}", floor(self.unsafe_allow_debug)));
        say(format!("guest policy, migration agent: {}", floor(self.unsafe_allow_migration_agent)));
        say(format!("guests without isolation: {}", floor(self.unsafe_isolation_none)));
        let guest = [
            GuestBit::Smt,
            GuestBit::SingleSocket,
            GuestBit::CxlAllowed,
            GuestBit::Aes256Xts,
            GuestBit::RaplDisabled,
            GuestBit::CiphertextHiding,
            GuestBit::PageSwapDisabled,
        ];
        for bit in guest {
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
        if let Some(mask) = self.mit_vector {
            say(format!("mitigations: all of {mask:#x}, at launch and now"));
        }
        for (what, chips) in [("one of", &self.chip_ids), ("none of", &self.refused_chip_ids)] {
            if !chips.is_empty() {
                say(format!("chip: {what} {} listed", chips.len()));
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

// SPDX-License-Identifier: Apache-2.0
//! A policy, as its file has it: the types here are the file's format, in both directions.
//!
//! serde refuses unknown keys, wrong types and malformed values, and gives every key that is left out its
//! strict default. What contradicts itself is refused by the `check` of each table.

use cvmm_snp::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{MAX_FILE, PolicyError};
use crate::evidence::EvidenceClass;
use crate::guest::{GuestRules, is_name, unproven};
use crate::platform::PlatformRules;
use crate::release::Release;
use crate::text::{self, is_default};
use crate::ticket::TicketRules;
use crate::version::GateVersion;
use crate::vtpm::VtpmRules;

/// A policy. [`Policy::parse`] reads one; deserialized in another way it is not checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "docs/guide/policy.md explains the keys")]
pub struct Policy {
    pub id: String,
    pub version: u64,
    /// Seconds of Unix time.
    #[serde(default, with = "text::utc", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// Seconds of Unix time.
    #[serde(default, with = "text::utc", skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    #[serde(default, with = "text::option", skip_serializing_if = "Option::is_none")]
    pub min_gate_version: Option<GateVersion>,
    #[serde(default)]
    pub evidence: EvidenceClass,
    #[serde(default, skip_serializing_if = "is_default")]
    pub unsafe_allow_debug: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub unsafe_allow_migration_agent: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub unsafe_any_measurement: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub unsafe_isolation_none: bool,
    #[serde(default)]
    pub guest: GuestRules,
    #[serde(default)]
    pub platform: PlatformRules,
    #[serde(default)]
    pub ticket: TicketRules,
    #[serde(default, skip_serializing_if = "is_default")]
    pub vtpm: VtpmRules,
    #[serde(default, skip_serializing_if = "is_default")]
    pub release: Release,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rego: Option<RegoFile>,
}

/// `[rego]`: code that can refuse what the other keys accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegoFile {
    /// Its file, beside the policy's.
    pub file: String,
    /// SHA-384 of the file: it is signed together with the policy.
    #[serde(with = "text::value")]
    pub sha384: Digest,
}

impl RegoFile {
    fn check(&self) -> Result<(), PolicyError> {
        let Self { file, sha384: _ } = self;
        if is_name(file) && file.ends_with(".rego") {
            return Ok(());
        }
        let problem = format!("{file:?} is not the name of a file beside the policy, such as \"web.rego\"");
        Err(PolicyError::value("rego.file", problem))
    }
}

impl Policy {
    /// Reads a policy's text.
    ///
    /// # Errors
    /// The text is too long, is not TOML, or is not a policy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_FILE {
            return Err(PolicyError::TooLong(text.len()));
        }
        let policy: Self = toml::from_str(text)
            .map_err(|error| PolicyError::Syntax(error.to_string().trim_end().to_owned()))?;
        policy.check()?;
        Ok(policy)
    }

    /// The policy as TOML, every clause of it.
    ///
    /// # Errors
    /// A number that TOML cannot represent: a mask with its highest bit set.
    pub fn to_toml(&self) -> Result<String, PolicyError> {
        toml::to_string(self).map_err(|error| PolicyError::Syntax(error.to_string()))
    }

    fn check(&self) -> Result<(), PolicyError> {
        // A new key does not compile until it is checked or named here.
        let Self {
            id,
            guest,
            platform,
            ticket,
            vtpm,
            release,
            rego,
            unsafe_any_measurement,
            version: _,
            not_before: _,
            not_after: _,
            min_gate_version: _,
            evidence: _,
            unsafe_allow_debug: _,
            unsafe_allow_migration_agent: _,
            unsafe_isolation_none: _,
        } = self;
        if !is_name(id) {
            return Err(PolicyError::value("id", "is not 1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        guest.check(*unsafe_any_measurement)?;
        platform.check()?;
        ticket.check()?;
        vtpm.check()?;
        release.check(id)?;
        rego.as_ref().map_or(Ok(()), RegoFile::check)
    }

    /// Why a gate cannot use the policy as it is; `None` if it can.
    #[must_use]
    pub fn unresolved(&self) -> Option<String> {
        let config = self.guest.config.first()?;
        Some(format!(
            "guest.config = {config:?} is not measured yet, and a gate has no vm.toml (policy.unresolved): \
             cvmm policy resolve SOURCE -o OUT replaces it by digests; sign OUT"
        ))
    }

    /// The keys that lower the floor, with what that means. Programs log each of them whenever they use the
    /// policy.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        [
            (self.unsafe_allow_debug, "unsafe_allow_debug: the host may read and change the guest's memory"),
            (
                self.unsafe_allow_migration_agent,
                "unsafe_allow_migration_agent: a migration agent may move the guest to any platform",
            ),
            (
                self.unsafe_any_measurement,
                "unsafe_any_measurement: every guest is admitted, whatever it runs",
            ),
            (self.unsafe_isolation_none, "unsafe_isolation_none: guests that the host can read are admitted"),
        ]
        .into_iter()
        .filter_map(|(on, text)| on.then_some(text))
        .collect()
    }

    /// What the launch digests that the policy admits do not prove about the code: a sentence for each boot
    /// profile.
    #[must_use]
    pub fn unproven(&self) -> Vec<&'static str> {
        self.guest.profiles.iter().filter_map(|profile| unproven(profile)).collect()
    }
}

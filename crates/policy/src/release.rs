// SPDX-License-Identifier: Apache-2.0
//! `[release]`: what a gate gives the guests of a policy, and which policies take over from it.
//!
//! The host chooses a VM's name, so a name alone gives nothing: the policy that admitted the guest has to
//! list what it is given.

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::PolicyError;
use crate::guest::is_name;

/// Entries of each list, at most.
const MAX_ENTRIES: usize = 64;

/// `[release]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Release {
    /// Secrets that a first stage may be given, by GUID, in lower case.
    #[serde(deserialize_with = "lower_case", skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Repositories whose resources RCAR may give.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Policies that may take over the VMs that have persistent state under this one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hand_over: Vec<String>,
}

fn lower_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let mut texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter_mut().for_each(|text| text.make_ascii_lowercase());
    Ok(texts)
}

impl Release {
    pub(crate) fn check(&self, id: &str) -> Result<(), PolicyError> {
        let Self { secrets, resources, hand_over } = self;
        for (key, list) in
            [("release.secrets", secrets), ("release.resources", resources), ("release.hand_over", hand_over)]
        {
            if list.len() > MAX_ENTRIES {
                return Err(PolicyError::value(key, format!("has more than {MAX_ENTRIES} entries")));
            }
        }
        if let Some(other) = secrets.iter().find(|text| guid(text).is_none()) {
            return Err(PolicyError::value(
                "release.secrets",
                format!("{other:?} is not a GUID such as \"736869e5-84f0-4973-92ec-06879ce3da0b\""),
            ));
        }
        for (key, list) in [("release.resources", resources), ("release.hand_over", hand_over)] {
            if let Some(other) = list.iter().find(|name| !is_name(name)) {
                return Err(PolicyError::value(
                    key,
                    format!("{other:?} is not 1 to 64 of A-Z a-z 0-9 . _ -"),
                ));
            }
        }
        if hand_over.iter().any(|name| name == id) {
            return Err(PolicyError::value("release.hand_over", "names the policy itself"));
        }
        Ok(())
    }

    /// Whether a guest of this policy may be given the secret with this GUID.
    #[must_use]
    pub fn gives_secret(&self, guid: &str) -> bool {
        self.secrets.iter().any(|listed| listed.eq_ignore_ascii_case(guid))
    }

    /// Whether a guest of this policy may be given the resources of this repository.
    #[must_use]
    pub fn gives_resources(&self, repository: &str) -> bool {
        self.resources.iter().any(|listed| listed == repository)
    }

    /// Whether the policy with this name may take over VMs of this policy.
    #[must_use]
    pub fn hands_over(&self, to: &str) -> bool {
        self.hand_over.iter().any(|listed| listed == to)
    }

    pub(crate) fn explain(&self, say: &mut impl FnMut(String)) {
        let Self { secrets, resources, hand_over } = self;
        for (what, list) in [
            ("gives secrets", secrets),
            ("gives resources of repositories", resources),
            ("hands its VMs with persistent state over to", hand_over),
        ] {
            if !list.is_empty() {
                say(format!("{what}: {}", list.join(", ")));
            }
        }
    }
}

/// A GUID's text in the byte order of EFI.
#[must_use]
pub fn guid(text: &str) -> Option<[u8; 16]> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.iter().map(|part| part.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let mut bytes = [0; 16];
    hex::decode_to_slice(parts.concat(), &mut bytes).ok()?;
    // The first three parts are little-endian numbers.
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

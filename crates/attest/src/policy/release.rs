// SPDX-License-Identifier: Apache-2.0
//! `[release]`: what a gate gives the guests of a policy, and who takes over from it.
//!
//! A VM's name is the host's choice, so nothing is given for a name alone: the policy that judged the guest has to list it.

use super::{PolicyError, file, is_name, value};

/// Entries of each list.
const MAX_ENTRIES: usize = 64;

/// What a policy gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Secrets that a first stage may be given, by GUID, in lower case.
    pub secrets: Vec<String>,
    /// Repositories of which RCAR may give resources.
    pub resources: Vec<String>,
    /// Policies that may take over the VMs that have persistent state under this one.
    pub hand_over: Vec<String>,
}

impl Release {
    pub(super) fn parse(file: file::Release, id: &str) -> Result<Self, PolicyError> {
        let file::Release { secrets, resources, hand_over } = file;
        for (key, list) in [
            ("release.secrets", &secrets),
            ("release.resources", &resources),
            ("release.hand_over", &hand_over),
        ] {
            if list.len() > MAX_ENTRIES {
                return Err(value(key, format!("has more than {MAX_ENTRIES} entries")));
            }
        }
        if let Some(other) = secrets.iter().find(|text| guid(text).is_none()) {
            return Err(value(
                "release.secrets",
                format!("{other:?} is not a GUID such as \"736869e5-84f0-4973-92ec-06879ce3da0b\""),
            ));
        }
        for (key, list) in [("release.resources", &resources), ("release.hand_over", &hand_over)] {
            if let Some(other) = list.iter().find(|name| !is_name(name)) {
                return Err(value(key, format!("{other:?} is not 1 to 64 of A-Z a-z 0-9 . _ -")));
            }
        }
        if hand_over.iter().any(|name| name == id) {
            return Err(value("release.hand_over", "names the policy itself"));
        }
        let secrets = secrets.iter().map(|text| text.to_ascii_lowercase()).collect();
        Ok(Self { secrets, resources, hand_over })
    }

    pub(super) fn to_file(&self) -> file::Release {
        let Self { secrets, resources, hand_over } = self.clone();
        file::Release { secrets, resources, hand_over }
    }

    /// Whether a guest of this policy may be given the secret of this GUID.
    #[must_use]
    pub fn gives_secret(&self, guid: &str) -> bool {
        self.secrets.iter().any(|listed| listed.eq_ignore_ascii_case(guid))
    }

    /// Whether a guest of this policy may be given what is in this repository.
    #[must_use]
    pub fn gives_resources(&self, repository: &str) -> bool {
        self.resources.iter().any(|listed| listed == repository)
    }

    /// Whether the policy of this name may take over VMs of this policy.
    #[must_use]
    pub fn hands_over(&self, to: &str) -> bool {
        self.hand_over.iter().any(|listed| listed == to)
    }

    pub(super) fn explain(&self, say: &mut impl FnMut(String)) {
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
    let digits = parts.concat();
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    // The first three parts are little-endian numbers.
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Some(bytes)
}

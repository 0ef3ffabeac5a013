// SPDX-License-Identifier: Apache-2.0
//! Kinds of content in a state file, and names of VMs.

use std::fmt;
use std::str::FromStr;

/// Kind of a file inside the state file. The numbers are VMGS file ids that other software does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The TPM's permanent state: seeds, NV indices, persistent objects.
    TpmPermanent = 33,
    /// The TPM's volatile state, between a pause and the resume.
    TpmVolatile = 34,
    /// Empty: carries the epoch and the counter.
    Meta = 35,
    /// Data of the TPM's front end and of provisioning.
    TpmDevice = 36,
    /// State that a TPM 1.2 saves at shutdown; libtpms requests it by name.
    TpmSaveState = 37,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::TpmPermanent, Self::TpmVolatile, Self::Meta, Self::TpmDevice, Self::TpmSaveState];

    /// The file id.
    #[must_use]
    pub fn id(self) -> usize {
        self as usize
    }

    /// Looks up a file id.
    #[must_use]
    pub fn from_id(id: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// Its name on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TpmPermanent => "tpm-permanent",
            Self::TpmVolatile => "tpm-volatile",
            Self::Meta => "meta",
            Self::TpmDevice => "tpm-device",
            Self::TpmSaveState => "tpm-save-state",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("not one of {}", names.join(", "))
        })
    }
}

/// A VM's name by the rules of the gate: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VmId(String);

impl VmId {
    /// A placeholder until a file has been read.
    pub(crate) const UNKNOWN: Self = Self(String::new());

    /// `None` if it is not a valid name.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let named = (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.');
        named.then(|| Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name padded with zeros to 64 bytes.
    #[must_use]
    pub fn padded(&self) -> [u8; 64] {
        let mut padded = [0; 64];
        for (to, from) in padded.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        padded
    }

    /// The inverse of [`padded`](Self::padded).
    #[must_use]
    pub fn from_padded(padded: &[u8; 64]) -> Option<Self> {
        let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
        let (name, zeros) = padded.split_at_checked(end)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return None;
        }
        Self::new(std::str::from_utf8(name).ok()?)
    }
}

impl fmt::Debug for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for VmId {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name).ok_or("not 1 to 64 of A-Z a-z 0-9 . _ -")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(Kind::from_id(kind.id()), Some(kind));
        }
        assert_eq!(Kind::from_id(3), None);
        for name in ["a", "web-1.example_2", &"x".repeat(64)] {
            let id = VmId::new(name).unwrap();
            assert_eq!(VmId::from_padded(&id.padded()), Some(id));
        }
        for name in ["", "..", ".a", "a/b", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(VmId::new(name), None, "{name}");
        }
        let mut padded = VmId::new("a").unwrap().padded();
        padded[5] = b'a';
        assert_eq!(VmId::from_padded(&padded), None);
    }
}

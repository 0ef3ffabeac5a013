// SPDX-License-Identifier: Apache-2.0
//! SEV_FEATURES: what the processor does differently for one vCPU.
//!
//! The field stands in the VMSA and is measured. KVM sets SNP_ACTIVE by itself; the others are asked for at
//! INIT2. Source: APM volume 2, "SEV_FEATURES" (VMSA offset 0x3b0); the numbers are those of SEV_STATUS less
//! two.

use std::fmt;

/// Bits of SEV_FEATURES.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SevFeatures(pub u64);

const NAMES: [(u32, &str); 14] = [
    (0, "snp active"),
    (1, "virtual top of memory"),
    (2, "reflect vc"),
    (3, "restricted injection"),
    (4, "alternate injection"),
    (5, "debug swap"),
    (6, "prevent host ibs"),
    (7, "btb isolation"),
    (8, "vmpl sss"),
    (9, "secure tsc"),
    (10, "vmgexit parameter"),
    (12, "ibs virtualization"),
    (14, "vmsa register protection"),
    (15, "smt protection"),
];

impl SevFeatures {
    /// The guest is an SNP guest. Set in every launch.
    pub const SNP_ACTIVE: Self = Self(1 << 0);
    /// Debug registers are swapped by the processor.
    pub const DEBUG_SWAP: Self = Self(1 << 5);
    /// The guest has a time-stamp counter the host cannot influence.
    pub const SECURE_TSC: Self = Self(1 << 9);

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Default for SevFeatures {
    fn default() -> Self {
        Self::SNP_ACTIVE
    }
}

impl fmt::Display for SevFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)?;
        let mut rest = self.0;
        let mut names = Vec::new();
        for (bit, name) in NAMES {
            if rest & 1 << bit != 0 {
                names.push(name.to_owned());
                rest &= !(1 << bit);
            }
        }
        if rest != 0 {
            names.push(format!("unknown {rest:#x}"));
        }
        if names.is_empty() { Ok(()) } else { write!(f, " ({})", names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names() {
        assert_eq!(SevFeatures::default().to_string(), "0x1 (snp active)");
        assert_eq!(SevFeatures(0x221).to_string(), "0x221 (snp active, debug swap, secure tsc)");
        assert_eq!(SevFeatures(0x800).to_string(), "0x800 (unknown 0x800)");
        assert_eq!(SevFeatures(0).to_string(), "0x0");
        assert!(SevFeatures(0x21).contains(SevFeatures::DEBUG_SWAP));
        assert!(!SevFeatures(0x1).with(SevFeatures::SECURE_TSC).contains(SevFeatures::DEBUG_SWAP));
    }
}

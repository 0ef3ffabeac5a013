// SPDX-License-Identifier: Apache-2.0
//! The guest policy: what a guest demands of the platform, checked at LAUNCH_START.
//!
//! Bits: 7:0 and 15:8 least ABI minor and major, 16 SMT allowed, 17 must be one, 18 migration agent allowed,
//! 19 debugging allowed, 20 single socket, 21 CXL allowed, 22 AES-256-XTS required, 23 RAPL must be off, 24
//! ciphertext hiding required, 25 page swapping disabled (from API 1.58). Everything above is reserved and
//! must be zero.

use crate::config::{Config, DebugRule};
use crate::status::{Outcome, Status};

/// Guest policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy(pub u64);

/// The platform state that a policy can exclude.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlatformFacts {
    pub(crate) rapl_disabled: bool,
    pub(crate) ciphertext_hiding: bool,
}

impl Policy {
    fn bit(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// The hypervisor may read and write the guest's memory.
    #[must_use]
    pub fn debug(self) -> bool {
        self.bit(19)
    }

    /// Whether a guest with this policy may start here. The hardware manual does not say which code a
    /// malformed policy gets; like an unsatisfied one it gets POLICY_FAILURE.
    pub(crate) fn check(self, config: &Config, facts: PlatformFacts, migration_agent: bool) -> Outcome<()> {
        let highest = if config.api >= (1, 58) { 25 } else { 24 };
        let (major, minor) = ((self.0 >> 8) as u8, self.0 as u8);
        let satisfied = self.bit(17)
            && self.0 >> (highest + 1) == 0
            && (major, minor) <= config.api
            && (self.bit(16) || !config.smt)
            && (self.bit(18) || !migration_agent)
            && !(self.debug() && config.debug == DebugRule::Forbid)
            && !(self.bit(20) && config.sockets > 1)
            && (self.bit(21) || !config.cxl)
            && (!self.bit(22) || config.aes_256_xts)
            && (!self.bit(23) || facts.rapl_disabled)
            && (!self.bit(24) || facts.ciphertext_hiding);
        if satisfied { Ok(()) } else { Err(Status::POLICY_FAILURE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: PlatformFacts = PlatformFacts { rapl_disabled: false, ciphertext_hiding: false };

    fn check(toml: &str, policy: u64, facts: PlatformFacts, agent: bool) -> bool {
        Policy(policy).check(&Config::from_toml(toml).unwrap(), facts, agent).is_ok()
    }

    #[test]
    fn each_bit_decides() {
        let all = PlatformFacts { rapl_disabled: true, ciphertext_hiding: true };
        for (toml, policy, facts, agent, accepted) in [
            ("", 0x3_0000, FACTS, false, true),
            ("", 0x1_0000, FACTS, false, false),
            ("", 0x2_0000, FACTS, false, false),
            ("smt = false", 0x2_0000, FACTS, false, true),
            ("", 0x3_0137, FACTS, false, true),
            ("", 0x3_0138, FACTS, false, false),
            ("", 0x3_0200, FACTS, false, false),
            ("api = '2.0'", 0x3_01ff, FACTS, false, true),
            ("", 0x3_0000, FACTS, true, false),
            ("", 0x7_0000, FACTS, true, true),
            ("", 0xb_0000, FACTS, false, true),
            ("debug = 'forbid'", 0xb_0000, FACTS, false, false),
            ("", 0x13_0000, FACTS, false, true),
            ("sockets = 2", 0x13_0000, FACTS, false, false),
            ("cxl = true", 0x3_0000, FACTS, false, false),
            ("cxl = true", 0x23_0000, FACTS, false, true),
            ("", 0x43_0000, FACTS, false, false),
            ("aes_256_xts = true", 0x43_0000, FACTS, false, true),
            ("", 0x83_0000, FACTS, false, false),
            ("", 0x83_0000, all, false, true),
            ("", 0x103_0000, FACTS, false, false),
            ("", 0x103_0000, all, false, true),
            ("", 0x203_0000, all, false, false),
            ("api = '1.58'", 0x203_0000, all, false, true),
            ("api = '1.58'", 0x403_0000, all, false, false),
            ("", 0x8000_0000_0003_0000, FACTS, false, false),
        ] {
            assert_eq!(check(toml, policy, facts, agent), accepted, "{toml} {policy:#x} {facts:?} {agent}");
        }
    }
}

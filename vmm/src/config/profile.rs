// SPDX-License-Identifier: Apache-2.0
//! `boot.profile`: the key that the rules for memory, the first stage and the examples depend on.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// The boot profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// One measured unified kernel image in guest RAM.
    #[default]
    Uki,
    /// Kernel, initrd and command line checked by the firmware against measured hashes.
    Hashes,
    /// The firmware boots from a disk.
    Disk,
    /// An IGVM file has everything, the firmware included.
    Igvm,
}

impl Profile {
    /// As in `vm.toml`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uki => "uki",
            Self::Hashes => "hashes",
            Self::Disk => "disk",
            Self::Igvm => "igvm",
        }
    }

    /// The least RAM below 4 GiB that the profile boots with, in bytes. Observed with the AmdSev OVMF: 96
    /// MiB through fw_cfg, 128 MiB with a 12 MiB UKI, which is loaded into the same RAM.
    pub(super) fn min_memory(self) -> u64 {
        match self {
            Self::Uki => 128 * MIB,
            Self::Hashes | Self::Disk => 96 * MIB,
            // The file says which memory it needs.
            Self::Igvm => 64 * MIB,
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

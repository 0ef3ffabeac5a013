// SPDX-License-Identifier: Apache-2.0
//! How strong evidence is.

use serde::{Deserialize, Serialize};

/// How strong the evidence for a launch is, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceClass {
    /// The host says what it has launched.
    HostAsserted,
    /// The host says that the security processor has accepted the gate's ID block, which fits one launch
    /// digest only.
    #[default]
    IdBlock,
    /// A signed report that the host asked for.
    HostReport,
    /// A signed report that software in the guest asked for, with the gate's nonce in it.
    GuestReport,
}

impl EvidenceClass {
    /// As in policies and tickets.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HostAsserted => "host-asserted",
            Self::IdBlock => "id-block",
            Self::HostReport => "host-report",
            Self::GuestReport => "guest-report",
        }
    }
}

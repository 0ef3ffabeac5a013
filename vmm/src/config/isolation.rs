// SPDX-License-Identifier: Apache-2.0
//! `isolation`: the key that many rules of other tables depend on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What protects the guest from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Nothing: an ordinary KVM guest, for development.
    #[default]
    None,
    /// AMD SEV-SNP: memory and registers are encrypted, and what starts is measured.
    Snp,
}

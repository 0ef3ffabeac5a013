// SPDX-License-Identifier: Apache-2.0
//! What the parser and the example writer need to know of a table.

use super::profile::Profile;

/// A table of `vm.toml`.
pub(super) struct Table {
    /// Its name.
    pub(super) name: &'static str,
    /// Whether a file may have several, each under `[[name]]`.
    pub(super) repeated: bool,
    /// Its section of an example for a profile, from the comment or header to the last line.
    pub(super) example: fn(Profile) -> String,
}

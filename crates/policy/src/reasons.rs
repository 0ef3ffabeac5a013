// SPDX-License-Identifier: Apache-2.0
//! Reasons, as an appraisal finds them.

use cvmm_reason::Reason;

/// The reasons found so far.
#[derive(Debug, Default)]
pub(crate) struct Reasons(pub(crate) Vec<Reason>);

impl Reasons {
    /// Adds a reason unless the requirement holds.
    pub(crate) fn require(&mut self, holds: bool, code: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Reason::new(code, message()));
        }
    }
}

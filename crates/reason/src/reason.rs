// SPDX-License-Identifier: Apache-2.0
//! Why something was refused.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One reason for a denial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Stable, for programs: `report.length`, `chain.signature`, `policy.min-tcb` ...
    /// (docs/reference/reasons.md lists all). Never reused.
    pub code: Cow<'static, str>,
    /// For humans: a lower-case sentence that names the field, what was found, what was expected, and what to
    /// do.
    pub message: String,
}

impl Reason {
    /// A reason; `code` is one of the module's that gives it.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Reason {}

// SPDX-License-Identifier: Apache-2.0
//! Why a file is not a policy.

use thiserror::Error;

/// The longest policy file in bytes.
pub const MAX_FILE: usize = 256 << 10;

/// A file that is not a valid policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// More than [`MAX_FILE`] bytes.
    #[error("the policy has {0} bytes, at most {MAX_FILE} are read")]
    TooLong(usize),
    /// Not TOML, an unknown key, a wrong type or a malformed value; with its place.
    #[error("{0}")]
    Syntax(String),
    /// A value that contradicts others or is out of range.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

impl PolicyError {
    pub(crate) fn value(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Value { key: key.into(), problem: problem.into() }
    }
}

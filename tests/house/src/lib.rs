// SPDX-License-Identifier: Apache-2.0
//! The rules of this workspace, checked: which crate and which file may import which, where unsafe code and
//! attackers may be, and the habits of language that we have given up. See docs/CONTRIBUTING.md for the
//! reasons.
//!
//! - [`workspace`]: packages and their dependencies, from `cargo metadata`;
//! - [`modules`]: the modules of a crate and the files they are in, without tests;
//! - [`imports`]: which file imports which, by `use` and by path;
//! - [`rings`]: files that import each other;
//! - [`rules`]: what crates, modules and attributes have to keep to;
//! - [`figures`], [`habits`]: counts of code and prose;
//! - [`ratchet`]: counts that may only go down;
//! - [`known`]: rules that do not hold yet.

pub mod figures;
pub mod habits;
pub mod imports;
pub mod known;
pub mod modules;
pub mod ratchet;
pub mod rings;
pub mod rules;
pub mod workspace;

use std::fmt;

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The rule's name.
    pub rule: &'static str,
    /// What breaks it: a package, or files relative to the workspace. [`known`] names one of them.
    pub subjects: Vec<String>,
    /// The offending line and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

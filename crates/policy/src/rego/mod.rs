// SPDX-License-Identifier: Apache-2.0
//! Rego: code that a policy may name, and that can only refuse more.
//!
//! Its answer adds to the reasons of the policy's other keys; an answer that is not one is a reason, too.
//! Rego silently skips what is missing. To keep a slip from admitting a guest:
//!
//! - the input is a complete document ([`input`]): what is not known is `null`, numbers are numbers, no key
//!   is ever left out;
//! - a lint checks the code when it is loaded: paths of the input that do not exist, comparisons with a value
//!   of another type, and functions that are not on a short list are refused, and with them the policy;
//! - `data.cvmm.verdict` has to be `{"allow": bool, "reasons": [strings]}`. Undefined, an error, another
//!   type: a denial;
//! - an evaluation has ten milliseconds. It runs on a thread of its own, so code that hangs in one step
//!   delays the gate by at most [`PATIENCE`]; text made in it has at most [`MAX_TEXT`] bytes.
//!
//! Without the cargo feature `rego` a policy that names Rego code is refused.

pub mod input;
#[cfg(feature = "rego")]
mod lint;
#[cfg(feature = "rego")]
mod run;
#[cfg(test)]
mod tests;

use std::time::Duration;

#[cfg(feature = "rego")]
pub use run::Rego;

/// The longest file in bytes.
pub const MAX_FILE: usize = 64 << 10;
/// The longest text that the code may make, in bytes.
pub const MAX_TEXT: usize = 4096;
/// Reasons in an answer, at most.
pub const MAX_REASONS: usize = 16;
/// How long one evaluation may take.
pub const TIME: Duration = Duration::from_millis(10);
/// How long to wait for an answer: for the queue, and for evaluations that other processes held up.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// The rule that is evaluated.
pub const RULE: &str = "data.cvmm.verdict";

/// The codes of its reasons.
pub const CODES: &[&str] =
    &["rego.denied", "rego.undefined", "rego.result", "rego.error", "rego.time", "rego.input"];

/// Rego code in a program without an interpreter, where there is none.
#[cfg(not(feature = "rego"))]
#[derive(Debug)]
pub enum Rego {}

#[cfg(not(feature = "rego"))]
impl Rego {
    /// Refuses it.
    ///
    /// # Errors
    /// Always.
    pub fn load(name: &str, _text: &str) -> Result<Self, String> {
        Err(format!(
            "{name} cannot be evaluated: this program was built without Rego (cargo feature rego), and no clause of a policy is skipped"
        ))
    }

    /// What it has against `document`.
    #[must_use]
    pub fn ask(&self, _document: &serde_json::Value) -> Vec<cvmm_reason::Reason> {
        match *self {}
    }
}

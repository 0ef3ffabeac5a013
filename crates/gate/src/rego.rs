// SPDX-License-Identifier: Apache-2.0
//! Rego: code that a policy may name, and that can only refuse more.
//!
//! Its answer is added to the typed policy's reasons; an answer that is not one is a reason, too. So that a slip in a language where
//! what is missing is silently skipped does not let a guest in:
//!
//! - the input is a complete document ([`input`]): what is not known is `null`, numbers are numbers, nothing is ever left out;
//! - the code is looked through when it is loaded: paths of the input that do not exist, comparisons with a value of
//!   another type, and functions that are not on a short list are refused, and with them the policy;
//! - `data.cvmm.verdict` has to be `{"allow": bool, "reasons": [strings]}`. Undefined, an error, another type: a denial;
//! - ten milliseconds, then it is a denial. A thread of its own runs it, so that code that hangs in one step holds nobody up for
//!   longer than [`PATIENCE`]; text made in it has at most [`MAX_TEXT`] bytes.
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

use cvmm_reason::Reason;
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
/// How long an answer is waited for: the queue, and evaluations that were held up by other processes.
// Time that passes, not time that is used: a machine that does ten other things must not fail the tests of what is right.
pub const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 2500 } else { 250 });
/// The rule that is asked for.
pub const RULE: &str = "data.cvmm.verdict";

/// The codes of its reasons.
pub const CODES: &[&str] =
    &["rego.denied", "rego.undefined", "rego.result", "rego.error", "rego.time", "rego.input"];

fn reason(code: &'static str, message: impl Into<String>) -> Reason {
    Reason::new(code, message)
}

/// Rego code in a program without an interpreter: there is never one.
#[cfg(not(feature = "rego"))]
#[derive(Debug)]
pub enum Rego {}

#[cfg(not(feature = "rego"))]
impl Rego {
    /// Refuses it.
    pub fn load(name: &str, _text: &str) -> Result<Self, String> {
        Err(format!(
            "{name} cannot be asked: this gate was built without Rego (cargo feature rego), and what a policy wants is never left out"
        ))
    }

    /// What it has against `document`.
    #[must_use]
    pub fn ask(&self, _document: &serde_json::Value) -> Vec<Reason> {
        vec![reason("rego.error", "there is no Rego in this gate")]
    }
}

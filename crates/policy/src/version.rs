// SPDX-License-Identifier: Apache-2.0
//! Versions of gates.

use std::fmt;
use std::str::FromStr;

/// The version of a gate: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GateVersion(pub [u32; 3]);

impl FromStr for GateVersion {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        numbers(text).map(Self).ok_or(())
    }
}

impl fmt::Display for GateVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([major, minor, patch]) = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// Three numbers with dots between them: digits only, without signs.
pub(crate) fn numbers<T: FromStr>(text: &str) -> Option<[T; 3]> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let part = |part: &str| if digits(part) { part.parse().ok() } else { None };
    let parts: Vec<T> = text.split('.').map(part).collect::<Option<_>>()?;
    parts.try_into().ok()
}

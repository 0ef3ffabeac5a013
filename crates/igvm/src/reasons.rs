// SPDX-License-Identifier: Apache-2.0
//! The reason codes of this crate (docs/reference/reasons.md).

/// All codes. A code is never reused for another reason.
pub const CODES: &[&str] = &[
    "igvm.read",
    "igvm.format",
    "igvm.platform",
    "igvm.vtl",
    "igvm.unsupported",
    "igvm.duplicate",
    "igvm.policy",
    "igvm.memory",
    "igvm.overlap",
    "igvm.parameter",
    "igvm.context",
    "igvm.id-block",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CODES;

    #[test]
    fn every_code_is_listed_once() {
        let words = include_str!("error.rs").split([' ', ',', '\n']);
        let written: BTreeSet<_> =
            words.filter(|word| word.starts_with("\"igvm.")).map(|word| word.trim_matches('"')).collect();
        assert_eq!(written, CODES.iter().copied().collect());
        assert_eq!(written.len(), CODES.len());
    }
}

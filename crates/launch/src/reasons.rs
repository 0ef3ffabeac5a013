// SPDX-License-Identifier: Apache-2.0
//! The reason codes of this crate (docs/reference/reasons.md).

/// All codes. A code is never reused for another reason.
pub const CODES: &[&str] = &[
    "firmware.read",
    "firmware.format",
    "firmware.overlap",
    "firmware.sev-metadata",
    "firmware.sev-section",
    "firmware.reset-block",
    "firmware.profile",
    "firmware.first-stage",
    "firmware.data",
    "kernel.read",
    "kernel.format",
    "kernel.truncated",
    "kernel.unsupported",
    "uki.missing",
    "uki.header",
    "uki.placement",
    "uki.overlap",
    "uki.no-memory",
    "uki.duplicate",
    "uki.kernel",
    "uki.cmdline",
    "plan.memory",
    "plan.vcpus",
    "plan.cmdline",
    "plan.loader",
    "plan.placement",
    "plan.internal",
];

/// Codes of files that cvmm finds by their digest, and of Secure Boot keys. They are given where the files
/// are opened.
pub const FILES: &[&str] = &[
    "firmware.missing",
    "firmware.differs",
    "secure-boot.file",
    "secure-boot.keys",
    "secure-boot.missing",
    "secure-boot.differs",
    "secure-boot.read",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CODES;

    /// The functions called `code` give these and no others.
    #[test]
    fn every_code_is_listed_once() {
        let sources = [
            include_str!("firmware/error.rs"),
            include_str!("firmware/snp.rs"),
            include_str!("kernel/error.rs"),
            include_str!("plan/error.rs"),
        ];
        let prefixes = ["\"firmware.", "\"kernel.", "\"uki.", "\"plan."];
        let words = sources.iter().flat_map(|text| text.split([' ', ',', '\n', '(', ')']));
        let written = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
        let written: BTreeSet<_> = written.map(|word| word.trim_matches('"')).collect();
        assert_eq!(written, CODES.iter().copied().collect());
        assert_eq!(written.len(), CODES.len());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! `cvmm --version`: what was built, and what matters for comparing measurements and reporting defects.

use std::sync::LazyLock;

use cvmm_launch::first_stage::program_digest;

use crate::builtin;

/// The commit it was built from; see `build.rs`.
const COMMIT: &str = env!("CVMM_COMMIT");

/// Several lines, the first with the version.
static LONG: LazyLock<String> = LazyLock::new(|| {
    let (major, minor, patch) = cvmm_vtpm::LibraryEngine::version();
    let (file, sha256) =
        builtin::FIRMWARE.as_ref().map_or(("none", ""), |pin| (pin.file.as_str(), pin.sha256.as_str()));
    format!(
        "{}\ncommit: {COMMIT}\nfirmware: {file} sha256 {sha256}\nfirst stage: sha384 {}\nlibtpms: {major}.{minor}.{patch}",
        env!("CARGO_PKG_VERSION"),
        program_digest(),
    )
});

/// The text of `--version`; `-V` prints the first line.
pub(super) fn long() -> &'static str {
    &LONG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_commit_firmware_first_stage_and_libtpms() {
        let lines: Vec<_> = long().lines().collect();
        let [version, commit, firmware, stage, tpm] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(*version, env!("CARGO_PKG_VERSION"));
        assert!(commit.strip_prefix("commit: ").is_some_and(|commit| !commit.is_empty()));
        assert!(firmware.starts_with("firmware: OVMF.cvmm.fd sha256 "), "{firmware}");
        assert!(stage.ends_with(&program_digest().to_string()) && stage.starts_with("first stage: sha384 "));
        assert!(tpm.starts_with("libtpms: 0."), "{tpm}");
    }
}

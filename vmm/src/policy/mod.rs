// SPDX-License-Identifier: Apache-2.0
//! `cvmm policy`: what policies need of a `vm.toml`. Policies themselves are the work of `cvmm_policy`.

mod resolve;

use std::path::{Path, PathBuf};

use cvmm_appraise::{FileError, read_text};
use cvmm_policy::Policy;
use cvmm_policy::authoring::{GuestDescription, Signers};
use cvmm_snp::policy::GuestPolicy;
use thiserror::Error;

pub use resolve::ResolveError;

use crate::admission::manifest::knobs;
use crate::config::{Config, CpuidTolerance, Isolation, KeySource};

/// Why a policy cannot be used.
#[derive(Debug, Error)]
pub enum PolicyFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content, or that of a `vm.toml` it names.
    #[error("{path}: {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: ResolveError,
    },
}

/// The guest of a `vm.toml`, as a policy is written for it.
pub(crate) fn describe(config: &Config) -> GuestDescription<'_> {
    GuestDescription {
        name: &config.name,
        vcpus: config.vcpus,
        snp: config.isolation == Isolation::Snp,
        policy: GuestPolicy(config.snp.policy),
        profile: config.boot.profile().name(),
        debug_knobs: knobs(&config.debug),
        vlek_only: config.snp.vlek_only,
        cpuid_corrections: config.snp.cpuid_corrections == CpuidTolerance::Caches,
        secure_boot: config.secure_boot.as_ref().map(|keys| match keys.db.contains(&KeySource::Microsoft) {
            true => Signers::Microsoft,
            false => Signers::Own,
        }),
    }
}

/// The text of the policy in `path`, with the digests of the guests it names by their `vm.toml`.
///
/// # Errors
/// The file cannot be read, is not a policy, or names a guest that cannot be measured.
pub fn load_text(path: &Path) -> Result<String, PolicyFileError> {
    let text = read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    resolve::resolve(&text, folder)
        .map_err(|problem| PolicyFileError::Content { path: path.to_owned(), problem })
}

/// The policy in `path`, with the digests of the guests it names by their `vm.toml`.
///
/// # Errors
/// As [`load_text`].
pub fn load(path: &Path) -> Result<Policy, PolicyFileError> {
    let content = |problem: cvmm_policy::PolicyError| PolicyFileError::Content {
        path: path.to_owned(),
        problem: problem.into(),
    };
    Policy::parse(&load_text(path)?).map_err(content)
}

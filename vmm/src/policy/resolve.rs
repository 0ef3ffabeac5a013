// SPDX-License-Identifier: Apache-2.0
//! `guest.config`: the launch digests of the `vm.toml` that a policy names.

use std::path::Path;

use cvmm_launch::vmsa::VcpuModel;
use cvmm_measure::MeasureError;
use cvmm_policy::{Policy, PolicyError, authoring, vcpu_signature};
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use thiserror::Error;

use crate::config::{Checks, Config, ConfigError};
use crate::inputs::{InputError, Inputs};

/// Why the digests could not be inserted.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The policy.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// A `vm.toml`.
    #[error("{config}: {source}")]
    Config {
        /// As the policy names it.
        config: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A guest whose files cannot be used.
    #[error("{config} cannot be measured: {source}")]
    Input {
        /// As the policy names it.
        config: String,
        /// Why.
        source: Box<InputError>,
    },
    /// A guest that cannot be measured.
    #[error("{config} cannot be measured: {source}")]
    Measure {
        /// As the policy names it.
        config: String,
        /// Why.
        source: Box<MeasureError>,
    },
    /// A guest that the rest of the policy refuses.
    #[error("{config} has boot profile {profile}, which is not in guest.profiles")]
    Profile {
        /// As the policy names it.
        config: String,
        /// Its profile.
        profile: &'static str,
    },
}

/// The text with digests instead of the configurations it names; unchanged if it names none. Paths start at
/// `folder`.
pub(super) fn resolve(text: &str, folder: &Path) -> Result<String, ResolveError> {
    authoring::resolve(text, |policy, name| measure(policy, name, folder))
}

/// The digests of one configuration, for each processor.
fn measure(policy: &Policy, name: &str, folder: &Path) -> Result<Vec<(String, Digest)>, ResolveError> {
    let failed = |source| ResolveError::Measure { config: name.to_owned(), source: Box::new(source) };
    let config = Config::load_with(&folder.join(name), Checks { files: true, host: false })
        .map_err(|source| ResolveError::Config { config: name.to_owned(), source })?;
    let profile = config.boot.profile().name();
    if !policy.guest.profiles.iter().any(|known| known == profile) {
        return Err(ResolveError::Profile { config: name.to_owned(), profile });
    }
    let input = |source| ResolveError::Input { config: name.to_owned(), source: Box::new(source) };
    let subject = Inputs::open(&config).map_err(input)?.into_subject();
    let digest = |vcpu: &String| {
        // The policy's parser accepts known processors only.
        let signature = vcpu_signature(vcpu).ok_or_else(|| {
            ResolveError::Policy(PolicyError::Value { key: "guest.vcpu_types".into(), problem: vcpu.clone() })
        })?;
        let model = VcpuModel { signature, features: SevFeatures::SNP_ACTIVE };
        Ok((vcpu.clone(), subject.digest(model).map_err(failed)?))
    };
    policy.guest.vcpu_types.iter().map(digest).collect()
}

// SPDX-License-Identifier: Apache-2.0
//! `guest.config`: a policy that names a `vm.toml` instead of its launch digests.
//!
//! A gate has neither the file nor what it names, and the signature has to cover which guests are admitted.
//! So the digests are measured here, where the guest is built, and replace the names before the policy is
//! signed.

use std::path::Path;

use cvmm_launch::vmsa::VcpuModel;
use cvmm_measure::MeasureError;
use cvmm_policy::{Policy, PolicyError, vcpu_signature};
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use thiserror::Error;
use toml_edit::{DocumentMut, Item, Value};

use crate::config::{Boot, Checks, Config, ConfigError};
use crate::inputs::{InputError, Inputs};

/// Why the digests could not be inserted.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The policy.
    #[error("{0}")]
    Policy(PolicyError),
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

/// The profile of a configuration, as policies call it.
pub(super) fn profile(config: &Config) -> &'static str {
    match config.boot {
        Boot::Uki { .. } => "uki",
        Boot::Hashes { .. } => "hashes",
        Boot::Disk => "disk",
    }
}

/// The text with digests instead of the configurations it names; unchanged if it names none. Paths start at
/// `folder`.
pub fn resolve(text: &str, folder: &Path) -> Result<String, ResolveError> {
    let policy = Policy::parse(text).map_err(ResolveError::Policy)?;
    if policy.guest.config.is_empty() {
        return Ok(text.to_owned());
    }
    let syntax = |problem: String| ResolveError::Policy(PolicyError::Syntax(problem));
    let mut document: DocumentMut =
        text.parse().map_err(|error: toml_edit::TomlError| syntax(error.to_string()))?;
    let guest = document
        .get_mut("guest")
        .and_then(Item::as_table_like_mut)
        .ok_or_else(|| syntax("guest is not a table".to_owned()))?;
    let mut known = policy.guest.measurements.clone();
    let mut measured = Vec::new();
    for name in &policy.guest.config {
        for (vcpu, digest) in measure(&policy, name, folder)? {
            if !known.contains(&digest) {
                known.push(digest);
                measured.push((format!("{name} on {vcpu}"), digest));
            }
        }
    }
    guest.remove("config");
    guest.remove("vcpu_types");
    let digests =
        guest.entry("measurements").or_insert_with(|| Item::Value(Value::Array(Default::default())));
    let digests =
        digests.as_array_mut().ok_or_else(|| syntax("guest.measurements is not an array".to_owned()))?;
    for (what, digest) in measured {
        let comment = cvmm_reason::printable::line(&what);
        digests.push_formatted(
            Value::from(digest.to_string()).decorated(format!("\n    # {comment}\n    "), ""),
        );
    }
    digests.set_trailing("\n");
    digests.set_trailing_comma(true);
    let text = document.to_string();
    // Parse what was written, to be sure.
    let resolved = Policy::parse(&text).map_err(ResolveError::Policy)?;
    if resolved.unresolved().is_some() || resolved.guest.measurements != known {
        return Err(syntax("the policy could not be rewritten; write guest.measurements by hand".to_owned()));
    }
    Ok(text)
}

/// The digests of one configuration, for each processor.
fn measure(policy: &Policy, name: &str, folder: &Path) -> Result<Vec<(String, Digest)>, ResolveError> {
    let failed = |source| ResolveError::Measure { config: name.to_owned(), source: Box::new(source) };
    let config = Config::load_with(&folder.join(name), Checks { files: true, host: false })
        .map_err(|source| ResolveError::Config { config: name.to_owned(), source })?;
    let profile = profile(&config);
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

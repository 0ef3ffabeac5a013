// SPDX-License-Identifier: Apache-2.0
//! `[secure_boot]`: keys that are measured into the guest.

use std::path::PathBuf;

use cvmm_secure_boot::Variable;
use cvmm_secure_boot::preset::MICROSOFT;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paths::{Paths, text};
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::table::Table;

/// The most files of one variable.
const MAX_FILES: usize = 64;

pub(super) const TABLE: Table = Table { name: "secure_boot", repeated: false, example };

/// Secure Boot keys that are measured into the guest: certificates (PEM or DER), EFI signature lists, or
/// signed updates of them (.auth).
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SecureBoot")]
pub(super) struct RawSecureBoot {
    /// The platform key, relative to this file: one certificate, of the owner. It turns Secure Boot on, and
    /// signs updates of KEK.
    #[schemars(required, length(min = 1))]
    pub(super) pk: Option<String>,
    /// Files of keys that sign updates of db and dbx, relative to this file, or "microsoft". Default: none.
    #[schemars(length(max = MAX_FILES))]
    pub(super) kek: Option<Vec<String>>,
    /// Files of keys whose programs may boot, relative to this file, or "microsoft" for the certificates
    /// that sign the loaders of distributions: then every such distribution boots.
    #[schemars(required, length(min = 1, max = MAX_FILES))]
    pub(super) db: Option<Vec<String>>,
    /// Files of what may not boot although it is signed, relative to this file. Default: none.
    #[schemars(length(max = MAX_FILES))]
    pub(super) dbx: Option<Vec<String>>,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Microsoft's certificates for others' programs, by their checksum.
    Microsoft,
    /// A file.
    File(PathBuf),
}

/// Secure Boot keys of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureBoot {
    /// The platform key.
    pub pk: PathBuf,
    /// Who may sign updates of db and dbx.
    pub kek: Vec<KeySource>,
    /// Who may sign programs; at least one.
    pub db: Vec<KeySource>,
    /// What may not run.
    pub dbx: Vec<PathBuf>,
}

impl SecureBoot {
    /// Where the keys of a variable come from.
    #[must_use]
    pub fn sources(&self, variable: Variable) -> Vec<KeySource> {
        let file = |path: &PathBuf| KeySource::File(path.clone());
        match variable {
            Variable::Pk => vec![file(&self.pk)],
            Variable::Kek => self.kek.clone(),
            Variable::Db => self.db.clone(),
            Variable::Dbx => self.dbx.iter().map(file).collect(),
        }
    }
}

impl RawSecureBoot {
    pub(super) fn check(self, rules: &mut Rules<'_>) -> SecureBoot {
        let Self { pk, kek, db, dbx } = self;
        if matches!(rules.vm.profile, Some(Profile::Hashes | Profile::Igvm)) {
            let message =
                "[secure_boot] belongs to the profiles uki and disk: only the built-in firmware takes keys";
            rules.add(
                Problem::at("secure_boot", "profile", message).help("remove the table or change the profile"),
            );
        }
        for (key, names) in [("pk", pk.as_slice()), ("dbx", dbx.as_deref().unwrap_or_default())] {
            if names.iter().any(|name| name == MICROSOFT) {
                let key = format!("secure_boot.{key}");
                let message = "the preset \"microsoft\" has certificates for kek and db only";
                let help = "a platform key is your own: docs/guide/secure-boot.md says how to make one";
                rules.add(Problem::at(&key, "value", message).help(help));
            }
        }
        if db.as_ref().is_some_and(Vec::is_empty) {
            let message = "db is empty: nothing could boot";
            rules.add(
                Problem::at("secure_boot.db", "value", message).allowed("a list of files, or \"microsoft\""),
            );
        }
        let db = rules.required("secure_boot.db", db, "a list of files, or \"microsoft\"");
        let source = |key: &str, name: String, rules: &mut Rules<'_>| match name.as_str() {
            MICROSOFT => KeySource::Microsoft,
            name => KeySource::File(rules.path(key, name)),
        };
        let list = |variable: Variable, names: Option<Vec<String>>, rules: &mut Rules<'_>| {
            let key = format!("secure_boot.{}", variable.key());
            let names = names.unwrap_or_default();
            if names.len() > MAX_FILES {
                let message = format!("{} names {} files", variable.key(), names.len());
                rules.add(Problem::at(&key, "length", message).allowed(format!("at most {MAX_FILES}")));
            }
            names.into_iter().map(|name| source(&key, name, rules)).collect::<Vec<_>>()
        };
        let file = |source| match source {
            KeySource::File(path) => Some(path),
            KeySource::Microsoft => None,
        };
        SecureBoot {
            pk: rules.required_path("secure_boot.pk", pk.as_deref()),
            kek: list(Variable::Kek, kek, rules),
            db: list(Variable::Db, db, rules),
            dbx: list(Variable::Dbx, dbx, rules).into_iter().filter_map(file).collect(),
        }
    }
}

impl From<&SecureBoot> for RawSecureBoot {
    fn from(keys: &SecureBoot) -> Self {
        let SecureBoot { pk, kek, db, dbx } = keys;
        let names = |sources: &[KeySource]| {
            let name = |source: &KeySource| match source {
                KeySource::Microsoft => MICROSOFT.to_owned(),
                KeySource::File(path) => text(path),
            };
            Some(sources.iter().map(name).collect())
        };
        Self {
            pk: Some(text(pk)),
            kek: names(kek),
            db: names(db),
            dbx: Some(dbx.iter().map(|path| text(path)).collect()),
        }
    }
}

/// Checks the files. What is in them is checked when they are opened.
pub(super) fn check_files(keys: &SecureBoot, paths: &mut Paths) {
    for variable in Variable::ALL {
        let key = format!("secure_boot.{}", variable.key());
        for source in keys.sources(variable) {
            if let KeySource::File(path) = source {
                paths.image(&key, &path);
            }
        }
    }
}

fn example(profile: Profile) -> String {
    match profile {
        Profile::Hashes | Profile::Igvm => String::new(),
        Profile::Uki | Profile::Disk => EXAMPLE.to_owned(),
    }
}

const EXAMPLE: &str = r#"# Secure Boot keys, measured into the guest. Certificates (PEM, DER), signature lists (.esl) or signed updates (.auth).
# [secure_boot]
# pk = "owner.crt"               # your own certificate
# kek = []                       # who may sign updates of db and dbx in the guest
# db = ["owner.crt"]             # whose programs boot; "microsoft": every distribution's
# dbx = []                       # what may not boot although it is signed
"#;

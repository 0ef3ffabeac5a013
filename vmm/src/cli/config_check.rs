// SPDX-License-Identifier: Apache-2.0
//! `cvmm config check`.

use std::path::Path;

use super::session::Session;
use crate::config::{Checks, Config, ConfigError, Isolation};
use crate::exit_code::ExitStatus;
use crate::run::check;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The text.
    Text,
    /// The text and the files it names.
    Files,
    /// All, this host included.
    Host,
}

impl Scope {
    pub(super) fn of(offline: bool, no_host: bool) -> Self {
        match (offline, no_host) {
            (true, _) => Self::Text,
            (false, true) => Self::Files,
            (false, false) => Self::Host,
        }
    }

    fn checks(self) -> Checks {
        match self {
            Self::Text => Checks::OFFLINE,
            Self::Files => Checks { files: true, host: false },
            Self::Host => Checks::MACHINE,
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Text => "the text is valid; files and host were not checked",
            Self::Files => "valid, and its files can be used; this host was not checked",
            Self::Host => "valid, its files can be used, and this host can run it",
        }
    }
}

impl Session<'_> {
    pub(super) fn config_check(&mut self, file: &Path, scope: Scope, json: bool) -> ExitStatus {
        let (status, checked) = look(file, scope);
        if json {
            let report = match &checked {
                Ok(config) => serde_json::json!({ "ok": true, "config": config.to_json() }),
                Err(error) => serde_json::json!({ "ok": false, "problems": error.problems() }),
            };
            let printed = self.print(format!("{report:#}\n").as_bytes());
            return if printed == ExitStatus::Success { status } else { printed };
        }
        match checked {
            Ok(config) => {
                let mut line = format!("{}: {} (VM \"{}\")\n", file.display(), scope.sentence(), config.name);
                if config.isolation == Isolation::Snp && config.gate.is_none() {
                    line += "note: without [gate], cvmm run needs --without-gate\n";
                }
                self.print(line.as_bytes())
            }
            Err(error) => {
                self.config_error(&error);
                status
            }
        }
    }
}

/// Looks at the text first, then at the files: what a wrong text names says little.
fn look(file: &Path, scope: Scope) -> (ExitStatus, Result<Config, ConfigError>) {
    let (config, text) = match Config::load_text(file, scope.checks()) {
        Ok(loaded) => loaded,
        Err(error) => return (ExitStatus::Usage, Err(error)),
    };
    let mut findings = if scope == Scope::Text { Vec::new() } else { check::files(&config) };
    if scope == Scope::Host {
        findings.extend(check::host(&config, || cvmm_doctor::examine(Path::new("/"))));
    }
    match findings.first() {
        None => (ExitStatus::Success, Ok(config)),
        // A run ends with the first.
        Some(first) => {
            let status = first.status;
            (status, Err(text.error(findings.into_iter().map(|finding| finding.problem).collect())))
        }
    }
}

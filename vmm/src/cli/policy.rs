// SPDX-License-Identifier: Apache-2.0
//! `cvmm policy`.

use std::fs::{self, File};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cvmm_attest::policy::{Policy, is_name};
use cvmm_attest::roots::Trust;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::features::SevFeatures;

use super::policy_args::{InitArgs, PolicyCommand, TestArgs};
use super::{Sentence, Session};
use crate::config::{Checks, Config};
use crate::doctor::sev;
use crate::exit_code::{ExitReport, ExitStatus};
use crate::measure::Subject;
use crate::policy::{self, Platform, PolicyFileError};

impl Session<'_> {
    pub(super) fn policy(&mut self, command: &PolicyCommand) -> ExitStatus {
        match command {
            PolicyCommand::Init(args) => self.policy_init(args),
            PolicyCommand::Check { file } => match self.policy_file(file) {
                Ok(_) => ExitStatus::Success,
                Err(status) => status,
            },
            PolicyCommand::Explain { file } => match self.policy_file(file) {
                Ok(policy) => self.print(format!("{}\n", policy.explain().join("\n")).as_bytes()),
                Err(status) => status,
            },
            PolicyCommand::Test(args) => self.policy_test(args),
        }
    }

    /// Reads a policy, and says what is unsafe about it.
    pub(super) fn policy_file(&mut self, file: &Path) -> Result<Policy, ExitStatus> {
        let policy = policy::load(file).map_err(|error| self.refuse(&error))?;
        for warning in policy.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(policy)
    }

    pub(super) fn refuse(&mut self, error: &PolicyFileError) -> ExitStatus {
        let status = match error {
            PolicyFileError::Read { .. } => ExitStatus::File,
            PolicyFileError::Content { .. } | PolicyFileError::Other(_) => ExitStatus::Usage,
        };
        self.error(status, error);
        status
    }

    pub(super) fn wrong(&mut self, sentence: impl Into<String>) -> ExitStatus {
        self.error(ExitStatus::Usage, &Sentence(sentence.into()));
        ExitStatus::Usage
    }

    fn policy_init(&mut self, args: &InitArgs) -> ExitStatus {
        let config = match Config::load_with(&args.config, Checks { files: true, host: false }) {
            Ok(config) => config,
            Err(error) => return self.config_error(&error),
        };
        let id = args.id.clone().unwrap_or_else(|| config.name.clone());
        if !is_name(&id) {
            return self.wrong("--id is not 1 to 64 of A-Z a-z 0-9 . _ -");
        }
        let Some(signature) = args.vcpu_type.or(args.vcpu_sig) else {
            return self.wrong("--vcpu-type or --vcpu-sig is needed");
        };
        let model = VcpuModel { signature, features: SevFeatures::SNP_ACTIVE };
        let digest = match Subject::from_config(&config).and_then(|subject| subject.digest(model)) {
            Ok(digest) => digest,
            Err(error) => {
                self.error(error.exit_status(), &error);
                return error.exit_status();
            }
        };
        let reported = || {
            let status = File::open(cvmm_kvm_snp::probe::SEV_PATH).and_then(|device| sev::status(&device));
            status.map(|platform| platform.reported_tcb).map_err(|error| {
                format!("this host does not tell its TCB ({error}); give the least one with --tcb")
            })
        };
        let platform = match Platform::new(signature, args.tcb.as_ref(), reported) {
            Ok(platform) => platform,
            Err(sentence) => return self.wrong(sentence),
        };
        let text = policy::init(&id, &config, digest, &platform);
        match &args.out {
            None => self.print(text.as_bytes()),
            Some(path) => match fs::write(path, text) {
                Ok(()) => ExitStatus::Success,
                Err(error) => {
                    self.error(
                        ExitStatus::File,
                        &Sentence(format!("cannot write {}: {error}", path.display())),
                    );
                    ExitStatus::File
                }
            },
        }
    }

    fn policy_test(&mut self, args: &TestArgs) -> ExitStatus {
        let policy = match self.policy_file(&args.file) {
            Ok(policy) => policy,
            Err(status) => return status,
        };
        let trust = match trust(args.test_roots.as_deref()) {
            Ok(trust) => trust,
            Err(sentence) => return self.wrong(sentence),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let outcomes = match policy::trial(&policy, &args.folder, &trust, args.at.unwrap_or(now)) {
            Ok(outcomes) => outcomes,
            Err(error) => return self.refuse(&error),
        };
        let text = if args.json {
            // Strings and booleans are always JSON.
            serde_json::to_string_pretty(&outcomes).unwrap_or_default() + "\n"
        } else {
            let width = outcomes.iter().map(|outcome| outcome.name.chars().count()).max().unwrap_or(0);
            outcomes.iter().fold(String::new(), |mut text, outcome| {
                let codes: Vec<_> = outcome.reasons.iter().map(|reason| &*reason.code).collect();
                let verdict = if outcome.admitted { "admitted" } else { "refused " };
                text += format!("{:width$}  {verdict}  {}", outcome.name, codes.join(" ")).trim_end();
                text + "\n"
            })
        };
        match self.print(text.as_bytes()) {
            ExitStatus::Success if outcomes.iter().any(|outcome| !outcome.admitted) => ExitStatus::NotMet,
            printed => printed,
        }
    }
}

/// AMD's roots, and those in a folder.
pub(super) fn trust(test_roots: Option<&Path>) -> Result<Trust, String> {
    let mut trust = Trust::amd().map_err(|error| error.to_string())?;
    let Some(folder) = test_roots else { return Ok(trust) };
    tracing::warn!("reports of a test PKI are believed (--test-roots)");
    for line in ["milan", "genoa", "turin"] {
        let file = |name: &str| folder.join(format!("{line}_{name}.der"));
        let Ok(ark) = fs::read(file("ark")) else { continue };
        for path in ["ask", "asvk"].map(file) {
            if let Ok(der) = fs::read(&path) {
                trust.unsafe_add_test(&ark, &der).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
    }
    if !trust.has_test() {
        return Err(format!("there are no roots in {} (milan_ark.der, milan_ask.der ...)", folder.display()));
    }
    Ok(trust)
}

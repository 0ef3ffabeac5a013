// SPDX-License-Identifier: Apache-2.0
//! `cvmm policy`.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cvmm_appraise::{check_rego, read_text, trial};
use cvmm_attest::claims::Product;
use cvmm_attest::roots::Trust;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_output::Existing;
use cvmm_policy::authoring::{self, Changes, Platform, Update};
use cvmm_policy::{Policy, import, is_name};
use cvmm_sev_host::SevDevice;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;

use super::output::OutputArgs;
use super::policy_args::{ImportArgs, InitArgs, PolicyCommand, TestArgs};
use super::session::{Sentence, Session};
use crate::config::{Boot, Checks, Config};
use crate::exit_code::{ExitReport, ExitStatus};
use crate::inputs::Inputs;
use crate::policy::{self, PolicyFileError};

impl Session<'_> {
    pub(super) fn policy(&mut self, command: &PolicyCommand) -> ExitStatus {
        let done = match command {
            PolicyCommand::Init(args) => return self.policy_init(args),
            PolicyCommand::Check { file, json } => self.policy_check(file, *json),
            PolicyCommand::Explain { file, json } => self.policy_explain(file, *json),
            PolicyCommand::Resolve { file, output } => self.policy_resolve(file, output),
            PolicyCommand::Test(args) => return self.policy_test(args),
            PolicyCommand::Import(args) => return self.policy_import(args),
        };
        done.unwrap_or_else(|error| self.failed(&error))
    }

    /// Says what is unsafe about a policy, and what it does not prove.
    fn warn(policy: &Policy) {
        for warning in warnings(policy) {
            tracing::warn!(policy = policy.id, "{warning}");
        }
    }

    /// Reads a policy, and says what is unsafe about it.
    pub(super) fn policy_file(&mut self, file: &Path) -> Result<Policy, ExitStatus> {
        let policy = policy::load(file).map_err(|error| self.failed(&error))?;
        Self::warn(&policy);
        Ok(policy)
    }

    fn policy_check(&mut self, file: &Path, json: bool) -> Result<ExitStatus, PolicyFileError> {
        let checked = policy::load(file).and_then(|policy| {
            check_rego(file, &policy)?;
            Ok(policy)
        });
        if json {
            let (status, report) = match &checked {
                Ok(policy) => (ExitStatus::Success, described(policy, "ok", true)),
                Err(error) => {
                    (error.exit_status(), serde_json::json!({ "ok": false, "problem": error.to_string() }))
                }
            };
            if let Ok(policy) = &checked {
                Self::warn(policy);
            }
            let printed = self.print(format!("{report:#}\n").as_bytes());
            return Ok(if printed == ExitStatus::Success { status } else { printed });
        }
        let policy = checked?;
        Self::warn(&policy);
        let line = format!("{}: valid (policy {}, version {})\n", file.display(), policy.id, policy.version);
        Ok(self.print(line.as_bytes()))
    }

    fn policy_explain(&mut self, file: &Path, json: bool) -> Result<ExitStatus, PolicyFileError> {
        let policy = policy::load(file)?;
        Self::warn(&policy);
        if json {
            let report = described(&policy, "sentences", policy.explain());
            return Ok(self.print(format!("{report:#}\n").as_bytes()));
        }
        Ok(self.print(format!("{}\n", policy.explain().join("\n")).as_bytes()))
    }

    fn policy_resolve(&mut self, file: &Path, output: &OutputArgs) -> Result<ExitStatus, PolicyFileError> {
        let text = policy::load_text(file)?;
        Ok(self.write_output(output, &text, Existing::Refuse))
    }

    fn policy_import(&mut self, args: &ImportArgs) -> ExitStatus {
        let text = match read_text(&args.file) {
            Ok(text) => text,
            Err(error) => return self.failed(&error),
        };
        let stem =
            || args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let tcb =
            match args.tcb.as_ref().zip(args.product).map(|(tcb, product)| tcb.parts(product)).transpose() {
                Ok(tcb) => tcb,
                Err(sentence) => return self.wrong(sentence),
            };
        let options = import::Options {
            id: args.id.clone().unwrap_or_else(stem),
            product: args.product,
            tcb,
            equal_as_limit: args.equal_as_limit,
            any_measurement: args.unsafe_any_measurement,
            leave_out: args.leave_out.clone(),
        };
        let imported = import::import(args.from.into(), &text, &options);
        match imported.and_then(|imported| Ok((imported.to_toml()?, imported))) {
            Ok((text, imported)) => {
                Self::warn(&imported.policy);
                for note in &imported.notes {
                    tracing::warn!("{note}");
                }
                self.write_output(&args.output, &text, Existing::Refuse)
            }
            Err(error) => {
                let sentence = format!("{} is not imported: {error}", args.file.display());
                self.wrong(sentence)
            }
        }
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
            return self.wrong("--id must be 1 to 64 characters of A-Z a-z 0-9 . _ -");
        }
        let Some(signature) = args.vcpu_type.or(args.vcpu_sig) else {
            return self.wrong("--vcpu-type or --vcpu-sig is required");
        };
        let model = VcpuModel { signature, features: SevFeatures::SNP_ACTIVE };
        if matches!(config.boot, Boot::Igvm { .. }) {
            return self
                .wrong("a gate cannot measure the guest of an IGVM file yet, so there is no policy for it");
        }
        let subject = match Inputs::open(&config) {
            Ok(inputs) => inputs.into_subject(),
            Err(error) => return self.failed(&error),
        };
        let digest = match subject.digest(model) {
            Ok(digest) => digest,
            Err(error) => return self.failed(&error),
        };
        let guest = policy::describe(&config);
        if let Some(path) = &args.update {
            if let Err(error) = guest.check() {
                return self.wrong(error.to_string());
            }
            return self.policy_update(args, path, digest, guest.profile);
        }
        let platform = match platform(signature, args) {
            Ok(platform) => platform,
            Err(sentence) => return self.wrong(sentence),
        };
        match authoring::draft(&id, &guest, digest, &platform) {
            Ok(text) => {
                if let Ok(policy) = Policy::parse(&text) {
                    Self::warn(&policy);
                }
                self.write_output(&args.output, &text, Existing::Refuse)
            }
            Err(error) => self.wrong(error.to_string()),
        }
    }

    /// Changes the digests of an existing policy, and says what was changed.
    fn policy_update(
        &mut self,
        args: &InitArgs,
        path: &Path,
        digest: Digest,
        profile: &'static str,
    ) -> ExitStatus {
        let text = match read_text(path) {
            Ok(text) => text,
            Err(error) => return self.failed(&error),
        };
        let how = if args.replace { Update::Replace } else { Update::Add };
        let (new, changes) = match authoring::update(&text, digest, profile, how) {
            Ok(updated) => updated,
            Err(error) => return self.wrong(format!("{}: {error}", path.display())),
        };
        if changes.changed {
            // The user has named the file to be changed; what is written is a policy with the same name.
            let written = self.write(Some(path), &new, Existing::Replace);
            if written != ExitStatus::Success {
                return written;
            }
        }
        let report = if args.json {
            // Strings and numbers are always JSON.
            serde_json::to_string_pretty(&changes).unwrap_or_default() + "\n"
        } else {
            update_report(path, &changes)
        };
        self.print(report.as_bytes())
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
        let outcomes = match trial(&policy, &args.folder, &trust, args.at.unwrap_or(now)) {
            Ok(outcomes) => outcomes,
            Err(error) => return self.failed(&error),
        };
        let text = if args.json {
            // Strings and booleans are always JSON.
            serde_json::to_string_pretty(&outcomes).unwrap_or_default() + "\n"
        } else {
            let width = outcomes.iter().map(|outcome| outcome.name.chars().count()).max().unwrap_or(0);
            let admitted = outcomes.iter().filter(|outcome| outcome.admitted).count();
            let table = outcomes.iter().fold(String::new(), |mut text, outcome| {
                let codes: Vec<_> = outcome.reasons.iter().map(|reason| &*reason.code).collect();
                let verdict = if outcome.admitted { "admitted" } else { "refused " };
                text += format!("{:width$}  {verdict}  {}", outcome.name, codes.join(" ")).trim_end();
                text + "\n"
            });
            format!("{table}{admitted} admitted, {} refused\n", outcomes.len() - admitted)
        };
        match self.print(text.as_bytes()) {
            ExitStatus::Success if outcomes.iter().any(|outcome| !outcome.admitted) => ExitStatus::NotMet,
            printed => printed,
        }
    }
}

/// The product of a processor, with the minimum TCB from the command line or, by default, from what the
/// host's security processor reports.
fn platform(signature: CpuSignature, args: &InitArgs) -> Result<Platform, String> {
    let product = Product::from_signature(signature)
        .ok_or_else(|| format!("no certificates are known for processor {signature}"))?;
    if let Some(text) = &args.tcb {
        return Ok(Platform { product, tcb: text.parts(product)? });
    }
    let status = SevDevice::open()
        .and_then(|device| device.platform_status())
        .map_err(|error| format!("cannot read this host's TCB: {error}; pass the minimum TCB with --tcb"))?;
    let tcb = status
        .reported_tcb
        .parts(product.layout())
        .ok_or("the host's reported TCB is malformed; give one with --tcb")?;
    Ok(Platform { product, tcb })
}

/// What an update has changed, for people.
fn update_report(path: &Path, changes: &Changes) -> String {
    let Changes { policy, changed, old_version, version, added, removed, measurements } = changes;
    let file = path.display();
    if !changed {
        return format!("{file}: policy {policy} already admits this guest; nothing was changed\n");
    }
    let mut text = format!("{file}: policy {policy}, version {old_version} -> {version}\n");
    for digest in added {
        text += &format!("  + guest.measurements {digest}\n");
    }
    for digest in removed {
        text += &format!("  - guest.measurements {digest}\n");
    }
    text + &format!(
        "{} digest(s) are admitted; sign it again: cvmm-gate policy sign --key KEY.PEM {file}\n",
        measurements.len()
    )
}

/// What is unsafe about a policy, and what it does not prove about the code that runs.
fn warnings(policy: &Policy) -> Vec<&'static str> {
    [policy.warnings(), policy.unproven()].concat()
}

/// A policy for programs, with one thing more.
fn described(policy: &Policy, key: &str, value: impl serde::Serialize) -> serde_json::Value {
    // TOML's values are JSON's, but for times, which become strings.
    let whole = policy.to_toml().ok().and_then(|text| toml::from_str::<toml::Table>(&text).ok());
    serde_json::json!({
        key: value,
        "id": policy.id,
        "version": policy.version,
        "warnings": warnings(policy),
        "policy": whole.map(|table| plain(toml::Value::Table(table))),
    })
}

fn plain(value: toml::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        toml::Value::String(text) => Value::from(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::from(flag),
        toml::Value::Datetime(time) => Value::from(time.to_string()),
        toml::Value::Array(items) => items.into_iter().map(plain).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, plain(value))).collect(),
    }
}

/// AMD's roots, and those in a folder.
pub(super) fn trust(test_roots: Option<&Path>) -> Result<Trust, String> {
    let mut trust = Trust::amd().map_err(|error| error.to_string())?;
    let Some(folder) = test_roots else { return Ok(trust) };
    tracing::warn!("reports of a test PKI are accepted (--test-roots)");
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

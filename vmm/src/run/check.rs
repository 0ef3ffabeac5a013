// SPDX-License-Identifier: Apache-2.0
//! What `cvmm run` would refuse before it starts anything: the content of files, and the host.
//!
//! The same code checks as when a VM is run: [`Inputs`] for what is launched, the gate client for its keys,
//! [`mod@host`] and the doctor for the machine. Nothing is started, locked or asked over the network.

use std::fs::File;
use std::path::Path;

use cvmm_doctor::{Report, Status};
use cvmm_gate_client::tls::TlsSetupError;
use cvmm_guest_state::StateError;
use cvmm_guest_state::info::Info;
use cvmm_kvm::host;
use cvmm_kvm_snp::probe::SnpHost;
use cvmm_launch::plan::PlanError;

use super::RunError;
use crate::admission::{AdmissionClient, AdmissionError};
use crate::config::{Boot, Config, Gate, GateEndpoint, Isolation, Problem};
use crate::exit_code::ExitStatus;
use crate::inputs::{InputError, Inputs, SecureBootError};

/// Something that a run would end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The exit code of the run.
    pub status: ExitStatus,
    /// What and where.
    pub problem: Problem,
}

/// What the files of `config` would be refused for, in the order in which a run looks at them.
#[must_use]
pub fn files(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(gate) = &config.gate {
        findings.extend(AdmissionClient::open(gate).err().map(|error| of_gate(gate, error)));
    }
    let keyed = findings.iter().any(|finding| finding.problem.key == "gate.verdict_key");
    for error in Inputs::faults(config) {
        // The gate's key is measured into the first stage: that one has been reported.
        if !(keyed && matches!(error, InputError::VerdictKey(_))) {
            findings.push(finding(input_key(config, &error), "content", &error.into()));
        }
    }
    if let Some(path) = config.vtpm.as_ref().and_then(|vtpm| vtpm.state.as_deref()) {
        findings.extend(state(path));
    }
    findings
}

/// What this host lacks for `config`. `examine` is only called for a guest that needs SNP.
#[must_use]
pub fn host(config: &Config, examine: impl FnOnce() -> Report) -> Vec<Finding> {
    const KEY: &str = "isolation";
    if config.isolation == Isolation::Snp {
        let fatal = fatal_items(&examine());
        if !fatal.is_empty() {
            return fatal;
        }
    }
    let opened = host::open(config.vcpus).map_err(RunError::from).and_then(|kvm| match config.isolation {
        Isolation::Snp => Ok(SnpHost::open(&kvm).map(drop)?),
        Isolation::None => Ok(()),
    });
    match opened {
        Ok(()) => Vec::new(),
        Err(error) => vec![finding(KEY, "host", &error)],
    }
}

/// The fatal items of a doctor's report.
fn fatal_items(report: &Report) -> Vec<Finding> {
    let fatal = report.items.iter().filter(|item| item.status == Status::Fatal);
    fatal
        .map(|item| {
            let message = format!("this host cannot launch SNP guests: {}: {}", item.id, item.evidence);
            let problem = Problem::at("isolation", "host", message);
            let problem = match &item.fix {
                Some(fix) => problem.help(format!("{fix} (cvmm doctor)")),
                None => problem,
            };
            Finding { status: ExitStatus::Host, problem }
        })
        .collect()
}

fn finding(key: &str, reason: &str, error: &RunError) -> Finding {
    Finding { status: error.into(), problem: Problem::at(key, reason, error.to_string()) }
}

fn of_gate(gate: &Gate, error: AdmissionError) -> Finding {
    let key = match &error {
        AdmissionError::Tls(error) => tls_key(&gate.endpoint, error),
        _ => "gate.verdict_key",
    };
    finding(key, "content", &error.into())
}

/// The key of the file that an error is about.
fn tls_key(endpoint: &GateEndpoint, error: &TlsSetupError) -> &'static str {
    let path = match error {
        TlsSetupError::File(error) => error.path(),
        TlsSetupError::Name(_) => return "gate.url",
    };
    match endpoint {
        GateEndpoint::Tls { ca, .. } if ca == path => "gate.ca",
        GateEndpoint::Tls { client_key, .. } if client_key == path => "gate.client_key",
        GateEndpoint::Tls { .. } => "gate.client_certificate",
        GateEndpoint::Unix { .. } => "gate.socket",
    }
}

/// The key that an input comes from.
fn input_key(config: &Config, error: &InputError) -> &'static str {
    let boot = match config.boot {
        Boot::Uki { .. } => "boot.uki",
        Boot::Hashes { .. } => "boot.kernel",
        Boot::Disk { .. } => "boot.profile",
        Boot::Igvm { .. } => "boot.igvm",
    };
    match error {
        InputError::Open { what, .. } => what,
        InputError::Firmware(_) => "firmware",
        InputError::Kernel(_) | InputError::Read(_) => boot,
        InputError::Igvm(_) | InputError::StagedFile(_) => "boot.igvm",
        InputError::Identity(_) | InputError::TwoIdentities(_) => "snp.id_block",
        InputError::VerdictKey(_) => "gate.verdict_key",
        InputError::Builtin(error) if error.code().starts_with("secure-boot") => "secure_boot",
        InputError::Builtin(_) => "firmware",
        InputError::SecureBoot(error) => match error {
            SecureBootError::File { key: "pk", .. } => "secure_boot.pk",
            SecureBootError::File { key: "kek", .. } => "secure_boot.kek",
            SecureBootError::File { key: "db", .. } => "secure_boot.db",
            SecureBootError::File { .. } => "secure_boot.dbx",
            SecureBootError::Keys(_) => "secure_boot",
        },
        // Firmware, profile and memory do not fit together: the profile is what was chosen.
        InputError::Plan(PlanError::Snp(_) | PlanError::FirmwareData { .. }) => "firmware",
        InputError::Plan(_) => "boot.profile",
    }
}

/// Checks a state file as far as that needs no key. One that does not exist is created at the first start.
fn state(path: &Path) -> Option<Finding> {
    const KEY: &str = "vtpm.state";
    let folder = path.parent().is_none_or(Path::is_dir);
    let read = File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound if folder => StateError::Missing,
        _ => StateError::Io { what: "open", source },
    });
    match read.and_then(|file| Info::read(&file)) {
        Ok(_) | Err(StateError::Missing) => None,
        Err(error) => {
            let status = match error {
                StateError::Io { .. } => ExitStatus::File,
                _ => ExitStatus::State,
            };
            let message = format!("{}: {}: {error}", path.display(), error.code());
            Some(Finding { status, problem: Problem::at(KEY, "content", message) })
        }
    }
}

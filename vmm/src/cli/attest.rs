// SPDX-License-Identifier: Apache-2.0
//! `cvmm attest`.

use std::time::{SystemTime, UNIX_EPOCH};

use cvmm_appraise::{
    BundleRequirements, Files, LaunchParts, Parts, Requirements, TpmParts, Verdict, appraise,
    appraise_bundle, bundle, certificate, revocation_list, vek_chain,
};
use cvmm_attest::roots::Trust;
use cvmm_gate_protocol::bundle::is_bundle;
use cvmm_output::Existing;
use cvmm_policy::Policy;
use cvmm_reason::printable;
use serde::Serialize;

use super::attest_args::{AppraisalArgs, AttestCommand, BundleArgs, ReportArgs, VerifyArgs};
use super::policy::trust;
use super::session::Session;
use crate::exit_code::ExitStatus;

impl Session<'_> {
    pub(super) fn attest(&mut self, command: &AttestCommand) -> ExitStatus {
        match command {
            AttestCommand::Report(args) => self.attest_report(args).unwrap_or_else(|status| status),
            AttestCommand::Bundle(args) => self.attest_bundle(args),
            AttestCommand::Verify(args) => self.attest_verify(args).unwrap_or_else(|status| status),
        }
    }

    fn attest_report(&mut self, args: &ReportArgs) -> Result<ExitStatus, ExitStatus> {
        let appraisal = self.appraisal(&args.appraisal)?;
        let files = Files {
            report: args.report.clone(),
            vek: args.vek.clone(),
            table: args.certs.clone(),
            crl: args.appraisal.crl.clone(),
        };
        let requirements = appraisal.requirements(&args.appraisal, args.report_data);
        let verdict = appraise(&files, &requirements).map_err(|error| self.failed(&error))?;
        Ok(self.verdict(args.json, &verdict, || verdict.lines(), status_of(&verdict)))
    }

    fn attest_bundle(&mut self, args: &BundleArgs) -> ExitStatus {
        // clap guarantees that they are given together.
        let tpm = args.ak.clone().map(|ak| TpmParts {
            ak,
            quote: args.quote.clone().unwrap_or_default(),
            signature: args.signature.clone().unwrap_or_default(),
            pcrs: args.pcrs.clone().unwrap_or_default(),
            event_log: args.event_log.clone(),
            ak_certificate: args.ak_cert.clone(),
            ek_rsa_certificate: args.ek_rsa_cert.clone(),
            ek_ecc_certificate: args.ek_ecc_cert.clone(),
        });
        let launch = args.manifest.clone().map(|manifest| LaunchParts {
            manifest,
            nonce: args.launch_nonce.unwrap_or_default(),
            policy: args.launch_policy.clone().unwrap_or_default(),
        });
        let parts = Parts {
            from: args.from.clone(),
            vm_id: args.vm_id.clone(),
            report: args.report.clone(),
            vek: args.vek.clone(),
            table: args.certs.clone(),
            key: args.key.clone(),
            tpm,
            launch,
        };
        match bundle(&parts) {
            // Strings are always JSON.
            Ok(bundle) => {
                let text = serde_json::to_string_pretty(&bundle).unwrap_or_default();
                self.write_output(&args.output, &format!("{text}\n"), Existing::ReplaceOwn(&is_bundle))
            }
            Err(error) => self.failed(&error),
        }
    }

    fn attest_verify(&mut self, args: &VerifyArgs) -> Result<ExitStatus, ExitStatus> {
        let appraisal = self.appraisal(&args.appraisal)?;
        let vek = args.vek.as_deref().map(vek_chain).transpose();
        let crl = args.appraisal.crl.as_deref().map(revocation_list).transpose();
        let tpm_ca = args.tpm_ca.as_deref().map(certificate).transpose();
        let requirements = BundleRequirements {
            nonce: args.nonce,
            vek: vek.map_err(|error| self.failed(&error))?,
            crl: crl.map_err(|error| self.failed(&error))?,
            tpm_ca: tpm_ca.map_err(|error| self.failed(&error))?,
            ak_name: args.ak_name.clone(),
            report: appraisal.requirements(&args.appraisal, None),
        };
        let verdict = appraise_bundle(&args.bundle, &requirements).map_err(|error| self.failed(&error))?;
        let lines = || verdict.lines(appraisal.policy.as_ref(), args.events);
        Ok(self.verdict(args.json, &verdict, lines, status_of(&verdict.verdict)))
    }

    fn appraisal(&mut self, args: &AppraisalArgs) -> Result<Appraisal, ExitStatus> {
        let policy = args.policy.as_deref().map(|file| self.policy_file(file)).transpose()?;
        let trust = trust(args.test_roots.as_deref()).map_err(|sentence| self.wrong(sentence))?;
        Ok(Appraisal { policy, trust })
    }

    /// Prints a verdict as JSON or text.
    fn verdict(
        &mut self,
        json: bool,
        verdict: &impl Serialize,
        lines: impl FnOnce() -> Vec<String>,
        status: ExitStatus,
    ) -> ExitStatus {
        let text = if json {
            // Strings, numbers and booleans are always JSON.
            serde_json::to_string_pretty(verdict).unwrap_or_default()
        } else {
            // One line each, whatever the strings of a report contain.
            lines().iter().map(|line| printable::line(line)).collect::<Vec<_>>().join("\n")
        };
        match self.print(format!("{text}\n").as_bytes()) {
            ExitStatus::Success => status,
            printed => printed,
        }
    }
}

/// How a command ends with a verdict.
fn status_of(verdict: &Verdict) -> ExitStatus {
    match verdict {
        Verdict { unverified: Some(_), .. } => ExitStatus::Unverified,
        Verdict { accepted: true, .. } => ExitStatus::Success,
        _ => ExitStatus::NotMet,
    }
}

/// The inputs of an appraisal, read from their files.
struct Appraisal {
    policy: Option<Policy>,
    trust: Trust,
}

impl Appraisal {
    fn requirements(&self, args: &AppraisalArgs, report_data: Option<[u8; 64]>) -> Requirements<'_> {
        Requirements {
            trust: &self.trust,
            now: args.at.unwrap_or_else(now),
            require_crl: args.require_crl,
            masked_chip: args.allow_masked_chip_id,
            policy: self.policy.as_ref(),
            report_data,
        }
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

// SPDX-License-Identifier: Apache-2.0
//! `cvmm attest`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Session;
use super::attest_args::{AttestCommand, BundleArgs, ReportArgs, VerifyArgs};
use super::policy::trust;
use crate::attest::{self, BundleDemands, Demands, Files, LaunchParts, Parts, TpmParts};
use crate::exit_code::ExitStatus;

impl Session<'_> {
    pub(super) fn attest(&mut self, command: &AttestCommand) -> ExitStatus {
        match command {
            AttestCommand::Report(args) => self.attest_report(args),
            AttestCommand::Bundle(args) => self.attest_bundle(args),
            AttestCommand::Verify(args) => self.attest_verify(args).unwrap_or_else(|status| status),
        }
    }

    fn attest_report(&mut self, args: &ReportArgs) -> ExitStatus {
        let policy = match args.policy.as_deref().map(|file| self.policy_file(file)).transpose() {
            Ok(policy) => policy,
            Err(status) => return status,
        };
        let trust = match trust(args.test_roots.as_deref()) {
            Ok(trust) => trust,
            Err(sentence) => return self.wrong(sentence),
        };
        let files = Files {
            report: args.report.clone(),
            vek: args.vek.clone(),
            table: args.certs.clone(),
            crl: args.crl.clone(),
        };
        let demands = Demands {
            trust: &trust,
            now: args.at.unwrap_or_else(now),
            require_crl: args.require_crl,
            masked_chip: args.allow_masked_chip_id,
            policy: policy.as_ref(),
            report_data: args.report_data,
        };
        let verdict = match attest::judge(&files, &demands) {
            Ok(verdict) => verdict,
            Err(error) => return self.refuse(&error),
        };
        let text = if args.json {
            // Strings, numbers and booleans are always JSON.
            serde_json::to_string_pretty(&verdict).unwrap_or_default()
        } else {
            verdict.lines().join("\n")
        };
        match self.print(format!("{text}\n").as_bytes()) {
            ExitStatus::Success if !verdict.accepted => ExitStatus::NotMet,
            printed => printed,
        }
    }

    fn attest_bundle(&mut self, args: &BundleArgs) -> ExitStatus {
        // The command line has them together or not at all.
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
        match attest::bundle(&parts) {
            // Strings are always JSON.
            Ok(bundle) => {
                let text = serde_json::to_string_pretty(&bundle).unwrap_or_default();
                self.write(args.output.as_deref(), &format!("{text}\n"))
            }
            Err(error) => self.refuse(&error),
        }
    }

    fn attest_verify(&mut self, args: &VerifyArgs) -> Result<ExitStatus, ExitStatus> {
        let policy = args.policy.as_deref().map(|file| self.policy_file(file)).transpose()?;
        let trust = trust(args.test_roots.as_deref()).map_err(|sentence| self.wrong(sentence))?;
        let mut file = |path: &Option<PathBuf>, label, most| {
            let der = path.as_deref().map(|path| attest::der(path, label, most)).transpose();
            der.map_err(|error| self.refuse(&error))
        };
        let demands = BundleDemands {
            nonce: args.nonce,
            vek: file(&args.vek, "CERTIFICATE", attest::MAX_CERTIFICATE)?,
            crl: file(&args.crl, "X509 CRL", attest::MAX_CRL)?,
            tpm_ca: file(&args.tpm_ca, "CERTIFICATE", attest::MAX_CERTIFICATE)?,
            ak_name: args.ak_name.clone(),
            report: Demands {
                trust: &trust,
                now: args.at.unwrap_or_else(now),
                require_crl: args.require_crl,
                masked_chip: args.allow_masked_chip_id,
                policy: policy.as_ref(),
                report_data: None,
            },
        };
        let verdict = attest::judge_bundle(&args.bundle, &demands).map_err(|error| self.refuse(&error))?;
        let text = if args.json {
            serde_json::to_string_pretty(&verdict).unwrap_or_default()
        } else {
            verdict.lines(policy.as_ref(), args.events).join("\n")
        };
        Ok(match self.print(format!("{text}\n").as_bytes()) {
            ExitStatus::Success if !verdict.verdict.accepted => ExitStatus::NotMet,
            printed => printed,
        })
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

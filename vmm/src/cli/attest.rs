// SPDX-License-Identifier: Apache-2.0
//! `cvmm attest`.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Session;
use super::attest_args::{AttestCommand, ReportArgs};
use super::policy::trust;
use crate::attest::{self, Demands, Files};
use crate::exit_code::ExitStatus;

impl Session<'_> {
    pub(super) fn attest(&mut self, command: &AttestCommand) -> ExitStatus {
        match command {
            AttestCommand::Report(args) => self.attest_report(args),
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
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let files = Files {
            report: args.report.clone(),
            vek: args.vek.clone(),
            table: args.certs.clone(),
            crl: args.crl.clone(),
        };
        let demands = Demands {
            trust: &trust,
            now: args.at.unwrap_or(now),
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
}

// SPDX-License-Identifier: Apache-2.0
//! `cvmm doctor`.

use std::path::Path;

use super::session::Session;
use crate::exit_code::ExitStatus;

impl Session<'_> {
    /// Prints the checklist. That it could be printed does not make the host a good one: a fatal item decides
    /// the code.
    pub(super) fn doctor(&mut self, json: bool) -> ExitStatus {
        let report = cvmm_doctor::examine(Path::new("/"));
        let text = if json {
            match serde_json::to_string_pretty(&report) {
                Ok(text) => text + "\n",
                Err(error) => {
                    self.error(ExitStatus::Internal, &error);
                    return ExitStatus::Internal;
                }
            }
        } else {
            report.table()
        };
        match self.print(text.as_bytes()) {
            ExitStatus::Success if report.fatal > 0 => ExitStatus::Host,
            printed => printed,
        }
    }
}

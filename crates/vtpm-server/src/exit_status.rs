// SPDX-License-Identifier: Apache-2.0
//! The exit codes of `cvmm-vtpm`.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// Success.
    Done = 0,
    /// Failure.
    Failed = 1,
    /// The command line is wrong: the command line parser exits with it.
    Usage = 2,
}

impl ExitStatus {
    const ALL: [(Self, &str); 3] = [
        (Self::Done, "stopped by its client or by a signal (SIGTERM, SIGINT, SIGHUP)"),
        (Self::Failed, "error: a socket, a file, the state or the TPM's process; standard error says what"),
        (Self::Usage, "wrong command line"),
    ];

    /// The table for help texts.
    pub(crate) fn table() -> String {
        cvmm_manual::exit_codes(1, Self::ALL.map(|(code, meaning)| (code as u8, meaning)))
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_documented() {
        let codes = ExitStatus::ALL.map(|(code, meaning)| (code as u8, meaning));
        cvmm_test_support::manual::documents_exit_codes("cvmm-vtpm", &codes);
    }
}

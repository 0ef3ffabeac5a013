// SPDX-License-Identifier: Apache-2.0
//! The exit codes of `cvmm-guest`.

use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitStatus {
    /// Success.
    Done = 0,
    /// Any failure but a refusal.
    Failed = 1,
    /// The gate refused. The command line parser exits with it too.
    Refused = 2,
}

impl ExitStatus {
    const ALL: [(Self, &str); 3] = [
        (Self::Done, "the gate admitted the guest, or the evidence was written"),
        (
            Self::Failed,
            "error: the gate, the TPM, the security processor's interface or a file; standard error says what",
        ),
        (Self::Refused, "the gate refused the guest, or the command line is wrong"),
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
        cvmm_test_support::manual::documents_exit_codes("cvmm-guest", &codes);
    }
}

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
        Self::ALL.iter().fold("Exit codes:\n".to_owned(), |table, (code, meaning)| {
            format!("{table}  {}  {meaning}\n", *code as u8)
        })
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
        // The table of the page, no row more and none less.
        let page = include_str!("../../../docs/reference/exit-codes.md");
        let (_, section) = page.split_once("\n## cvmm-guest\n").unwrap();
        let (_, section) = section.split_once("| code | meaning |\n|---|---|\n").unwrap();
        let rows: Vec<_> = section.lines().take_while(|line| !line.is_empty()).collect();
        let expected = ExitStatus::ALL.map(|(code, meaning)| format!("| {} | {meaning} |", code as u8));
        assert_eq!(rows, expected, "docs/reference/exit-codes.md");
    }
}

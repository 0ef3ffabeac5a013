// SPDX-License-Identifier: Apache-2.0
//! Commands that only read or fill folders; serving is in `main`.

pub mod audit;
pub mod certs;
pub mod keys;
pub mod manual;
pub mod owner;
pub mod state_keys;

use std::io::{self, Write};

use anyhow::{Context, Result};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// It did what was asked.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line or gate.toml is wrong. The command line's parser gives it too.
    Usage = 2,
    /// `certs`, `artifact`: a file is refused, or not good.
    NotGood = 3,
}

impl Ended {
    const ALL: [(Self, &str); 4] = [
        (Self::Done, "done; a gate that served was told to stop"),
        (
            Self::Failed,
            "failed: a file, a key, a policy, the socket, the sandbox, the audit log, or another gate that is running; standard error says what",
        ),
        (Self::Usage, "wrong command line or gate.toml"),
        (
            Self::NotGood,
            "`certs import`, `artifact import`: a file was refused; `certs list`: a file is not good",
        ),
    ];

    /// The table for help texts.
    pub fn table() -> String {
        Self::ALL.iter().fold("Exit codes:\n".to_owned(), |table, (code, meaning)| {
            format!("{table}  {}  {meaning}\n", *code as u8)
        })
    }
}

/// Writes a result. A reader that went away has what it wanted.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Reports an error on standard error, as cvmm does. What does not reach it is lost.
pub fn complain(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "error: {}", sentence(error));
}

/// An error and its causes, each of them once: many errors name their cause themselves.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

/// The same as JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_named_once() {
        let source = io::Error::from_raw_os_error(2);
        let file = cvmm_gate::files::FileError { what: "read", path: "/x".into(), source };
        let error = anyhow::Error::new(file);
        assert_eq!(sentence(&error), "cannot read /x: No such file or directory (os error 2)");
        let error = anyhow::Error::new(io::Error::from_raw_os_error(2)).context("cannot do it");
        assert_eq!(sentence(&error), "cannot do it: No such file or directory (os error 2)");
    }

    #[test]
    fn exit_codes_are_documented() {
        let manual = include_str!("../../../../docs/guide/gate.md");
        for (code, meaning) in Ended::ALL {
            let row = format!("| {} | {meaning} |", code as u8);
            assert!(manual.contains(&row), "docs/guide/gate.md lacks: {row}");
        }
    }
}

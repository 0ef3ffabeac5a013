// SPDX-License-Identifier: Apache-2.0
//! Errors of state files.

use std::io;

use thiserror::Error;

use crate::format::{BadHeader, MAX_CAPACITY, MAX_CONTENT, MIN_CAPACITY};
use crate::kind::{Kind, VmId};

/// A state file that is refused, or a change that failed. [`code`](Self::code) is stable, for programs.
#[derive(Debug, Error)]
pub enum StateError {
    /// A system call failed.
    #[error("cannot {what} the state file: {source}")]
    Io {
        /// Open, read, write, sync ...
        what: &'static str,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The file exists.
    #[error("the state file exists and is not overwritten")]
    Exists,
    /// The file does not exist.
    #[error("the state file does not exist; a TPM that has run before does not start without its state")]
    Missing,
    /// Another process has locked the file.
    #[error("another process uses the state file: a VM's state is for one VM at a time")]
    Locked,
    /// The length is invalid.
    #[error(
        "the file has {0} bytes: a state file has {MIN_CAPACITY} to {MAX_CAPACITY} in blocks of 4096, plus 512"
    )]
    Size(u64),
    /// The VHD footer is invalid.
    #[error("the last 512 bytes are not a VHD footer of this file: wrong {0}")]
    Footer(&'static str),
    /// No header is valid: the file is damaged, or not a state file.
    #[error("no header is valid; the one at byte 0 {0}")]
    Header(BadHeader),
    /// Neither header follows the other.
    #[error("the headers have sequence numbers {0} and {1}: neither follows the other")]
    Sequence(u32, u32),
    /// The version is not supported.
    #[error("the file has VMGS version {}.{}; only 3.0 is supported", .0 >> 16, .0 & 0xffff)]
    Version(u32),
    /// Unused bytes are not zero.
    #[error("byte {0} is unused but not zero")]
    Slack(u64),
    /// The file is not encrypted.
    #[error("{0} is not encrypted, but state files must be")]
    Plain(&'static str),
    /// The key does not open the file.
    #[error("the key does not open this file: it belongs to a different file, or the header was changed")]
    Key,
    /// The file table contradicts itself.
    #[error("entry {entry} of the file table (byte {offset}) has an invalid {problem}")]
    Table {
        /// Index of the entry.
        entry: usize,
        /// Its byte offset in the file.
        offset: u64,
        /// The invalid field.
        problem: &'static str,
    },
    /// Content is not authentic.
    #[error("{what} in block {block} (byte {}) is not what was written", u64::from(*block) * 4096)]
    Damaged {
        /// The damaged part.
        what: &'static str,
        /// Its first block.
        block: u32,
    },
    /// Content is authentic but not understood.
    #[error("{kind} has an invalid {problem}: a different version of cvmm wrote it")]
    Body {
        /// The file.
        kind: Kind,
        /// The invalid field.
        problem: &'static str,
    },
    /// The state belongs to a different VM.
    #[error("VM mismatch: the state belongs to {found}, expected {expected}")]
    Vm {
        /// The VM in the file.
        found: VmId,
        /// The expected VM.
        expected: VmId,
    },
    /// The state is older than the gate expects.
    #[error(
        "the state is older than what this VM had ({what} {found}, at least {min} is expected): a copy or a backup was put in its place"
    )]
    Rollback {
        /// Epoch or counter.
        what: &'static str,
        /// The value in the file.
        found: u64,
        /// The minimum.
        min: u64,
    },
    /// The state is newer than the gate expects.
    #[error(
        "the state has epoch {found}, but the gate has issued none after {max}: the gate's own records are older than the file"
    )]
    Ahead {
        /// The value in the file.
        found: u64,
        /// The latest issued epoch.
        max: u64,
    },
    /// The content is too long.
    #[error("{len} bytes of content: a file may have at most {MAX_CONTENT}")]
    Large {
        /// Length in bytes.
        len: usize,
    },
    /// There are not enough free blocks.
    #[error("the state file has no {0} free blocks in a row")]
    Full(u32),
    /// The file was opened read-only.
    #[error("the state file is open for reading only")]
    ReadOnly,
    /// The cryptographic library failed.
    #[error("the cryptographic library or the random number generator failed")]
    Crypto,
}

/// All codes. A code is never reused for another reason.
pub const CODES: &[&str] = &[
    "state.io",
    "state.exists",
    "state.missing",
    "state.locked",
    "state.size",
    "state.footer",
    "state.header",
    "state.version",
    "state.slack",
    "state.plain",
    "state.key",
    "state.table",
    "state.damaged",
    "state.body",
    "state.vm",
    "state.rollback",
    "state.ahead",
    "state.large",
    "state.full",
    "state.read-only",
    "state.crypto",
];

impl StateError {
    /// The reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "state.io",
            Self::Exists => "state.exists",
            Self::Missing => "state.missing",
            Self::Locked => "state.locked",
            Self::Size(_) => "state.size",
            Self::Footer(_) => "state.footer",
            Self::Header(_) | Self::Sequence(..) => "state.header",
            Self::Version(_) => "state.version",
            Self::Slack(_) => "state.slack",
            Self::Plain(_) => "state.plain",
            Self::Key => "state.key",
            Self::Table { .. } => "state.table",
            Self::Damaged { .. } => "state.damaged",
            Self::Body { .. } => "state.body",
            Self::Vm { .. } => "state.vm",
            Self::Rollback { .. } => "state.rollback",
            Self::Ahead { .. } => "state.ahead",
            Self::Large { .. } => "state.large",
            Self::Full(_) => "state.full",
            Self::ReadOnly => "state.read-only",
            Self::Crypto => "state.crypto",
        }
    }

    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_listed_once_and_explained() {
        let text = include_str!("error.rs");
        let (_, arms) = text.split_once("fn code(").unwrap();
        let (arms, _) = arms.split_once("pub(crate) fn io").unwrap();
        let used: BTreeSet<_> = arms.split('"').filter(|part| part.starts_with("state.")).collect();
        assert_eq!(used, CODES.iter().copied().collect());
        assert_eq!(used.len(), CODES.len());
        let manual = include_str!("../../../docs/reference/state.md");
        for code in CODES {
            assert!(manual.contains(&format!("| `{code}` |")), "docs/reference/state.md lacks {code}");
        }
    }
}

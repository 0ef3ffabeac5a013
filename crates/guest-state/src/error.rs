// SPDX-License-Identifier: Apache-2.0
//! Why a state file is not used, or a change is not made.

use std::io;

use thiserror::Error;

use crate::format::{BadHeader, MAX_CAPACITY, MAX_CONTENT, MIN_CAPACITY};
use crate::kind::{Kind, VmId};

/// A refusal. What it says is for people; [`code`](Self::code) is for programs.
#[derive(Debug, Error)]
pub enum StateError {
    /// The host could not.
    #[error("cannot {what} the state file: {source}")]
    Io {
        /// Open, read, write, sync ...
        what: &'static str,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// It is there already.
    #[error("the state file is there already, and is not overwritten")]
    Exists,
    /// It is not there.
    #[error("there is no state file; a TPM that has run before does not start without its state")]
    Missing,
    /// Another process has it.
    #[error("another process uses the state file: a VM's state is for one VM at a time")]
    Locked,
    /// The length cannot be.
    #[error(
        "the file has {0} bytes: a state file has {MIN_CAPACITY} to {MAX_CAPACITY} in blocks of 4096, and 512 more"
    )]
    Size(u64),
    /// No VHD footer.
    #[error("the last 512 bytes are no VHD footer of this file: wrong {0}")]
    Footer(&'static str),
    /// Not cvmm's or damaged.
    #[error("no header is good; the one at byte 0 {0}")]
    Header(BadHeader),
    /// Neither header follows the other.
    #[error("the headers have sequence numbers {0} and {1}: neither follows the other")]
    Sequence(u32, u32),
    /// Another version.
    #[error("the file has VMGS version {}.{}, this program knows 3.0", .0 >> 16, .0 & 0xffff)]
    Version(u32),
    /// Bytes that belong to nothing.
    #[error("byte {0} belongs to nothing and is not zero")]
    Slack(u64),
    /// Not encrypted.
    #[error("{0} is not encrypted, and a state file has to be")]
    Plain(&'static str),
    /// No key fits.
    #[error("the key does not open this file: it is another file's key, or the header was changed")]
    Key,
    /// The file table contradicts itself.
    #[error("entry {entry} of the file table (byte {offset}) has an impossible {problem}")]
    Table {
        /// Which entry.
        entry: usize,
        /// Where it is in the file.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// Not what was written.
    #[error("{what} in block {block} (byte {}) is not what was written", u64::from(*block) * 4096)]
    Damaged {
        /// What.
        what: &'static str,
        /// Its first block.
        block: u32,
    },
    /// Authentic, and still nothing this program understands.
    #[error("{kind} has an impossible {problem}: another version of cvmm wrote it")]
    Body {
        /// Which file.
        kind: Kind,
        /// What is wrong.
        problem: &'static str,
    },
    /// Another VM's.
    #[error("this is the state of VM {found}, not of {expected}")]
    Vm {
        /// Whose it is.
        found: VmId,
        /// Whose it should be.
        expected: VmId,
    },
    /// Older than what the gate knows of.
    #[error(
        "the state is older than what this VM had ({what} {found}, at least {least} is expected): a copy or a backup was put in its place"
    )]
    Rollback {
        /// Epoch or counter.
        what: &'static str,
        /// The file's.
        found: u64,
        /// The least.
        least: u64,
    },
    /// Later than what the gate knows of.
    #[error(
        "the state has epoch {found}, and the gate has given out none after {most}: the gate's own records are older than the file"
    )]
    Ahead {
        /// The file's.
        found: u64,
        /// The latest.
        most: u64,
    },
    /// More than fits.
    #[error("{len} bytes are more than a file may have ({MAX_CONTENT})")]
    Large {
        /// How many.
        len: usize,
    },
    /// No free blocks.
    #[error("the state file has no {0} free blocks in a row")]
    Full(u32),
    /// Not for writing.
    #[error("the state file is open for reading only")]
    ReadOnly,
    /// The cryptographic library.
    #[error("the cryptographic library failed, or there are no random numbers")]
    Crypto,
}

/// Every code. Never reused for something else.
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
    /// The reason's code.
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

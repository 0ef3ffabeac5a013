// SPDX-License-Identifier: Apache-2.0
//! Reading the log: one file, or several that follow each other, of version 2 and of version 1.
//!
//! Version 1 has no member `v`; its signatures are over the hash of the previous line only. Version 2 signs
//! the line itself: the signature is the last member, over the text without that member. A log may change
//! from version 1 to 2, never back.
//!
//! Both versions sign the first line after each opening and every [`SIGN_EVERY`]th after it. A log with
//! longer runs of unsigned lines was not written by a gate: without this rule, a log could be rewritten
//! without the key, leaving out all signatures.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate_protocol::ticket::VerdictKey;
use serde_json::Value;

use super::{AuditError, SIGN_EVERY, hash};
use crate::files::FileError;

/// Longest line in bytes, with its line feed.
pub const MAX_LINE: u64 = 64 << 10;
/// Longest line of version 1 that is read; its writer had no limit.
pub(super) const MAX_LINE_V1: u64 = 2 << 20;
/// The version that is written.
pub(super) const VERSION: u64 = 2;
/// Prefix of what version 2 signs.
const LABEL: &[u8] = b"cvmm-gate audit log v2\n";
/// The text around a signature at the end of a line.
const SIGNATURE: [&str; 2] = [",\"signature\":\"", "\"}"];
/// Base64 of 96 bytes.
const SIGNATURE_LEN: usize = 128;
/// The event that begins a file which continues another.
pub(super) const CONTINUED: &str = "continued";

/// The `prev` of the first line of all.
pub(super) fn start() -> String {
    "0".repeat(96)
}

/// The bytes to sign for the line `body`.
pub(super) fn signed_bytes(body: &str) -> Vec<u8> {
    [LABEL, body.as_bytes()].concat()
}

/// The line `body` with its signature as the last member.
pub(super) fn with_signature(body: &str, signature: &[u8; 96]) -> String {
    let open = body.strip_suffix('}').unwrap_or(body);
    format!("{open}{}{}{}", SIGNATURE[0], STANDARD.encode(signature), SIGNATURE[1])
}

/// Splits a line of version 2 into the line before it was signed and the signature.
fn without_signature(line: &str) -> Option<(String, Vec<u8>)> {
    let rest = line.strip_suffix(SIGNATURE[1])?;
    let (rest, signature) = rest.split_at_checked(rest.len().checked_sub(SIGNATURE_LEN)?)?;
    let open = rest.strip_suffix(SIGNATURE[0])?;
    Some((format!("{open}}}"), STANDARD.decode(signature).ok()?))
}

/// A place between two lines of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Lines before it, in this file and in earlier ones.
    pub seq: u64,
    /// SHA-384 of the last of these, hexadecimal; zeros at the start.
    pub hash: String,
}

impl Place {
    /// Before the first line.
    #[must_use]
    pub fn start() -> Self {
        Self { seq: 0, hash: start() }
    }
}

/// The result of reading a log.
#[derive(Debug)]
pub struct Verification {
    /// Where the first file begins: not at 0 if earlier files were not given.
    pub first: Place,
    /// Where the last file ends.
    pub end: Place,
    /// Lines up to the last signed one, counted as [`Place::seq`]. Later lines could have been removed or
    /// rewritten unnoticed.
    pub signed: u64,
    /// Lines since the last one with a signature.
    unsigned: u64,
    /// Whether a line of version 2 was read.
    pub(super) new_format: bool,
    /// Lines that say that lines before them were lost, by number.
    pub lost: Vec<u64>,
    /// Unsigned lines after a signed `close` line, by number: another program wrote them while the gate was
    /// stopped.
    pub appended: Vec<u64>,
    /// Whether the previous line was a `close`, or one of [`Self::appended`].
    closed: bool,
    /// Bytes of the last file that are complete lines.
    pub(super) len: u64,
    /// The hash at the marked place.
    pub(super) marked: Option<String>,
    /// Lines after that place and before the next one that the gate's key has signed.
    pub(super) unsigned_after_mark: u64,
    signed_after_mark: bool,
}

impl Verification {
    pub(super) fn nothing() -> Self {
        Self {
            first: Place::start(),
            end: Place::start(),
            signed: 0,
            // The first line has to be signed.
            unsigned: SIGN_EVERY,
            new_format: false,
            lost: Vec::new(),
            appended: Vec::new(),
            closed: false,
            len: 0,
            marked: None,
            unsigned_after_mark: 0,
            signed_after_mark: false,
        }
    }
}

/// Verifies the files at `paths`, which follow each other; each signature has to be made by one of `keys`.
pub fn verify(paths: &[PathBuf], keys: &[VerdictKey]) -> Result<Verification, AuditError> {
    let mut read = Verification::nothing();
    for (index, path) in paths.iter().enumerate() {
        let failed = |source| FileError { what: "open", path: path.clone(), source };
        let file = File::open(path).map_err(failed)?;
        scan(
            path,
            &file,
            &mut Reading { read: &mut read, keys: Some(keys), first: index == 0, mark: None, own: None },
        )?;
        if read.len != file.metadata().map_err(failed)?.len() {
            return Err(AuditError::Chain {
                path: path.clone(),
                line: read.end.seq + 1,
                problem: "it is incomplete",
            });
        }
    }
    Ok(read)
}

/// How to read a file, and the result so far.
pub(super) struct Reading<'a> {
    pub read: &'a mut Verification,
    /// Keys to verify signatures with, if they are to be verified.
    pub keys: Option<&'a [VerdictKey]>,
    /// Whether this is the first file: it may begin in the middle of the chain.
    pub first: bool,
    /// Place whose hash is recorded.
    pub mark: Option<u64>,
    /// The gate's key, to find lines that were added after the mark.
    pub own: Option<&'a VerdictKey>,
}

/// Reads complete lines. If a crash has left an incomplete one, it begins at [`Verification::len`].
pub(super) fn scan(path: &Path, file: &File, reading: &mut Reading<'_>) -> Result<(), AuditError> {
    let Reading { read, keys, first, mark, own } = reading;
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    let mut begins = true;
    read.len = 0;
    if *mark == Some(read.end.seq) {
        read.marked = Some(read.end.hash.clone());
    }
    loop {
        line.clear();
        let count = (&mut reader)
            .take(MAX_LINE_V1)
            .read_until(b'\n', &mut line)
            .map_err(|source| FileError { what: "read", path: path.to_owned(), source })?;
        let wrong = |problem| AuditError::Chain { path: path.to_owned(), line: read.end.seq + 1, problem };
        let Some(text) = line.strip_suffix(b"\n") else {
            if count as u64 == MAX_LINE_V1 {
                return Err(wrong("it is too long"));
            }
            return Ok(());
        };
        let value: Value = serde_json::from_slice(text).map_err(|_| wrong("it is not JSON"))?;
        let (Some(seq), Some(prev)) = (value["seq"].as_u64(), value["prev"].as_str()) else {
            return Err(wrong("it has no seq or prev"));
        };
        let new_format = match &value["v"] {
            Value::Null if read.new_format => {
                return Err(wrong("it has an older format than the previous line"));
            }
            Value::Null => false,
            version if version.as_u64() == Some(VERSION) => true,
            _ => return Err(wrong("unknown version: use a newer cvmm-gate")),
        };
        if new_format && count as u64 > MAX_LINE {
            return Err(wrong("it is too long"));
        }
        if begins && *first && seq > 0 && new_format {
            // Earlier lines are in files that were not given: a signed line has the hash that these end with.
            let hexadecimal = prev.len() == 96 && prev.bytes().all(|digit| digit.is_ascii_hexdigit());
            if value["event"] != CONTINUED || !hexadecimal || value["signature"].is_null() {
                return Err(wrong(
                    "the file begins in the middle of the chain, but not with a signed \"continued\" line",
                ));
            }
            read.first = Place { seq, hash: prev.to_owned() };
            read.end = read.first.clone();
            if *mark == Some(seq) {
                read.marked = Some(prev.to_owned());
            }
        }
        if seq != read.end.seq || prev != read.end.hash {
            return Err(AuditError::Chain {
                path: path.to_owned(),
                line: read.end.seq + 1,
                problem: "it does not continue the previous line: lines were changed, removed or inserted",
            });
        }
        let wrong = |problem| AuditError::Chain { path: path.to_owned(), line: seq + 1, problem };
        let mut signed_by_own = false;
        if let Some(signature) = value.get("signature") {
            let text = std::str::from_utf8(text).unwrap_or_default();
            let (message, signature) = if new_format {
                let (body, signature) =
                    without_signature(text).ok_or_else(|| wrong("its signature is malformed"))?;
                (signed_bytes(&body), signature)
            } else {
                let signature = signature.as_str().and_then(|text| STANDARD.decode(text).ok());
                (prev.as_bytes().to_vec(), signature.ok_or_else(|| wrong("its signature is malformed"))?)
            };
            if keys.is_some_and(|keys| !keys.iter().any(|key| key.verifies(&message, &signature))) {
                return Err(wrong("its signature does not verify with the gate's key"));
            }
            let after_mark = mark.is_some_and(|mark| seq >= mark) && !read.signed_after_mark;
            signed_by_own = after_mark && own.is_some_and(|key| key.verifies(&message, &signature));
            // Version 1 signs the previous lines, not this one.
            read.signed = if new_format { seq + 1 } else { seq };
        }
        read.unsigned = if value.get("signature").is_some() { 0 } else { read.unsigned + 1 };
        if keys.is_some() && read.unsigned >= SIGN_EVERY {
            return Err(wrong(
                "it is not signed: a gate signs the first line after each start, and every 64th line after that",
            ));
        }
        if value["lost"] == true {
            read.lost.push(seq);
        }
        if mark.is_some_and(|mark| seq >= mark) && !read.signed_after_mark {
            read.signed_after_mark = signed_by_own;
            read.unsigned_after_mark += u64::from(!signed_by_own);
        }
        // After a close, the gate's next line is a signed one.
        let signed = read.unsigned == 0;
        if read.closed && !signed && new_format {
            read.appended.push(seq);
        }
        read.closed = if signed { value["event"] == "close" } else { read.closed };
        read.new_format = new_format;
        read.end = Place { seq: seq + 1, hash: hash(text) };
        read.len += count as u64;
        if *mark == Some(read.end.seq) {
            read.marked = Some(read.end.hash.clone());
        }
        begins = false;
    }
}

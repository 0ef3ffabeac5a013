// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a `vm.toml`, for people and for programs.
//!
//! A [`Problem`] is one finding: a stable reason code, the key, a sentence, what would be allowed and, once
//! placed, where it stands. Its display form is the compiler's: sentence, `file:line:column`, the line itself
//! and a caret. Text from the file is shown without control characters, so that a hostile file cannot drive
//! the terminal.

use std::fmt;

use cvmm_reason::printable;
use serde::Serialize;

/// How much of a line is shown around the caret.
const SNIPPET_CHARS: usize = 120;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable reason code such as `config.vcpus.range`.
    pub code: String,
    /// The key as a person writes it, such as `disk[1].serial`; empty for the whole file.
    pub key: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// The values or range that would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The key with dots throughout (`disk.1.serial`), by which the place is found.
    #[serde(skip)]
    pub(super) path: String,
}

/// A place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The file as it was named on the command line.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text around the place.
    #[serde(skip)]
    snippet: String,
    /// Characters before the caret in `snippet`.
    #[serde(skip)]
    indent: usize,
    /// Carets to draw.
    #[serde(skip)]
    width: usize,
}

impl Problem {
    /// A problem with the key at `path` (dotted, array positions as numbers). The code is
    /// `config.<keys>.<reason>`.
    pub(crate) fn at(path: &str, reason: &str, message: impl Into<String>) -> Self {
        let mut code = String::from("config");
        let mut key = String::new();
        for part in path.split('.').filter(|part| !part.is_empty()) {
            if part.bytes().all(|byte| byte.is_ascii_digit()) {
                key.push_str(&format!("[{part}]"));
                continue;
            }
            code.push('.');
            code.push_str(part);
            if !key.is_empty() {
                key.push('.');
            }
            key.push_str(part);
        }
        code.push('.');
        code.push_str(reason);
        Self {
            code,
            key,
            message: message.into(),
            allowed: None,
            help: None,
            location: None,
            path: path.to_owned(),
        }
    }

    pub(crate) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Location {
    /// The place of bytes `start..end` of `text`. Out-of-range values are clamped.
    pub(super) fn new(file: &str, text: &str, start: usize, end: usize) -> Self {
        let start = floor_boundary(text, start);
        let end = floor_boundary(text, end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let before = text[line_start..start].chars().count();
        let marked = text[start..end.min(line_end)].chars().count().max(1);
        // A long line is cut so that the caret stays visible.
        let skip = before.saturating_sub(SNIPPET_CHARS / 2);
        let snippet: String = text[line_start..line_end]
            .chars()
            .skip(skip)
            .take(SNIPPET_CHARS)
            .map(|character| if character.is_control() { ' ' } else { character })
            .collect();
        Self {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            snippet: snippet.trim_end().to_owned(),
            indent: before - skip,
            width: marked.min(SNIPPET_CHARS - (before - skip).min(SNIPPET_CHARS - 1)),
        }
    }
}

/// The greatest character boundary of `text` that is not above `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "error[{}]: {}", self.code, printable::line(&self.message))?;
        let mut margin = 1;
        if let Some(place) = &self.location {
            margin = place.line.to_string().len();
            write!(
                out,
                "\n{:margin$}--> {}:{}:{}",
                "",
                printable::line(&place.file),
                place.line,
                place.column
            )?;
            write!(out, "\n{:margin$} |", "")?;
            write!(out, "\n{} | {}", place.line, place.snippet)?;
            let (indent, width) = (place.indent, place.width);
            write!(out, "\n{:margin$} | {:indent$}{:^<width$}", "", "", "")?;
        }
        if let Some(allowed) = &self.allowed {
            write!(out, "\n{:margin$} = allowed: {}", "", printable::line(allowed))?;
        }
        if let Some(help) = &self.help {
            write!(out, "\n{:margin$} = help: {}", "", printable::line(help))?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a `vm.toml`; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| {
            problem.location.as_ref().map_or((0, 0), |place| (place.line, place.column))
        });
        Self { problems }
    }

    /// The problems in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                out.write_str("\n\n")?;
            }
            problem.fmt(out)?;
        }
        Ok(())
    }
}

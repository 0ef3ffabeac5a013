// SPDX-License-Identifier: Apache-2.0
//! The text of a `vm.toml`, its TOML tree and the place of every key.
//!
//! The tree keeps byte ranges for keys and values, so the later steps talk about keys (`disk.1.serial`) and
//! only here do keys become lines and columns. Files are limited in size before they are read: a
//! configuration is a page of text.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigError, Location, Problem};

/// Largest file that is read, in bytes.
const MAX_SIZE: u64 = 256 << 10;
/// Most syntax errors that are reported: after a few the rest is noise.
const MAX_SYNTAX_ERRORS: usize = 10;

/// Reads the file, refusing what cannot be a configuration.
fn read(path: &Path) -> Result<String, ConfigError> {
    let fail = |reason: &str, message: String| {
        Err(ConfigError::new(vec![
            Problem::at("", reason, message).help("`cvmm config example` prints a file to start from"),
        ]))
    };
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return fail("file", format!("cannot read configuration {shown}: {error}")),
    };
    if metadata.is_dir() {
        return fail("file", format!("configuration {shown} is a directory, not a file"));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells "too large" from "exactly as large", also for pipes, which have no
    // size.
    let read = File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return fail("file", format!("cannot read configuration {shown}: {error}"));
    }
    if bytes.len() as u64 > MAX_SIZE {
        return fail("size", format!("configuration {shown} is larger than {MAX_SIZE} bytes"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            fail("encoding", format!("configuration {shown} is not UTF-8 text (byte {at})"))
        }
    }
}

/// The text of a file, by which problems that are found later get their place.
#[derive(Debug)]
pub struct Text {
    pub(super) file: String,
    pub(super) text: String,
}

impl Text {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        Ok(Self { file: path.display().to_string(), text: read(path)? })
    }

    /// The problems in the order of the file, each with the place of its key.
    #[must_use]
    pub fn error(&self, problems: Vec<Problem>) -> ConfigError {
        ConfigError::new(match Source::parse(&self.file, &self.text) {
            Ok(source) => source.place(problems),
            Err(_) => problems,
        })
    }
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Source<'text> {
    file: String,
    text: &'text str,
    tree: Spanned<DeTable<'text>>,
}

impl<'text> Source<'text> {
    /// Parses the text as TOML; reports all syntax errors it can find.
    pub(super) fn parse(file: &str, text: &'text str) -> Result<Self, ConfigError> {
        // The parser bounds nesting (80 levels) and so its own recursion, for brackets and dotted keys alike.
        let (tree, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { file: file.to_owned(), text, tree });
        }
        let mut problems: Vec<_> = errors
            .iter()
            .take(MAX_SYNTAX_ERRORS)
            .map(|error| {
                let span = error.span().unwrap_or(0..0);
                let mut problem = Problem::at("", "syntax", format!("not valid TOML: {}", error.message()));
                problem.location = Some(Location::new(file, text, span.start, span.end));
                problem
            })
            .collect();
        // Each bracket that is left open is reported at the same place.
        problems.dedup();
        Err(ConfigError::new(problems))
    }

    pub(super) fn tree(&self) -> &Spanned<DeTable<'text>> {
        &self.tree
    }

    /// Gives every problem that has none yet the place of its key; a missing key gets that of its table.
    pub(super) fn place(&self, mut problems: Vec<Problem>) -> Vec<Problem> {
        for problem in &mut problems {
            if problem.location.is_none() {
                let span = self.locate(&problem.path);
                problem.location = Some(self.location(span));
            }
        }
        problems
    }

    pub(super) fn location(&self, span: Range<usize>) -> Location {
        Location::new(&self.file, self.text, span.start, span.end)
    }

    fn locate(&self, path: &str) -> Range<usize> {
        // The document's own span is the whole text; its first line is where a missing top-level key is
        // reported.
        let mut span = 0..0;
        let mut table = Some(self.tree.get_ref());
        let mut array: Option<&[Spanned<DeValue<'text>>]> = None;
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let value = match (table, array) {
                (Some(table), _) => {
                    table.iter().find(|(key, _)| key.get_ref().as_ref() == part).map(|(_, value)| value)
                }
                (None, Some(items)) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                (None, None) => None,
            };
            let Some(value) = value else { break };
            span = value.span();
            table = value.get_ref().as_table();
            array = value.get_ref().as_array().map(|items| &**items);
        }
        span
    }
}

// SPDX-License-Identifier: Apache-2.0
//! From the TOML tree to the parse layer, with all unknown keys and wrong types at once.
//!
//! A serde decoder stops at its first error. To report all of them, the offending entry is cut out of a copy
//! of the tree and decoding starts again, until it succeeds. Each round removes one entry, so it ends; the
//! number of rounds is bounded too. The cut keys are handed on, so that `validate` does not call them
//! missing.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::Problem;
use super::source::Source;
use super::vm::{RawVm, TABLES};

/// After this many type errors a file is not taken for a configuration.
const MAX_ERRORS: usize = 32;

/// The parse layer and what did not fit into it.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    pub(super) raw: RawVm,
    pub(super) problems: Vec<Problem>,
    /// Dotted paths of entries that were there but unusable.
    pub(super) cut: BTreeSet<String>,
}

pub(super) fn decode(source: &Source<'_>) -> Decoded {
    let mut tree = source.tree().clone();
    let mut decoded = Decoded::default();
    for _ in 0..MAX_ERRORS {
        let error = match RawVm::deserialize(toml::de::Deserializer::from(tree.clone())) {
            Ok(raw) => {
                decoded.raw = raw;
                return decoded;
            }
            Err(error) => error,
        };
        let span = error.span().unwrap_or(0..0);
        let cut = cut_table(tree.get_mut(), &span, "");
        let mut problem = describe(error.message(), cut.as_deref().unwrap_or_default());
        problem.location = Some(source.location(span));
        decoded.problems.push(problem);
        match cut {
            Some(path) => decoded.cut.insert(path),
            // The error belongs to no entry: nothing can be cut, so nothing more can be learnt.
            None => break,
        };
    }
    // Nothing usable: what the later steps would say about an empty configuration is not the author's
    // problem.
    decoded.cut.insert(String::new());
    decoded
}

/// Removes the innermost entry whose key or value contains `span`; returns its dotted path.
fn cut_table(table: &mut DeTable<'_>, span: &Range<usize>, prefix: &str) -> Option<String> {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let (key, on_key) = table.iter().find_map(|(key, value)| {
        if within(key.span()) {
            Some((key.clone(), true))
        } else if within(value.span()) || deep_within(value, span) {
            Some((key.clone(), false))
        } else {
            None
        }
    })?;
    let path = join(prefix, key.get_ref());
    let inner =
        if on_key { None } else { table.get_mut(&key).and_then(|value| cut_value(value, span, &path)) };
    if inner.is_some() {
        return inner;
    }
    table.remove(&key);
    Some(path)
}

fn cut_value(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>, path: &str) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => cut_table(table, span, path),
        DeValue::Array(items) => {
            let index = items.iter().position(|item| deep_within(item, span))?;
            let path = join(path, &index.to_string());
            // An item itself is not removed: the indices after it would shift and point at the wrong lines.
            items.get_mut(index).and_then(|item| cut_value(item, span, &path))
        }
        _ => None,
    }
}

/// Whether `span` lies in the value or anything below it: a `[table]`'s own span is only its header.
fn deep_within(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    let outer = value.span();
    if outer.start <= span.start && span.end <= outer.end {
        return true;
    }
    match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            let outer = key.span();
            (outer.start <= span.start && span.end <= outer.end) || deep_within(value, span)
        }),
        DeValue::Array(items) => items.iter().any(|item| deep_within(item, span)),
        _ => false,
    }
}

fn join(prefix: &str, part: &str) -> String {
    if prefix.is_empty() { part.to_owned() } else { format!("{prefix}.{part}") }
}

/// Rewrites serde's sentence for the author of the file.
fn describe(message: &str, path: &str) -> Problem {
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected.trim_start_matches("one of ").replace('`', ""))),
        None => (message, None),
    };
    if let Some(key) = what.strip_prefix("unknown field ") {
        // The code must not contain text from the file: it is a constant.
        let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
        let mut problem = Problem::at(parent, "unknown_key", format!("unknown key {key}"));
        problem.key = key.trim_matches('`').to_owned();
        if parent.is_empty() && matches!(problem.key.as_str(), "net" | "network" | "nic") {
            problem = problem.help("cvmm has no network device yet: remove the table");
        }
        return match expected {
            Some(expected) => problem.allowed(expected),
            None => problem,
        };
    }
    let name = path.rsplit('.').next().unwrap_or_default();
    let (reason, message) = match what.strip_prefix("unknown variant ") {
        Some(word) => ("value", format!("{word} is not a valid value of {name}")),
        None => ("type", format!("{name}: {what}")),
    };
    let mut problem = Problem::at(path, reason, message);
    let is_map = what == "invalid type: map";
    match TABLES.iter().find(|table| table.name == path) {
        Some(table) if table.repeated && is_map => {
            problem =
                problem.help(format!("write [[{name}]] instead of [{name}]: one such table for each {name}"));
        }
        // What serde says of an array here depends on how many items it has.
        Some(table) if !table.repeated && !is_map => {
            problem = problem.help(format!("write [{name}], once"));
        }
        _ => {}
    }
    match expected.as_deref() {
        Some("i64") => problem.allowed("an integer"),
        Some(expected) if expected.starts_with("struct ") => problem.allowed("a table"),
        Some(expected) => problem.allowed(expected.replace("a sequence", "an array of tables")),
        None => problem,
    }
}

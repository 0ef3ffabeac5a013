// SPDX-License-Identifier: Apache-2.0
//! Habits of language that we have given up, as patterns over Rust, pages and scripts.

use std::path::Path;

use anyhow::Result;
use regex::{Regex, RegexBuilder};

/// A habit, and what to write instead.
#[derive(Debug)]
pub struct Habit {
    /// Its name in the ratchet.
    pub name: &'static str,
    /// What to write instead.
    pub advice: &'static str,
    pattern: Regex,
    allowed: Option<Regex>,
}

/// Name, pattern, what of its matches is fine, advice. Patterns are of one line and do not look at case.
const HABITS: [(&str, &str, &str, &str); 7] = [
    (
        "is_no",
        r"\b(is|are|was|were) no\b",
        r"\b[Tt]here (is|are|was|were) no\b|\b(is|are) no longer\b",
        "is not a valid X, or not an X",
    ),
    ("of_another", r"\b(is|are|was|were|be) (of|for) another\b", "", "X mismatch, belongs to a different X"),
    (
        "words",
        r"\b(nobody|somebody|whoever|anybody|likewise|anew)\b|\bfor ever\b|\bthousand million\b",
        r"\bNOBODY\b|-u nobody\b|user nobody\b|`nobody`|nogroup",
        "no one or a role; also; again; indefinitely; billion",
    ),
    ("archaic", r"\b(besides|meanwhile)\b", "", "also, in the meantime; or leave it out"),
    ("double_genitive", r"\bof (the|a|an) [a-z]+'s([^\w\s]|$| and\b| or\b)", "", "a key of the gate"),
    (
        "names",
        r"\b(struct|enum|trait|type) (Described|Served|Kept|Shown|Known|Found|Opened|Taken|Built|More|Asker|TwoWishes|Approved|Launched|Prepared|Identified|Challenged|Quoted|Activated|Certified|Noted|Denied|Asked)\b|\b(const|static) ([A-Z0-9]+_)*(MOST|LEAST)(_[A-Z0-9]+)*\b",
        r"\bstruct (Known)\b",
        "a noun for a type, MAX_ or MIN_ for a bound",
    ),
    ("he", r"\b(he|his|him)\b", r"\b(ISO|IEC)\b", "they, their"),
];

/// The habits.
///
/// # Errors
///
/// A pattern is not valid, which the tests exclude.
pub fn habits() -> Result<Vec<Habit>> {
    let compile = |pattern: &str| RegexBuilder::new(pattern).case_insensitive(true).build();
    HABITS
        .iter()
        .map(|(name, pattern, allowed, advice)| {
            let exact = *name == "names";
            let pattern = if exact { Regex::new(pattern) } else { compile(pattern) };
            let allowed = if allowed.is_empty() { None } else { Some(Regex::new(allowed)?) };
            Ok(Habit { name, advice, pattern: pattern?, allowed })
        })
        .collect()
}

impl Habit {
    /// The lines of a text that have it, from 1, with how often.
    pub fn lines<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
        (1..).zip(text.lines()).filter_map(|(number, line)| {
            let all = self.pattern.find_iter(line).count();
            let fine = self.allowed.as_ref().map_or(0, |allowed| {
                // A match that lies within what is allowed.
                allowed.find_iter(line).filter(|part| self.pattern.is_match(part.as_str())).count()
            });
            let count = all.saturating_sub(fine);
            (count > 0).then_some((number, count))
        })
    }
}

/// Whether prose or code of ours is in a file. This crate has the words as patterns.
pub fn is_ours(path: &Path, text: &str) -> bool {
    if path.starts_with("tests/house") {
        return false;
    }
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        Some("rs" | "md" | "sh" | "py") => true,
        None => {
            let first = text.lines().next().unwrap_or_default();
            first.starts_with("#!") && ["sh", "bash", "python3"].iter().any(|shell| first.ends_with(shell))
        }
        Some(_) => false,
    }
}

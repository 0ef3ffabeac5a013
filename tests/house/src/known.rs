// SPDX-License-Identifier: Apache-2.0
//! Rules that do not hold yet. An entry that is no longer needed fails the check, so that the list only gets
//! shorter.

use crate::Problem;

/// A rule that a package or file may break for now.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The rule.
    pub rule: &'static str,
    /// One of [`Problem::subjects`].
    pub subject: &'static str,
    /// Who ends it, and how.
    pub reason: &'static str,
}

/// The list.
pub const KNOWN: &[Known] = &[];

/// The problems that are not on the list, and those of the list itself.
pub fn unknown(problems: Vec<Problem>, known: &[Known]) -> Vec<Problem> {
    let names = |entry: &Known, problem: &Problem| {
        entry.rule == problem.rule && problem.subjects.iter().any(|subject| subject == entry.subject)
    };
    let idle = |entry: &&Known| !problems.iter().any(|problem| names(entry, problem));
    let mended: Vec<_> = known.iter().filter(idle).copied().collect();
    let listed = |problem: &Problem| known.iter().any(|entry| names(entry, problem));
    let mut left: Vec<_> = problems.into_iter().filter(|problem| !listed(problem)).collect();
    left.extend(mended.into_iter().map(|Known { rule, subject, .. }| Problem {
        rule: "known",
        subjects: vec![subject.to_owned()],
        text: format!("{rule} holds for {subject} now: remove it from tests/house/src/known.rs"),
    }));
    left
}

// SPDX-License-Identifier: Apache-2.0
//! Counts that may only go down. `tests/house/ratchet.toml` has the highest value that is accepted for each.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Counts by name.
pub type Counts = BTreeMap<String, usize>;

/// Reads the file.
///
/// # Errors
///
/// It is not a table of numbers.
pub fn parse(text: &str) -> Result<Counts> {
    toml::from_str(text).context("ratchet.toml")
}

/// What is wrong with the counts that were found: more than is accepted, or a count that the file does not
/// have.
pub fn compare(accepted: &Counts, found: &Counts) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, count) in found {
        match accepted.get(name) {
            None => wrong.push(format!("{name} is {count}, and ratchet.toml does not have it")),
            Some(limit) if count > limit => wrong.push(format!("{name} is {count}, accepted is {limit}")),
            Some(_) => {}
        }
    }
    for name in accepted.keys().filter(|name| !found.contains_key(*name)) {
        wrong.push(format!("ratchet.toml has {name}, which is not counted"));
    }
    wrong
}

/// Which of the accepted values can be lowered.
pub fn improved<'a>(
    accepted: &'a Counts,
    found: &'a Counts,
) -> impl Iterator<Item = (&'a str, usize, usize)> {
    accepted.iter().filter_map(|(name, limit)| {
        let count = *found.get(name)?;
        (count < *limit).then_some((name.as_str(), *limit, count))
    })
}

/// The file with the values that were found where they are lower, comments kept.
///
/// # Errors
///
/// It is not TOML.
pub fn lowered(text: &str, found: &Counts) -> Result<String> {
    let accepted = parse(text)?;
    let mut document: toml_edit::DocumentMut = text.parse().context("ratchet.toml")?;
    for (name, _, count) in improved(&accepted, found) {
        if let Some(value) = document.get_mut(name).and_then(toml_edit::Item::as_value_mut) {
            let decor = value.decor().clone();
            *value = i64::try_from(count)?.into();
            *value.decor_mut() = decor;
        }
    }
    Ok(document.to_string())
}

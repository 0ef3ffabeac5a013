// SPDX-License-Identifier: Apache-2.0
//! A recording as a table for the terminal: start, duration and bar of each activity.

use std::fmt::Write;

use crate::activity::{activities, milliseconds};
use crate::record::Recording;

/// Characters of the longest bar.
const BAR: u64 = 40;

/// Draws `recording`, which [`Recording::read`] has checked.
#[must_use]
pub fn table(recording: &Recording) -> String {
    let rows = activities(recording);
    let total = rows.iter().map(|row| row.end).max().unwrap_or(0).max(1);
    // u128: a file may hold any number.
    let columns = |ns: u64| (u128::from(ns) * u128::from(BAR) / u128::from(total)) as usize;
    let mut text = format!("{:<18}{:>12}{:>12}\n", "", "from", "took");
    for row in &rows {
        let start = columns(row.start);
        let bar = columns(row.end).saturating_sub(start).max(1);
        let from = milliseconds(row.start);
        let took = milliseconds(row.length());
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:<18}{from:>12}{took:>12}  {:start$}{}", row.name, "", "█".repeat(bar));
    }
    let _ = writeln!(text, "{:<18}{:>12}{:>12}", "total", "", milliseconds(total));
    if let Some(end) = recording.end() {
        // Text from a file does not drive the terminal.
        text += &end.replace(|c: char| c.is_control(), " ");
        text.push('\n');
    }
    text
}

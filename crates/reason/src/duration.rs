// SPDX-License-Identifier: Apache-2.0
//! Durations in messages, in a readable unit.

use std::fmt;

/// A number of seconds, shown as "45 s", "3 min", "5 h" or "355 days": in the largest unit of which there are
/// two, rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub i64);

const UNITS: [(u64, &str); 3] = [(86_400, "days"), (3600, "h"), (60, "min")];

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.unsigned_abs();
        if self.0 < 0 {
            out.write_str("-")?;
        }
        match UNITS.iter().find(|(unit, _)| seconds / unit >= 2) {
            Some((unit, name)) => write!(out, "{} {name}", seconds / unit),
            None => write!(out, "{seconds} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_shown_in_a_unit_for_people() {
        for (seconds, text) in [
            (0, "0 s"),
            (1, "1 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (172_799, "47 h"),
            (172_800, "2 days"),
            (30_672_000, "355 days"),
            (-200, "-3 min"),
            (i64::MIN, "-106751991167300 days"),
        ] {
            assert_eq!(Span(seconds).to_string(), text);
        }
    }
}

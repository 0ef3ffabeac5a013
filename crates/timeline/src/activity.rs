// SPDX-License-Identifier: Apache-2.0
//! What a VM did between two marks.

use crate::phase::Phase;
use crate::record::{Mark, Recording};

/// The time between two marks.
///
/// It is named after what leads to the later mark; if marks in between are missing, after all that it spans.
pub(crate) struct Activity {
    pub(crate) name: String,
    /// The phase that it ends with, if this cvmm knows it.
    pub(crate) phase: Option<Phase>,
    /// Nanoseconds since the process start.
    pub(crate) start: u64,
    /// Nanoseconds since the process start.
    pub(crate) end: u64,
}

impl Activity {
    /// Its duration in nanoseconds.
    pub(crate) fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

pub(crate) fn activities(recording: &Recording) -> Vec<Activity> {
    let of_pair = |pair: &[Mark]| {
        let [from, to] = pair else { return None };
        let (before, phase) = (Phase::from_name(&from.name), Phase::from_name(&to.name));
        let name = match (before, phase) {
            // The VM ended here: it did not do what would have come after.
            (Some(before), Some(Phase::PowerOff | Phase::Exit))
                if before < Phase::PowerOff && recording.ended_in.is_some() =>
            {
                let place = recording.ended_in.as_deref().unwrap_or_default();
                format!("{} (ended)", place.replace(|c: char| c.is_control(), " "))
            }
            (Some(before), Some(phase)) if before < phase => {
                let spanned = &Phase::ALL[before as usize + 1..=phase as usize];
                let there = spanned.iter().filter(|part| **part == phase || !part.is_optional());
                there.map(|phase| phase.activity()).collect::<Vec<_>>().join(" + ")
            }
            (_, Some(phase)) => phase.activity().to_owned(),
            (_, None) => to.name.clone(),
        };
        Some(Activity { name, phase, start: from.ns, end: to.ns })
    };
    recording.phases.windows(2).filter_map(of_pair).collect()
}

pub(crate) fn milliseconds(ns: u64) -> String {
    let value = ns as f64 / 1e6;
    match ns {
        0 => "0 ms".to_owned(),
        1..100_000 => format!("{value:.3} ms"),
        100_000..10_000_000 => format!("{value:.2} ms"),
        10_000_000..100_000_000 => format!("{value:.1} ms"),
        _ => format!("{value:.0} ms"),
    }
}

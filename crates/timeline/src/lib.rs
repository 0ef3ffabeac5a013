// SPDX-License-Identifier: Apache-2.0
//! When a VM reached which phase, for performance analysis.
//!
//! A [`Timeline`] is made first thing in `main` and shared by reference; any thread calls [`Timeline::mark`],
//! and the first mark of a phase counts. A mark is one atomic exchange and cheap enough for a vCPU's exit
//! path. At the end it becomes a [`Recording`], a JSON file. `cvmm timeline` turns one or several of these
//! into an SVG drawing, a table or Trace Event JSON.
//!
//! Times are nanoseconds of the monotonic clock since the process entered `main`. What the kernel and the
//! dynamic linker do before is not in them: `/proc` tells the start of a process only to 10 ms, more than it
//! would add. `start_unix_ns` lets the parent process compute it.

#![forbid(unsafe_code)]

mod activity;
mod phase;
mod record;
mod recorder;
mod svg;
#[cfg(test)]
mod tests;
mod text;
mod trace;

pub use phase::Phase;
pub use record::{Mark, Recording, TimelineError};
pub use recorder::Timeline;
pub use svg::{draw, is_drawing};
pub use text::table;
pub use trace::{is_trace, trace};

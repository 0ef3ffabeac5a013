// SPDX-License-Identifier: Apache-2.0
//! Keeps a hostile guest from filling the log: a burst, then one line a minute per message.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines in one window of [`WINDOW_SECONDS`].
const BURST: u32 = 4;
/// Length of a window.
const WINDOW_SECONDS: u64 = 60;

/// Put one in a `static` beside the message it limits.
#[derive(Debug)]
pub struct LogLimit {
    window: AtomicU64,
    used: AtomicU32,
}

impl LogLimit {
    /// Nothing logged yet.
    pub const fn new() -> Self {
        Self { window: AtomicU64::new(0), used: AtomicU32::new(0) }
    }

    /// True if the message may be logged now. Races only make it off by a line.
    pub fn allow(&self) -> bool {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.allow_at(seconds / WINDOW_SECONDS)
    }

    fn allow_at(&self, window: u64) -> bool {
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.used.store(0, Ordering::Relaxed);
        }
        // Saturates instead of wrapping around to a new burst.
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| (used < BURST).then_some(used + 1))
            .is_ok()
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_silence_until_the_next_window() {
        let limit = LogLimit::new();
        assert_eq!((0..100).filter(|_| limit.allow_at(7)).count(), BURST as usize);
        assert_eq!((0..100).filter(|_| limit.allow_at(8)).count(), BURST as usize);
    }
}

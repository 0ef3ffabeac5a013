// SPDX-License-Identifier: Apache-2.0
//! Log macros for messages that a guest, a client or a file can cause.
//!
//! [`error!`], [`warn!`], [`info!`] and [`debug!`] accept the same arguments as `tracing`'s macros. Each call
//! site has its own [`LogLimit`]: [`BURST`] lines at once, then one per [`INTERVAL`]. The first line after a
//! pause has the number of omitted lines in the field `suppressed`. Levels that the log filter disables are
//! free and do not count.
//!
//! Code that a guest can reach uses only these macros. `.clippy.toml` lists `tracing`'s own macros under
//! `disallowed-macros`, which crates for such code deny; in `vmm`, where only some modules are,
//! `tests/log_lines.rs` looks for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[doc(hidden)]
pub use tracing;

/// Lines of one call site that may follow each other without a pause.
pub const BURST: u32 = 4;
/// After a burst, a call site may log one line per interval.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// The limit of one message: a token bucket of [`BURST`] tokens that gains one per [`INTERVAL`].
#[derive(Debug)]
pub struct LogLimit {
    bucket: Mutex<Bucket>,
    suppressed: AtomicU64,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// When the tokens were counted, since [`START`].
    counted: Duration,
}

/// Permission to log a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Lines omitted since the last one, if any.
    pub suppressed: Option<u64>,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl LogLimit {
    /// A limit with a full bucket.
    pub const fn new() -> Self {
        let bucket = Bucket { tokens: BURST, counted: Duration::ZERO };
        Self { bucket: Mutex::new(bucket), suppressed: AtomicU64::new(0) }
    }

    /// Permission to log the message now; without it, the message is counted as omitted.
    pub fn pass(&self) -> Option<Pass> {
        self.pass_at(START.elapsed())
    }

    fn pass_at(&self, now: Duration) -> Option<Pass> {
        // A panic elsewhere leaves a valid bucket.
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_sub(bucket.counted).as_secs() / INTERVAL.as_secs();
        if gained > 0 {
            let tokens = u64::from(bucket.tokens).saturating_add(gained).min(BURST.into());
            // At most BURST.
            bucket.tokens = tokens as u32;
            bucket.counted = if bucket.tokens == BURST {
                now
            } else {
                // At most `now`: the quotient was rounded down.
                bucket.counted.saturating_add(Duration::from_secs(gained.saturating_mul(INTERVAL.as_secs())))
            };
        }
        if bucket.tokens == 0 {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if bucket.tokens == BURST {
            // A full bucket gains nothing: the interval starts with the first line.
            bucket.counted = now;
        }
        bucket.tokens -= 1;
        let suppressed = self.suppressed.swap(0, Ordering::Relaxed);
        Some(Pass { suppressed: (suppressed > 0).then_some(suppressed) })
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// `tracing::event!` with a limit for this call site.
#[doc(hidden)]
#[macro_export]
macro_rules! limited {
    ($level:expr, $($event:tt)+) => {
        if $crate::tracing::enabled!($level) {
            static LIMIT: $crate::LogLimit = $crate::LogLimit::new();
            if let Some(pass) = LIMIT.pass() {
                $crate::tracing::event!($level, suppressed = pass.suppressed, $($event)+);
            }
        }
    };
}

/// Rate-limited `tracing::error!`.
#[macro_export]
macro_rules! error {
    ($($event:tt)+) => { $crate::limited!($crate::tracing::Level::ERROR, $($event)+) };
}

/// Rate-limited `tracing::warn!`.
#[macro_export]
macro_rules! warn {
    ($($event:tt)+) => { $crate::limited!($crate::tracing::Level::WARN, $($event)+) };
}

/// Rate-limited `tracing::info!`.
#[macro_export]
macro_rules! info {
    ($($event:tt)+) => { $crate::limited!($crate::tracing::Level::INFO, $($event)+) };
}

/// Rate-limited `tracing::debug!`.
#[macro_export]
macro_rules! debug {
    ($($event:tt)+) => { $crate::limited!($crate::tracing::Level::DEBUG, $($event)+) };
}

/// For tests that count lines.
#[doc(hidden)]
pub mod testing {
    use std::fmt::{Debug, Write};
    use std::sync::{Arc, Mutex, PoisonError};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Keeps each event as one line: level, then fields as `name=value`.
    #[derive(Clone, Debug, Default)]
    pub struct Lines(Arc<Mutex<Vec<String>>>);

    impl Lines {
        /// What `work` logs on this thread.
        pub fn of(work: impl FnOnce()) -> Vec<String> {
            let lines = Self::default();
            tracing::subscriber::with_default(lines.clone(), work);
            lines.take()
        }

        /// What was logged since the last call.
        pub fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            // Writing to a String does not fail.
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Lines;
    use super::*;

    fn passes(limit: &LogLimit, at: Duration) -> usize {
        (0..10_000).filter(|_| limit.pass_at(at).is_some()).count()
    }

    #[test]
    fn a_burst_then_one_line_per_interval() {
        let limit = LogLimit::new();
        let start = Duration::from_secs(1_000);
        assert_eq!(passes(&limit, start), BURST as usize);
        assert_eq!(passes(&limit, start + INTERVAL - Duration::from_millis(1)), 0);
        let first = limit.pass_at(start + INTERVAL);
        assert_eq!(first, Some(Pass { suppressed: Some(2 * 10_000 - u64::from(BURST)) }));
        assert_eq!(passes(&limit, start + INTERVAL), 0);
        // A flood of a day at a steady rate: one line a minute, and nothing that was left out is left
        // uncounted.
        let (mut lines, mut suppressed) = (0_u64, 0_u64);
        for second in 1..=86_400 {
            if let Some(pass) = limit.pass_at(start + INTERVAL + Duration::from_secs(second)) {
                lines += 1;
                suppressed += pass.suppressed.unwrap_or(0);
            }
        }
        assert_eq!((lines, suppressed), (1_440, 10_000 + 86_400 - 1_440));
    }

    #[test]
    fn a_pause_restores_the_burst_and_no_more() {
        let limit = LogLimit::new();
        assert_eq!(passes(&limit, Duration::ZERO), BURST as usize);
        assert_eq!(passes(&limit, 2 * INTERVAL), 2);
        assert_eq!(passes(&limit, 1_000 * INTERVAL), BURST as usize);
        // A clock that stands still or goes back gives nothing.
        assert_eq!(passes(&limit, Duration::ZERO), 0);
        assert_eq!(passes(&LogLimit::new(), Duration::MAX), BURST as usize);
    }

    #[test]
    fn each_place_has_a_limit_of_its_own_and_takes_what_tracing_takes() {
        let error = std::io::Error::other("broken");
        let lines = Lines::of(|| {
            for number in 0..10_000_u32 {
                warn!(number, %error, "one");
                info!("two {number}");
                error!(?error, answer = format_args!("{number:#x}"), "three");
                debug!(number);
            }
        });
        assert_eq!(lines.len(), 4 * BURST as usize, "{lines:#?}");
        assert_eq!(lines[0], "WARN message=one number=0 error=broken");
        assert_eq!(lines[1], "INFO message=two 0");
        assert!(lines.iter().any(|line| line.starts_with("ERROR ") && line.contains("answer=0x2")));
    }

    #[test]
    fn disabled_levels_do_not_count() {
        fn log() {
            warn!("heard or not");
        }
        (0..100).for_each(|_| log());
        assert_eq!(Lines::of(log).len(), 1);
    }

    #[test]
    fn many_threads_get_one_burst() {
        let limit = LogLimit::new();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| passes(&limit, Duration::from_secs(1)))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, BURST as usize);
    }
}

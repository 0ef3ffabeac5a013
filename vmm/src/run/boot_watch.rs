// SPDX-License-Identifier: Apache-2.0
//! Whether the guest gets as far as its console.
//!
//! A kernel that dies before it has a console, or firmware that waits for a device in a loop, look like a
//! guest that is merely slow: cvmm sees vCPUs that run. What tells them apart is time. A guest that has shown
//! nothing for [`REPORT_AFTER`] is reported once, with what it was last seen to do. It is not ended for that
//! unless `--boot-timeout` says so: a guest whose console is elsewhere (a graphics driver, SSH only) is
//! silent too.
//!
//! Signs of life are bytes from the console device and the marker port. Each machine is watched from its own
//! start: a guest that was reset boots again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmm_timeline::{Phase, Timeline};

use crate::control::{Ending, Silence};
use crate::machine::console_sink::ConsoleSink;
use crate::progress::{Milestones, Progress};

/// When a silent guest is reported. Several times what a boot takes on any host with hardware virtualisation.
pub const REPORT_AFTER: Duration = Duration::from_secs(60);

/// What `--boot-timeout` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootTimeout {
    /// Not given: a silent guest is reported.
    Report,
    /// 0: it is not even reported.
    Off,
    /// It is ended after this time.
    End(Duration),
}

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing any more.
    Never,
    /// Look again then.
    In(Duration),
    /// The VM has to end.
    End(Ending),
}

/// Watches one guest after the other.
#[derive(Debug)]
pub struct BootWatch {
    console: ConsoleSink,
    milestones: Arc<Milestones>,
    timeline: Arc<Timeline>,
    report: Option<Duration>,
    end: Option<Duration>,
    start: Instant,
    /// Bytes on the console when the guest was started.
    before: u64,
    done: bool,
}

impl BootWatch {
    /// Watches what goes through `console`.
    pub fn new(
        timeout: BootTimeout,
        console: ConsoleSink,
        milestones: Arc<Milestones>,
        timeline: Arc<Timeline>,
    ) -> Self {
        let (report, end) = match timeout {
            BootTimeout::Report => (Some(REPORT_AFTER), None),
            BootTimeout::Off => (None, None),
            // What ends the VM says it all.
            BootTimeout::End(time) => (Some(REPORT_AFTER).filter(|report| *report < time), Some(time)),
        };
        let before = console.shown();
        Self { console, milestones, timeline, report, end, start: Instant::now(), before, done: false }
    }

    /// A machine starts: its firmware begins.
    pub fn restart(&mut self) {
        self.start = Instant::now();
        self.before = self.console.shown();
        self.milestones.restart();
        self.done = false;
    }

    /// What is due at `now`.
    pub fn tick(&mut self, now: Instant) -> Due {
        let Some(next) = self.report.into_iter().chain(self.end).min().filter(|_| !self.done) else {
            return Due::Never;
        };
        let progress = self.milestones.progress();
        if progress == Progress::UserSpace || self.console.shown() != self.before {
            self.done = true;
            return Due::Never;
        }
        let time = now.saturating_duration_since(self.start);
        if time < next {
            return Due::In(next - time);
        }
        let silence = Silence { time, progress };
        self.timeline.mark(Phase::Silent);
        if self.end.is_some_and(|end| end <= time) {
            self.done = true;
            return Due::End(Ending::Silent(silence));
        }
        // Once in the life of a process: a guest that resets itself in a loop is a line for each reset
        // already.
        self.report = None;
        cvmm_log_limit::warn!("{silence}; --boot-timeout SECONDS ends such a guest");
        self.tick(now)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::*;

    struct Watched {
        watch: BootWatch,
        console: ConsoleSink,
        milestones: Arc<Milestones>,
        timeline: Arc<Timeline>,
    }

    fn watched(timeout: BootTimeout) -> Watched {
        let console = ConsoleSink::new(Box::new(io::sink()), None);
        let timeline = Arc::new(Timeline::start());
        let milestones = Arc::new(Milestones::new(Arc::clone(&timeline)));
        let watch = BootWatch::new(timeout, console.clone(), Arc::clone(&milestones), Arc::clone(&timeline));
        Watched { watch, console, milestones, timeline }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_silent_guest_is_reported_and_goes_on() {
        let mut all = watched(BootTimeout::Report);
        let start = all.watch.start;
        assert_eq!(all.watch.tick(start), Due::In(REPORT_AFTER));
        assert_eq!(all.watch.tick(start + seconds(59)), Due::In(seconds(1)));
        assert_eq!(all.timeline.reached(Phase::Silent), None);
        assert_eq!(all.watch.tick(start + REPORT_AFTER), Due::Never);
        assert!(all.timeline.reached(Phase::Silent).is_some());
        assert_eq!(all.watch.tick(start + seconds(100_000)), Due::Never);
    }

    #[test]
    fn a_silent_guest_is_ended_when_that_is_asked_for() {
        for limit in [5, 100] {
            let mut all = watched(BootTimeout::End(seconds(limit)));
            let start = all.watch.start;
            all.milestones.kernel();
            let first = all.watch.tick(start + seconds(4));
            assert_eq!(
                first,
                Due::In(seconds(limit.min(60) - 4)),
                "a report comes first if there is time for it"
            );
            let before_the_end = all.watch.tick(start + seconds(limit - 1));
            assert_eq!(before_the_end, Due::In(seconds(1)));
            let silence = Silence { time: seconds(limit), progress: Progress::Kernel };
            assert_eq!(all.watch.tick(start + seconds(limit)), Due::End(Ending::Silent(silence)));
            assert!(silence.to_string().contains("its kernel was entered"), "{silence}");
        }
    }

    #[test]
    fn one_byte_or_the_marker_is_progress() {
        let mut all = watched(BootTimeout::End(seconds(5)));
        let start = all.watch.start;
        all.console.write_all(b"\n").unwrap();
        assert_eq!(all.watch.tick(start + seconds(100)), Due::Never);
        // The next machine has to show something of its own.
        all.watch.restart();
        let start = all.watch.start;
        assert_eq!(all.watch.tick(start), Due::In(seconds(5)));
        all.milestones.user_space();
        assert_eq!(all.watch.tick(start + seconds(100)), Due::Never);
        assert_eq!(all.timeline.reached(Phase::Silent), None);
        all.watch.restart();
        assert!(matches!(all.watch.tick(all.watch.start + seconds(5)), Due::End(_)));
    }

    #[test]
    fn off_is_off() {
        let mut all = watched(BootTimeout::Off);
        assert_eq!(all.watch.tick(all.watch.start + seconds(100_000)), Due::Never);
        assert_eq!(all.timeline.reached(Phase::Silent), None);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The ACPI power management timer (ACPI 6.5, 4.8.3.3): a free-running 24-bit counter at 3.579545 MHz.
//!
//! Firmware has no other delay clock and polls it; Linux does not use it on this machine.
//!
//! Polling is expensive: each read leaves the guest, and a wait of 10 ms on a fast host is thousands of them.
//! A guest that has been polling for a while is therefore made to wait a little inside the read ([`Poll`]):
//! for an eighth of the time it has polled already, so that a wait becomes at most that much longer than
//! asked for (the clock guarantees lower bounds only), and at most [`LONGEST_NAP`], so that no vCPU is held
//! for long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmm_metrics::Inspect;

use super::metrics::PmTimerMetrics;
use crate::bus::BusDevice;

/// Ticks per second.
pub(crate) const FREQUENCY: u64 = 3_579_545;
/// The counter has 24 bits; the upper byte of the register reads as zero.
const MASK: u128 = 0x00ff_ffff;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Reads further apart than this are not one wait.
const POLL_GAP: Duration = Duration::from_micros(200);
/// Shorter naps would cost more than the exits they save.
const SHORTEST_NAP: Duration = Duration::from_micros(20);
/// Longest time that one read holds a vCPU.
const LONGEST_NAP: Duration = Duration::from_micros(500);
/// A nap is this part of the time polled so far.
const NAP_PART: u32 = 8;

/// A run of reads that follow each other closely.
#[derive(Debug, Default)]
struct Poll {
    first: Duration,
    last: Duration,
}

impl Poll {
    /// Notes a read at `now` and says how long it should take.
    fn nap(&mut self, now: Duration) -> Option<Duration> {
        if now.saturating_sub(self.last) > POLL_GAP {
            self.first = now;
        }
        self.last = now;
        let nap = (now.saturating_sub(self.first) / NAP_PART).min(LONGEST_NAP);
        (nap >= SHORTEST_NAP).then_some(nap)
    }
}

/// The timer.
pub struct PmTimer {
    elapsed: Box<dyn Fn() -> Duration + Send>,
    sleep: Box<dyn Fn(Duration) + Send>,
    poll: Poll,
    metrics: Arc<PmTimerMetrics>,
}

impl std::fmt::Debug for PmTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PmTimer").field("poll", &self.poll).finish_non_exhaustive()
    }
}

impl PmTimer {
    /// Starts at zero.
    #[expect(clippy::new_without_default, reason = "it starts a clock")]
    pub fn new() -> Self {
        let start = Instant::now();
        Self::with_clock(Box::new(move || start.elapsed()), Box::new(std::thread::sleep))
    }

    /// Like [`PmTimer::new`], with the time since start taken from `elapsed` and waits made by `sleep`.
    pub(crate) fn with_clock(
        elapsed: Box<dyn Fn() -> Duration + Send>,
        sleep: Box<dyn Fn(Duration) + Send>,
    ) -> Self {
        Self { elapsed, sleep, poll: Poll::default(), metrics: Arc::default() }
    }

    /// The counter's value.
    fn count(&self) -> u32 {
        let ticks = (self.elapsed)().as_nanos().saturating_mul(u128::from(FREQUENCY)) / NANOS_PER_SECOND;
        u32::try_from(ticks & MASK).unwrap_or_default()
    }
}

impl BusDevice for PmTimer {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(nap) = self.poll.nap((self.elapsed)()) {
            (self.sleep)(nap);
            self.metrics.naps.increment();
            // At most LONGEST_NAP.
            self.metrics.nap_micros.add(nap.as_micros() as u64);
            // The nap does not count as a gap between reads.
            self.poll.last = (self.elapsed)();
        }
        let value = self.count().to_le_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = value.get(offset.saturating_add(i)).copied().unwrap_or(0xff);
        }
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use cvmm_metrics::View;
    use proptest::prelude::*;

    use super::*;

    fn read32(timer: &mut PmTimer) -> u32 {
        let mut data = [0; 4];
        timer.read(0, &mut data);
        u32::from_le_bytes(data)
    }

    fn at(nanos: u64) -> PmTimer {
        let clock = Box::new(move || Duration::from_nanos(nanos));
        PmTimer::with_clock(clock, Box::new(|_| {}))
    }

    #[test]
    fn counts_3579545_per_second_and_wraps_at_24_bits() {
        assert_eq!(read32(&mut at(1_000_000_000)), 3_579_545);
        assert_eq!(read32(&mut at(10_000_000)), 35_795);
        assert_eq!(read32(&mut at(5_000_000_000)), (5 * 3_579_545) & 0xff_ffff);
        assert!(read32(&mut at(u64::MAX)) <= 0xff_ffff);
    }

    #[test]
    fn never_runs_backwards_between_wraps() {
        let now = Arc::new(AtomicU64::new(0));
        let clock = now.clone();
        let mut timer = PmTimer::with_clock(
            Box::new(move || Duration::from_nanos(clock.load(Ordering::Relaxed))),
            Box::new(|_| {}),
        );
        let mut last = 0;
        for _ in 0..1000 {
            now.fetch_add(1234, Ordering::Relaxed);
            let value = read32(&mut timer);
            assert!(value >= last && value - last <= 5, "{last} -> {value}");
            last = value;
        }
        assert_eq!(last, 4417, "1.234 ms");
    }

    /// A guest that waits `micros` by polling, each read taking `exit` nanoseconds: reads made and time
    /// passed.
    fn wait(micros: u64, exit: u64) -> (u32, u64) {
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let (clock, naps) = (now.clone(), now.clone());
        let mut timer = PmTimer::with_clock(
            Box::new(move || Duration::from_nanos(clock.load(Ordering::Relaxed))),
            Box::new(move |nap| {
                assert!(nap <= LONGEST_NAP);
                naps.fetch_add(nap.as_nanos() as u64, Ordering::Relaxed);
            }),
        );
        let ticks = (micros * FREQUENCY / 1_000_000) as u32;
        let start = read32(&mut timer);
        let mut reads = 1;
        loop {
            now.fetch_add(exit, Ordering::Relaxed);
            reads += 1;
            if read32(&mut timer) - start >= ticks {
                return (reads, now.load(Ordering::Relaxed) - 1_000_000_000);
            }
        }
    }

    #[test]
    fn a_long_wait_costs_few_reads_and_little_more_time() {
        for exit in [2_000, 10_000, 60_000] {
            let (reads, nanos) = wait(10_000, exit);
            assert!(reads < 200, "{reads} reads of {exit} ns");
            assert!((10_000_000..11_300_000).contains(&nanos), "{nanos} ns");
        }
    }

    #[test]
    fn naps_are_counted() {
        let now = Arc::new(AtomicU64::new(1_000_000_000));
        let clock = now.clone();
        let mut timer = PmTimer::with_clock(
            Box::new(move || Duration::from_nanos(clock.load(Ordering::Relaxed))),
            Box::new(|_| {}),
        );
        let metrics = timer.metrics();
        for _ in 0..9 {
            now.fetch_add(20_000, Ordering::Relaxed);
            read32(&mut timer);
        }
        // The ninth read comes 160 µs after the first: an eighth of that is the shortest nap.
        let view = View::of(&*metrics);
        assert_eq!((view.count(&["naps"]), view.count(&["nap_micros"])), (Some(1), Some(20)));
    }

    #[test]
    fn a_short_wait_is_not_stretched() {
        let (reads, nanos) = wait(100, 2_000);
        assert!((49..=52).contains(&reads), "{reads}");
        assert!(nanos <= 104_000, "{nanos} ns");
    }

    #[test]
    fn reads_far_apart_are_not_a_wait() {
        let mut poll = Poll::default();
        for millis in 1..1000 {
            assert_eq!(poll.nap(Duration::from_millis(millis)), None);
        }
    }

    #[test]
    fn the_real_clock_moves() {
        let mut timer = PmTimer::new();
        let first = read32(&mut timer);
        std::thread::sleep(Duration::from_millis(2));
        assert!(read32(&mut timer) - first >= 7159, "2 ms are at least 7159 ticks");
    }

    proptest! {
        #[test]
        fn any_access_gives_bytes_of_the_counter(offset in any::<u64>(), len in 0_usize..9) {
            let mut timer = at(1_000_000_000);
            let mut data = vec![0; len];
            timer.write(offset, &data);
            timer.read(offset, &mut data);
            for (i, byte) in data.into_iter().enumerate() {
                let expected = match offset.saturating_add(i as u64) {
                    at @ 0..4 => (3_579_545_u32 >> (8 * at)) as u8,
                    _ => 0xff,
                };
                prop_assert_eq!(byte, expected);
            }
        }
    }
}

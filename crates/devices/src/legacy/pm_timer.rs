// SPDX-License-Identifier: Apache-2.0
//! The ACPI power management timer (ACPI 6.5, 4.8.3.3): a free-running 24-bit counter at 3.579545 MHz.
//!
//! Firmware has no other delay clock and polls it; Linux does not use it on this machine. It can therefore be
//! run fast: firmware's fixed waits (10 ms after each INIT) shrink by the scale and so do its polls. That bends
//! the specification and is off (scale 1) unless the configuration asks for it.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::bus::BusDevice;

/// Ticks per second at scale 1.
pub const FREQUENCY: u64 = 3_579_545;
/// The counter has 24 bits; the upper byte of the register reads as zero.
const MASK: u128 = 0x00ff_ffff;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// The timer.
pub struct PmTimer {
    elapsed: Box<dyn Fn() -> Duration + Send>,
    ticks_per_second: u128,
}

impl std::fmt::Debug for PmTimer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PmTimer").field("ticks_per_second", &self.ticks_per_second).finish_non_exhaustive()
    }
}

impl PmTimer {
    /// Starts at zero and runs `scale` times as fast as the specification says.
    pub fn new(scale: NonZeroU32) -> Self {
        let start = Instant::now();
        Self::with_clock(scale, Box::new(move || start.elapsed()))
    }

    /// Like [`PmTimer::new`], with the time since start taken from `elapsed`.
    pub fn with_clock(scale: NonZeroU32, elapsed: Box<dyn Fn() -> Duration + Send>) -> Self {
        Self { elapsed, ticks_per_second: u128::from(FREQUENCY) * u128::from(scale.get()) }
    }

    /// The counter's value. At the largest scale the product would overflow after some 700,000 years; it
    /// saturates.
    fn count(&self) -> u32 {
        let ticks = (self.elapsed)().as_nanos().saturating_mul(self.ticks_per_second) / NANOS_PER_SECOND;
        u32::try_from(ticks & MASK).unwrap_or_default()
    }
}

impl BusDevice for PmTimer {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = self.count().to_le_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = value.get(offset.saturating_add(i)).copied().unwrap_or(0xff);
        }
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn read32(timer: &mut PmTimer) -> u32 {
        let mut data = [0; 4];
        timer.read(0, &mut data);
        u32::from_le_bytes(data)
    }

    fn at(scale: u32, nanos: u64) -> PmTimer {
        PmTimer::with_clock(NonZeroU32::new(scale).unwrap(), Box::new(move || Duration::from_nanos(nanos)))
    }

    #[test]
    fn counts_3579545_per_second_and_wraps_at_24_bits() {
        assert_eq!(read32(&mut at(1, 1_000_000_000)), 3_579_545);
        assert_eq!(read32(&mut at(1, 10_000_000)), 35_795);
        assert_eq!(read32(&mut at(1, 5_000_000_000)), (5 * 3_579_545) & 0xff_ffff);
        assert_eq!(read32(&mut at(50, 10_000_000)), 1_789_772);
        assert!(read32(&mut at(u32::MAX, u64::MAX)) <= 0xff_ffff);
    }

    #[test]
    fn never_runs_backwards_between_wraps() {
        let now = Arc::new(AtomicU64::new(0));
        let clock = now.clone();
        let mut timer = PmTimer::with_clock(
            NonZeroU32::MIN,
            Box::new(move || Duration::from_nanos(clock.load(Ordering::Relaxed))),
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

    #[test]
    fn the_real_clock_moves() {
        let mut timer = PmTimer::new(NonZeroU32::MIN);
        let first = read32(&mut timer);
        std::thread::sleep(Duration::from_millis(2));
        assert!(read32(&mut timer) - first >= 7159, "2 ms are at least 7159 ticks");
    }

    proptest! {
        #[test]
        fn any_access_gives_bytes_of_the_counter(offset in any::<u64>(), len in 0_usize..9) {
            let mut timer = at(1, 1_000_000_000);
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

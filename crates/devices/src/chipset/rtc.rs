// SPDX-License-Identifier: Apache-2.0
//! The CMOS real time clock (Motorola MC146818A), ports 0x70 (index) and 0x71 (data).
//!
//! Firmware does not start without it: its `GetTime` must work before it loads a kernel. The clock shows the
//! host's time in UTC, BCD, 24 hours, with the century at index 0x32 as PC firmware expects it. It is
//! read-only: setting it is ignored, because the host's clock is not the guest's to set, and there are no
//! interrupts.
//!
//! A guest reads the fields one exit at a time. So that a minute that ends in between cannot tear them apart,
//! the moment is taken at the read of the seconds, which all known software does first, and kept for the
//! other fields for [`HOLD`]. Seconds are always live: polling them terminates.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cvmm_metrics::Inspect;

use super::metrics::RtcMetrics;
use crate::bus::BusDevice;

/// How long a moment taken with the seconds is shown in the other fields.
const HOLD: Duration = Duration::from_millis(20);

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
/// Time base 32.768 kHz, rate 1024 Hz, no update in progress.
const STATUS_A: u8 = 0x0a;
/// 24 hours, BCD, no interrupts.
const STATUS_B: u8 = 0x0b;
/// No interrupt pending.
const STATUS_C: u8 = 0x0c;
/// The time is valid.
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;
/// The index register's bit 7 masks NMIs on a PC and selects nothing.
const INDEX: u8 = 0x7f;

/// The clock.
pub struct Rtc {
    now: Box<dyn Fn() -> SystemTime + Send>,
    index: u8,
    /// Cells that only remember: alarm times, the shutdown code at 0x0f and whatever else software stores.
    cells: [u8; 128],
    held: Option<SystemTime>,
    metrics: Arc<RtcMetrics>,
}

impl fmt::Debug for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rtc").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl Rtc {
    /// Shows the host's clock.
    pub fn new() -> Self {
        Self::with_clock(Box::new(SystemTime::now))
    }

    /// Shows the time that `now` gives; before 1970 it shows 1970, after 9999 the year is cut to four digits.
    pub(crate) fn with_clock(now: Box<dyn Fn() -> SystemTime + Send>) -> Self {
        Self { now, index: 0, cells: [0; 128], held: None, metrics: Arc::default() }
    }

    fn cell(&mut self) -> u8 {
        match self.index {
            STATUS_A => 0x26,
            STATUS_B => 0x02,
            STATUS_C => 0x00,
            STATUS_D => 0x80,
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY => self.time_field(),
            index => self.cells.get(usize::from(index)).copied().unwrap_or(0),
        }
    }

    fn time_field(&mut self) -> u8 {
        self.metrics.time_reads.increment();
        let live = (self.now)();
        let moment = match self.held {
            Some(held) if self.index != SECONDS && is_recent(held, live) => held,
            _ => live,
        };
        if self.index == SECONDS {
            self.held = Some(moment);
        }
        let time = Civil::from(moment);
        bcd(match self.index {
            SECONDS => time.second,
            MINUTES => time.minute,
            HOURS => time.hour,
            WEEKDAY => time.weekday,
            DAY => time.day,
            MONTH => time.month,
            YEAR => time.year % 100,
            // The only index left is the century.
            _ => time.year / 100 % 100,
        })
    }

    fn set_cell(&mut self, value: u8) {
        let fixed = matches!(
            self.index,
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | STATUS_A..=STATUS_D | CENTURY
        );
        if fixed {
            self.metrics.errors.increment();
        } else if let Some(cell) = self.cells.get_mut(usize::from(self.index)) {
            *cell = value;
        }
    }
}

/// True if `held` is at most [`HOLD`] before `live`; false when the clock was set back.
fn is_recent(held: SystemTime, live: SystemTime) -> bool {
    live.duration_since(held).is_ok_and(|age| age <= HOLD)
}

/// Two decimal digits, one in each half.
fn bcd(value: u64) -> u8 {
    u8::try_from(((value / 10 % 10) << 4) | (value % 10)).unwrap_or_default()
}

/// A moment in the proleptic Gregorian calendar, UTC.
#[derive(Debug, PartialEq, Eq)]
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    /// 1 is Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl From<SystemTime> for Civil {
    fn from(moment: SystemTime) -> Self {
        let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Count days from 1 March of year 0, so that the leap day is the last of its year; 1970-01-01 is day
        // 719468 of that count, an era of 400 years has 146097 days.
        let count = days + 719_468;
        let (era, of_era) = (count / 146_097, count % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March have 31 30 31 30 31 days, again and again: 153 days in five months.
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4) % 7 + 1,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let [value] = data {
            match offset {
                0 => *value = self.index,
                1 => *value = self.cell(),
                _ => {}
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[value]) => self.index = value & INDEX,
            (1, &[value]) => self.set_cell(value),
            _ => {}
        }
    }

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

    fn get(rtc: &mut Rtc, index: u8) -> u8 {
        let mut data = [0];
        rtc.write(0, &[index]);
        rtc.read(1, &mut data);
        data[0]
    }

    fn at(seconds: u64) -> Rtc {
        Rtc::with_clock(Box::new(move || UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    /// Century, year, month, day, weekday, hour, minute, second.
    fn fields(rtc: &mut Rtc) -> [u8; 8] {
        [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|index| get(rtc, index))
    }

    #[test]
    fn shows_utc_in_bcd() {
        // Expected values from `date -u -d @SECONDS`.
        assert_eq!(fields(&mut at(0)), [0x19, 0x70, 0x01, 0x01, 5, 0, 0, 0]);
        assert_eq!(fields(&mut at(951_827_696)), [0x20, 0x00, 0x02, 0x29, 3, 0x12, 0x34, 0x56]);
        assert_eq!(fields(&mut at(1_735_689_599)), [0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x59, 0x59]);
        assert_eq!(fields(&mut at(4_107_542_400)), [0x21, 0x00, 0x03, 0x01, 2, 0, 0, 0]);
    }

    #[test]
    fn status_registers_are_fixed_and_the_time_cannot_be_set() {
        let mut rtc = at(951_827_696);
        let before = fields(&mut rtc);
        for index in 0..=0xff_u8 {
            rtc.write(0, &[index]);
            rtc.write(1, &[0x11]);
        }
        assert_eq!(fields(&mut rtc), before);
        assert_eq!([0x0a, 0x0b, 0x0c, 0x0d].map(|i| get(&mut rtc, i)), [0x26, 0x02, 0x00, 0x80]);
        assert_eq!(get(&mut rtc, 0x0f), 0x11, "the shutdown code is remembered");
        assert_eq!(get(&mut rtc, 0x05), 0x11, "alarm cells are remembered");
        assert_eq!(get(&mut rtc, 0x8f), 0x11, "bit 7 is the NMI mask");
        let mut index = [0];
        rtc.read(0, &mut index);
        assert_eq!(index[0], 0x0f);
    }

    #[test]
    fn a_minute_that_ends_between_two_reads_does_not_tear() {
        let millis = Arc::new(AtomicU64::new(1_735_689_599_995));
        let clock = millis.clone();
        let mut rtc = Rtc::with_clock(Box::new(move || {
            UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::Relaxed))
        }));
        assert_eq!(get(&mut rtc, 0x00), 0x59);
        millis.fetch_add(10, Ordering::Relaxed);
        assert_eq!([0x02, 0x04, 0x07, 0x08, 0x09].map(|i| get(&mut rtc, i)), [0x59, 0x23, 0x31, 0x12, 0x24]);
        assert_eq!(get(&mut rtc, 0x00), 0x00, "seconds are live");
        assert_eq!([0x02, 0x04, 0x07, 0x08, 0x09].map(|i| get(&mut rtc, i)), [0, 0, 0x01, 0x01, 0x25]);
        millis.fetch_add(60_000, Ordering::Relaxed);
        assert_eq!(get(&mut rtc, 0x02), 0x01, "an old moment is not kept");
        millis.fetch_sub(120_000, Ordering::Relaxed);
        assert_eq!(get(&mut rtc, 0x02), 0x59, "nor one from before the clock was set back");
    }

    #[test]
    fn reads_and_ignored_writes_are_counted() {
        let mut rtc = at(0);
        let metrics = rtc.metrics();
        fields(&mut rtc);
        rtc.write(0, &[0x04]);
        rtc.write(1, &[0x11]);
        rtc.write(0, &[0x0f]);
        rtc.write(1, &[0x11]);
        let view = View::of(&*metrics);
        assert_eq!((view.count(&["time_reads"]), view.count(&["errors"])), (Some(8), Some(1)));
    }

    #[test]
    fn a_clock_before_1970_shows_1970() {
        let mut rtc = Rtc::with_clock(Box::new(|| UNIX_EPOCH - Duration::from_secs(1)));
        assert_eq!(fields(&mut rtc)[..4], [0x19, 0x70, 0x01, 0x01]);
    }

    proptest! {
        #[test]
        fn every_day_follows_the_one_before(day in 0_u64..3_000_000) {
            let [a, b] = [day, day + 1].map(|d| Civil::from(UNIX_EPOCH + Duration::from_secs(d * 86_400)));
            let leap = a.year % 4 == 0 && (a.year % 100 != 0 || a.year % 400 == 0);
            let length = match a.month { 2 => 28 + u64::from(leap), 4 | 6 | 9 | 11 => 30, _ => 31 };
            let next = match (a.day == length, a.month) {
                (false, _) => (a.year, a.month, a.day + 1),
                (true, 12) => (a.year + 1, 1, 1),
                (true, _) => (a.year, a.month + 1, 1),
            };
            prop_assert_eq!((b.year, b.month, b.day), next);
            prop_assert_eq!(b.weekday, a.weekday % 7 + 1);
        }

        #[test]
        fn every_access_is_bounded_and_the_time_stays_bcd(
            ops in proptest::collection::vec((any::<bool>(), 0_u64..4, proptest::collection::vec(any::<u8>(), 0..9)), 0..100),
            seconds in 0_u64..300_000_000_000,
        ) {
            let mut rtc = at(seconds);
            for (write, offset, mut data) in ops {
                if write { rtc.write(offset, &data) } else { rtc.read(offset, &mut data) }
            }
            for field in fields(&mut rtc) {
                prop_assert!(field >> 4 <= 9 && field & 0xf <= 9);
            }
            prop_assert_eq!(get(&mut rtc, 0x0d), 0x80);
        }
    }
}

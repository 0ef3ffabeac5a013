// SPDX-License-Identifier: Apache-2.0
//! Times in UTC and seconds of Unix time, both ways.

/// A time in UTC (proleptic Gregorian calendar).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// Year.
    pub year: i64,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 59: Unix time has no leap seconds.
    pub second: u8,
}

impl Utc {
    /// Seconds of Unix time; `None` if there is no such time.
    #[must_use]
    pub fn seconds(self) -> Option<i64> {
        let Self { year, month, day, hour, minute, second } = self;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + u8::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let [month, day, hour, minute, second] = [month, day, hour, minute, second].map(i64::from);
        // Years from March on: then the leap day is a year's last.
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        let days =
            365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
        Some(((days * 24 + hour) * 60 + minute) * 60 + second)
    }

    /// The time of so many seconds of Unix time.
    #[must_use]
    pub fn from_seconds(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Years from March on, in eras of 400.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        // All of these are below 60.
        let part = |number: i64| u8::try_from(number).unwrap_or_default();
        Self {
            year: year + 400 * era + next,
            month: part(month),
            day: part(day),
            hour: part(second / 3600),
            minute: part(second / 60 % 60),
            second: part(second % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(year: i64, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Utc {
        Utc { year, month, day, hour, minute, second }
    }

    #[test]
    fn times_go_both_ways() {
        for (time, seconds) in [
            (utc(1970, 1, 1, 0, 0, 0), 0),
            (utc(2000, 2, 29, 23, 59, 59), 951_868_799),
            (utc(2026, 11, 23, 12, 0, 0), 1_795_435_200),
            (utc(2100, 3, 1, 0, 0, 0), 4_107_542_400),
            (utc(9999, 12, 31, 23, 59, 59), 253_402_300_799),
        ] {
            assert_eq!(time.seconds(), Some(seconds));
            assert_eq!(Utc::from_seconds(seconds), time);
        }
        // Each day of 400 years follows the one before.
        for day in 0..146_097 {
            let seconds = day * 86_400 + 1;
            assert_eq!(Utc::from_seconds(seconds).seconds(), Some(seconds), "day {day}");
        }
    }

    #[test]
    fn times_that_do_not_exist_are_refused() {
        for time in [
            utc(2025, 2, 29, 0, 0, 0),
            utc(2100, 2, 29, 0, 0, 0),
            utc(2025, 4, 31, 0, 0, 0),
            utc(2025, 0, 1, 0, 0, 0),
            utc(2025, 13, 1, 0, 0, 0),
            utc(2025, 1, 0, 0, 0, 0),
            utc(2025, 1, 1, 24, 0, 0),
            utc(2025, 1, 1, 0, 60, 0),
            utc(2025, 1, 1, 0, 0, 60),
        ] {
            assert_eq!(time.seconds(), None, "{time:?}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! A limit on how often something may happen: a burst, then a rate.

use std::time::Instant;

/// A token bucket: so many at once, and so many per second after that.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    burst: f64,
    a_second: f64,
    left: f64,
    then: Instant,
}

impl Rate {
    /// A full bucket.
    #[must_use]
    pub fn new(burst: u32, a_second: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        Self { burst, a_second: f64::from(a_second), left: burst, then: now }
    }

    /// Whether one more is within the limit; takes a token if so.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let within = self.left >= 1.0;
        if within {
            self.left -= 1.0;
        }
        within
    }

    /// Whether it is full, as a new one.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= self.burst
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.then).as_secs_f64();
        self.then = self.then.max(now);
        self.left = (self.left + passed * self.a_second).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_a_rate() {
        let now = Instant::now();
        let mut rate = Rate::new(5, 10, now);
        assert!(rate.is_full(now));
        assert_eq!((0..100).filter(|_| rate.take(now)).count(), 5);
        let later = now + Duration::from_millis(250);
        assert!(!rate.is_full(later));
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 2);
        let much_later = later + Duration::from_secs(100);
        assert_eq!((0..100).filter(|_| rate.take(much_later)).count(), 5);
        // A clock that goes back gives nothing, then or when it is right again.
        assert!(!rate.take(now) && !rate.take(much_later));
    }
}

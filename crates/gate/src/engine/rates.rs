// SPDX-License-Identifier: Apache-2.0
//! How often each VM may ask: guests through their channels, and checkpoints of VMs with persistent state.
//! cvmm keeps to lower rates by itself; these hold for VMMs that do not.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use cvmm_gate_protocol::rate::Rate;

/// Entries above which those are forgotten that a new entry would equal.
const MAX_IDLE: usize = 1024;
/// What may happen at once, in seconds' worth of the rate.
const BURST_S: u32 = 10;

/// One rate per VM.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<String, Rate>>);

impl Rates {
    /// Whether `vm` is within `per_s`, once more.
    pub(super) fn take(&self, vm: &str, per_s: u32, now: Instant) -> bool {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = rates.get_mut(vm) {
            return rate.take(now);
        }
        if rates.len() >= MAX_IDLE {
            rates.retain(|_, rate| !rate.is_full(now));
        }
        let rate = Rate::new(per_s.saturating_mul(BURST_S), per_s, now);
        rates.entry(vm.to_owned()).or_insert(rate).take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_vm_has_a_rate_and_idle_ones_take_no_memory() {
        let (rates, now) = (Rates::default(), Instant::now());
        let taken = |vm: &str, now| (0..100).filter(|_| rates.take(vm, 2, now)).count();
        assert_eq!(taken("a", now), 20);
        assert_eq!(taken("b", now), 20);
        assert_eq!(taken("a", now + Duration::from_secs(3)), 6);
        let later = now + Duration::from_secs(60);
        for number in 0..10_000 {
            assert!(rates.take(&number.to_string(), 2, later + Duration::from_secs(number)));
        }
        assert!(rates.0.lock().unwrap().len() <= MAX_IDLE + 1);
    }
}

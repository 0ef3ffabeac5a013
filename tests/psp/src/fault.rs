// SPDX-License-Identifier: Apache-2.0
//! Faults by configuration: the nth call of a command fails with a chosen status, or dawdles.
//!
//! The error paths of a kernel and of a VMM are hard to reach with a security processor that works.

use crate::config::Fault;
use crate::status::Status;

/// Configured faults and how often each has met its command.
#[derive(Debug)]
pub(crate) struct Faults(Vec<(Fault, u32)>);

/// What applies to one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) status: Option<Status>,
    pub(crate) delay_ms: u32,
}

impl Faults {
    pub(crate) fn new(faults: &[Fault]) -> Self {
        Self(faults.iter().map(|fault| (*fault, 0)).collect())
    }

    /// Count a call. The first matching fault decides the status, the longest delay counts.
    pub(crate) fn hit(&mut self, id: u32) -> Hit {
        let mut hit = Hit::default();
        for (fault, calls) in self.0.iter_mut().filter(|(fault, _)| fault.command == id) {
            *calls = calls.saturating_add(1);
            if *calls == fault.nth || fault.repeat && *calls > fault.nth {
                hit.status = hit.status.or(fault.status.map(Status));
                hit.delay_ms = hit.delay_ms.max(fault.delay_ms);
            }
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_and_with_repeat_all_later_ones() {
        let fault = Fault { command: 7, status: Some(0x17), nth: 2, repeat: false, delay_ms: 5 };
        let hit = Hit { status: Some(Status::RESOURCE_LIMIT), delay_ms: 5 };
        let mut once = Faults::new(&[fault]);
        let calls: Vec<Hit> = [7, 8, 7, 7].iter().map(|&id| once.hit(id)).collect();
        assert_eq!(calls, [Hit::default(), Hit::default(), hit, Hit::default()]);
        let mut ever = Faults::new(&[Fault { repeat: true, ..fault }]);
        let calls: Vec<Hit> = [7, 7, 7].iter().map(|&id| ever.hit(id)).collect();
        assert_eq!(calls, [Hit::default(), hit, hit]);
    }
}

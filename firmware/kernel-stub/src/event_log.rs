// SPDX-License-Identifier: Apache-2.0
//! Lengths of events in a TPM event log (TCG PC Client Platform Firmware Profile, 10.2), which the kernel
//! needs because firmware gives it a log without a length.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Most digests of an event: hash algorithms of a TPM.
const DIGESTS_MAX: u32 = 16;
/// Bytes of the first event before its content: PCR, type, SHA-1 digest, length.
const FIRST_HEADER: usize = 32;
/// Offset of the list of algorithms in the first event's content.
const ALGORITHMS: usize = 24;

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Algorithm {
    id: U16,
    len: U16,
}

/// The hash algorithms of a log and their lengths, from its first event.
#[derive(Clone, Copy)]
pub struct Algorithms<'a>(&'a [Algorithm]);

impl core::fmt::Debug for Algorithms<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} algorithms", self.0.len())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    U32::ref_from_prefix(bytes.get(at..)?).ok().map(|(number, _)| number.get())
}

impl<'a> Algorithms<'a> {
    /// The algorithms of the log that `log` begins with, and the length of its first event.
    #[must_use]
    pub fn read(log: &'a [u8]) -> Option<(Self, usize)> {
        let len = u32_at(log, FIRST_HEADER - 4)? as usize;
        let content = log.get(FIRST_HEADER..FIRST_HEADER.checked_add(len)?)?;
        if content.get(..16)? != b"Spec ID Event03\0" {
            return None;
        }
        let count = u32_at(content, ALGORITHMS)?;
        if count > DIGESTS_MAX {
            return None;
        }
        let list = <[Algorithm]>::ref_from_prefix_with_elems(content.get(ALGORITHMS + 4..)?, count as usize);
        Some((Self(list.ok()?.0), FIRST_HEADER + len))
    }

    /// The length of the event that `event` begins with; not that of a log's first event.
    #[must_use]
    pub fn event_len(self, event: &[u8]) -> Option<usize> {
        let count = u32_at(event, 8)?;
        if count > DIGESTS_MAX {
            return None;
        }
        let mut at = 12_usize;
        for _ in 0..count {
            let (id, _) = U16::ref_from_prefix(event.get(at..)?).ok()?;
            let digest = self.0.iter().find(|algorithm| algorithm.id == *id)?.len.get();
            at += 2 + usize::from(digest);
        }
        let content = u32_at(event, at)? as usize;
        at.checked_add(4)?.checked_add(content)
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn first() -> Vec<u8> {
        let mut event = vec![0; 28];
        let mut content = b"Spec ID Event03\0".to_vec();
        content.extend([0, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0, 4, 0, 20, 0, 11, 0, 32, 0, 0]);
        event.extend((content.len() as u32).to_le_bytes());
        event.extend(content);
        event
    }

    #[test]
    fn an_events_length_follows_from_the_first_event() {
        let first = first();
        let (algorithms, len) = Algorithms::read(&first).unwrap();
        assert_eq!(len, first.len());
        let mut event = vec![11, 0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0];
        event.extend([4, 0]);
        event.extend([0; 20]);
        event.extend([11, 0]);
        event.extend([0; 32]);
        event.extend([5, 0, 0, 0]);
        assert_eq!(algorithms.event_len(&event), Some(event.len() + 5));
        for cut in 0..event.len() {
            assert_eq!(algorithms.event_len(&event[..cut]), None);
        }
        // An algorithm that the log does not have.
        event[12] = 12;
        assert_eq!(algorithms.event_len(&event), None);
        event[8] = 200;
        assert_eq!(algorithms.event_len(&event), None);
    }

    #[test]
    fn a_first_event_that_is_damaged_is_refused() {
        let first = first();
        for cut in 0..first.len() - 1 {
            assert!(Algorithms::read(&first[..cut]).is_none(), "{cut}");
        }
        for (at, value) in [(32, b'X'), (56, 200), (31, 0xff)] {
            let mut first = first.clone();
            first[at] = value;
            assert!(Algorithms::read(&first).is_none(), "{at}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Entropy device (virtio 1.2, 5.4): one queue of buffers to fill with random bytes.
//!
//! Bytes come from the host kernel's generator (getrandom(2)), which does not run dry, so nothing is rationed.
//! What is bounded is the work per turn: at most [`MAX_BYTES`] of a chain are filled (the used length says how
//! many), and at most one queue's worth of chains per kick. A confidential guest must not rely on this device
//! alone: the host knows every byte.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::queue::{Chain, QueueError, Segment, VirtQueue, write_segments};
use super::worker::{Handler, Sources, Stop, Worker, drain_event};
use super::{ActivateError, Activation, VirtioDevice};
use crate::memory::DeviceMemory;

/// Most bytes given for one chain. Drivers ask for a cache line to a page.
pub const MAX_BYTES: u32 = 64 * 1024;
/// Descriptors of the queue; Linux uses one at a time.
const QUEUE_SIZE: u16 = 64;
/// Device ID.
const ID: u32 = 4;
/// Bytes drawn at once.
const PIECE: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker>,
}

impl Rng {
    /// A device that is not running yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let active = queues.into_iter().next().ok_or(ActivateError::QueueNotReady(0))?;
        let handler = RngHandler {
            queue: VirtQueue::new(active, memory, interrupt),
            chain: Chain::default(),
            bytes: vec![0; PIECE],
        };
        let worker = Worker::spawn("virtio-rng", Stop::new(), handler)
            .map_err(|source| ActivateError::Host { what: "entropy worker", source })?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

struct RngHandler {
    queue: VirtQueue,
    chain: Chain,
    bytes: Vec<u8>,
}

impl Handler for RngHandler {
    fn sources(&self) -> Vec<(RawFd, u32)> {
        vec![(self.queue.kick().as_raw_fd(), 0)]
    }

    fn handle(&mut self, _token: u32, _sources: &mut Sources<'_, '_>) {
        drain_event(self.queue.kick());
        let bytes = &mut self.bytes;
        self.queue.serve(&mut self.chain, |memory, chain| {
            if !chain.readable.is_empty() {
                let what = "an entropy buffer must be writable";
                return Err(QueueError::Protocol { head: chain.head, what });
            }
            fill(memory, &chain.writable, bytes).map(Some)
        });
    }
}

/// Fills up to [`MAX_BYTES`] of `segments` by way of `piece`; returns how many.
fn fill(memory: &DeviceMemory, segments: &[Segment], piece: &mut [u8]) -> Result<u32, QueueError> {
    let mut left = MAX_BYTES;
    for segment in segments {
        let mut segment = *segment;
        while segment.len > 0 && left > 0 {
            let now = segment.len.min(left).min(piece.len() as u32);
            let bytes = &mut piece[..now as usize];
            random(bytes)?;
            write_segments(memory, &[Segment { addr: segment.addr, len: now }], bytes)?;
            // The write has shown that `now` bytes exist at `addr`, so the sum is an address.
            segment.addr.0 = segment.addr.0.wrapping_add(now.into());
            segment.len -= now;
            left -= now;
        }
    }
    Ok(MAX_BYTES - left)
}

/// Fills `bytes` from the kernel's generator.
fn random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match getrandom(&mut *bytes, GetRandomFlags::empty()) {
            Ok(count) => bytes = bytes.get_mut(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::virtio::testing::{BUFFERS, RAM_LEN, Ring, activate, memory, wait_for};

    #[test]
    fn fills_buffers_with_different_bytes_up_to_the_bound() {
        let memory = memory();
        let mut ring = Ring::new(&memory, 0, 64);
        let mut rng = Rng::new();
        let signals = activate(&mut rng, &[&ring], 0);
        ring.add(&[(BUFFERS, 1000, true), (BUFFERS + 0x1000, 24, true)]);
        ring.add(&[(BUFFERS + 0x2000, 2 * MAX_BYTES, true)]);
        ring.kick();
        assert_eq!(ring.wait(), (0, 1024));
        assert_eq!(ring.wait(), (2, MAX_BYTES));
        let read = |at, len: usize| {
            let mut bytes = vec![0; len];
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        // 1000 random bytes contain nearly all values; so few of them have probability 2^-1000.
        let first = read(BUFFERS, 1000);
        let values = first.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(values > 200, "{values} different values");
        assert_ne!(first[..24], read(BUFFERS + 0x1000, 24));
        assert_eq!(read(BUFFERS + 1000, 100), [0; 100], "behind the buffer");
        let bound = u64::from(MAX_BYTES);
        assert_ne!(read(BUFFERS + 0x2000 + bound - 32, 32), [0; 32]);
        assert_eq!(read(BUFFERS + 0x2000 + bound, 64), [0; 64], "behind the bound");
        assert!(!signals.reset_asked());
    }

    #[test]
    fn readable_or_unreachable_buffers_break_the_queue() {
        for buffer in [(BUFFERS, 64, false), (RAM_LEN, 64, true), (RAM_LEN - 32, 64, true)] {
            let mut ring = Ring::new(&memory(), 0, 64);
            let mut rng = Rng::new();
            let signals = activate(&mut rng, &[&ring], 0);
            ring.add(&[buffer]);
            ring.kick();
            assert!(wait_for(|| signals.reset_asked()), "{buffer:x?}");
            assert_eq!(ring.poll(), None);
            rng.reset();
        }
    }
}

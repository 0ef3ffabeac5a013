// SPDX-License-Identifier: Apache-2.0
//! Fills the guest's buffers.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::metrics::RngMetrics;
use crate::memory::Reach;
use crate::virtio::queue::{Chain, QueueError, Segment, VirtQueue, write_segments};
use crate::virtio::worker::{Handler, Source, Sources};

/// Most bytes given for one chain. Drivers ask for a cache line to a page.
pub(super) const MAX_BYTES: u32 = 64 * 1024;
/// Bytes drawn at once.
const CHUNK: usize = 4096;

/// The worker.
#[derive(Debug)]
pub(super) struct RngHandler {
    queue: VirtQueue,
    chain: Chain,
    bytes: Vec<u8>,
    metrics: Arc<RngMetrics>,
}

impl RngHandler {
    pub(super) fn new(queue: VirtQueue, metrics: Arc<RngMetrics>) -> Self {
        Self { queue, chain: Chain::default(), bytes: vec![0; CHUNK], metrics }
    }
}

impl Handler for RngHandler {
    fn sources(&self) -> Vec<Source> {
        vec![Source::edges(self.queue.kick(), 0)]
    }

    fn handle(&mut self, _token: u32, _sources: &mut Sources<'_, '_>) {
        self.queue.take_kick();
        let Self { queue, chain, bytes, metrics } = self;
        queue.serve(chain, |memory, chain| match serve(memory, chain, bytes) {
            Ok(count) => {
                metrics.requests.add_unshared(1);
                metrics.bytes.add_unshared(count.into());
                Ok(Some(count))
            }
            Err(error) => {
                metrics.errors.add_unshared(1);
                Err(error)
            }
        });
    }
}

fn serve(memory: &mut Reach, chain: &Chain, chunk: &mut [u8]) -> Result<u32, QueueError> {
    if !chain.readable.is_empty() {
        let what = "an entropy buffer must be writable";
        return Err(QueueError::Protocol { head: chain.head, what });
    }
    fill(memory, &chain.writable, chunk)
}

/// Fills up to [`MAX_BYTES`] of `segments` by way of `chunk`; returns how many.
fn fill(memory: &mut Reach, segments: &[Segment], chunk: &mut [u8]) -> Result<u32, QueueError> {
    let mut left = MAX_BYTES;
    for segment in segments {
        let mut segment = *segment;
        while segment.len > 0 && left > 0 {
            let now = segment.len.min(left).min(chunk.len() as u32);
            let bytes = &mut chunk[..now as usize];
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
fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

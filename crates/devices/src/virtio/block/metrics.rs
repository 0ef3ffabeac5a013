// SPDX-License-Identifier: Apache-2.0
//! What a disk has done.

use std::sync::Arc;

use cvmm_disk_image::Disk;
use cvmm_metrics::{Inspect, View, counters};

use super::engine::EngineKind;

counters! {
    /// Of one queue of a disk. Its worker is the only one that adds. Requests are counted when they are
    /// answered.
    pub struct BlockQueueMetrics {
        /// Reads.
        reads,
        /// Writes.
        writes,
        /// Flushes.
        flushes,
        /// Discards and write-zeroes.
        discards,
        /// Other requests: of the serial, and such as the device does not know.
        others,
        /// Bytes read.
        bytes_read,
        /// Bytes written.
        bytes_written,
        /// Requests that were answered with an error; they are in the counters above as well.
        errors,
    }
}

/// Of a disk.
#[derive(Debug)]
pub(super) struct BlockMetrics {
    disk: Arc<Disk>,
    engine: EngineKind,
    queues: Vec<Arc<BlockQueueMetrics>>,
}

impl BlockMetrics {
    pub(super) fn new(disk: Arc<Disk>, engine: EngineKind, queues: u16) -> Self {
        Self { disk, engine, queues: (0..queues).map(|_| Arc::default()).collect() }
    }

    /// Those of a queue.
    #[must_use]
    pub(super) fn queue(&self, index: u16) -> Option<&Arc<BlockQueueMetrics>> {
        self.queues.get(usize::from(index))
    }
}

impl Inspect for BlockMetrics {
    fn inspect(&self, view: &mut View) {
        view.number("size", self.disk.size());
        view.number("block_size", self.disk.block_size().into());
        view.flag("read_only", self.disk.read_only());
        view.text("cache", format!("{:?}", self.disk.cache()).to_lowercase());
        view.text("engine", format!("{:?}", self.engine).to_lowercase());
        view.flag("flush_failed", self.disk.flush_failed());
        for (index, queue) in self.queues.iter().enumerate() {
            view.part(format!("queue{index}"), &**queue);
        }
    }
}

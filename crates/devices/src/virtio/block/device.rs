// SPDX-License-Identifier: Apache-2.0
//! The device, as the transport sees it.

use std::path::PathBuf;
use std::sync::Arc;

use cvmm_disk_image::{CacheMode, Disk, DiskError, ImageFormat, SECTOR};
use cvmm_metrics::Inspect;
use thiserror::Error;

use super::engine::{Engine, EngineKind};
use super::metrics::BlockMetrics;
use super::spec::{
    F_BLK_SIZE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_TOPOLOGY, F_WRITE_ZEROES, MAX_DISCARD_SECTORS,
    MAX_QUEUES, MAX_ZERO_SECTORS, QUEUE_SIZE, SERIAL_LEN,
};
use super::worker::BlockWorker;
use crate::virtio::queue::VirtQueue;
use crate::virtio::worker::{Stop, Worker, stop_all};
use crate::virtio::{ActivateError, Activation, VirtioDevice};

/// What guests are told to align to.
const PHYSICAL_BLOCK: u32 = 4096;
/// Length of `virtio_blk_config` up to the fields of the features offered.
const CONFIG_LEN: usize = 60;
/// Device ID.
const ID: u32 = 2;

/// A disk as configured.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// Raw image file or block device.
    pub path: PathBuf,
    /// The guest must not write it.
    pub read_only: bool,
    /// What the guest reads as serial: up to 20 printable ASCII characters, may be empty.
    pub serial: String,
    /// Cache mode.
    pub cache: CacheMode,
    /// Whether the content may say that it is not raw.
    pub format: ImageFormat,
    /// Number of request queues, 1 to [`MAX_QUEUES`]; one per vCPU is best.
    pub queues: u16,
}

/// Why there is no device.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The serial does not fit into virtio's 20 bytes.
    #[error("disk {path}: serial `{serial}` has {len} bytes; at most 20 printable ASCII characters are allowed", path = .path.display(), len = .serial.len())]
    Serial {
        /// The disk.
        path: PathBuf,
        /// The serial.
        serial: String,
    },
    /// The number of queues is out of range.
    #[error("disk {path}: {queues} queues; allowed are 1 to {max}", path = .path.display())]
    Queues {
        /// The disk.
        path: PathBuf,
        /// As configured.
        queues: u16,
        /// Limit.
        max: u16,
    },
}

/// The device.
#[derive(Debug)]
pub struct Block {
    disk: Arc<Disk>,
    serial: [u8; SERIAL_LEN],
    kind: EngineKind,
    queue_sizes: Vec<u16>,
    pub(super) workers: Vec<Worker>,
    metrics: Arc<BlockMetrics>,
}

impl Block {
    /// Opens the disk, with io_uring if this kernel has what is needed of it.
    pub fn open(config: BlockConfig) -> Result<Self, BlockError> {
        Self::open_with(config, EngineKind::detect())
    }

    /// Opens the disk for a given engine.
    pub fn open_with(config: BlockConfig, kind: EngineKind) -> Result<Self, BlockError> {
        let BlockConfig { path, read_only, serial, cache, format, queues } = config;
        if !(1..=MAX_QUEUES).contains(&queues) {
            return Err(BlockError::Queues { path, queues, max: MAX_QUEUES });
        }
        let printable = serial.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let mut id = [0; SERIAL_LEN];
        match id.get_mut(..serial.len()) {
            Some(start) if printable => start.copy_from_slice(serial.as_bytes()),
            _ => return Err(BlockError::Serial { path, serial }),
        }
        let disk = Disk::open(&path, read_only, cache, format)?;
        cvmm_log_limit::debug!(path = %path.display(), len = disk.size(), ?cache, engine = ?kind, queues, "disk opened");
        let disk = Arc::new(disk);
        Ok(Self {
            metrics: Arc::new(BlockMetrics::new(disk.clone(), kind, queues)),
            disk,
            serial: id,
            kind,
            queue_sizes: vec![QUEUE_SIZE; queues.into()],
            workers: Vec::new(),
        })
    }

    /// The disk, for checks across disks.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        let block = self.disk.block_size();
        put(0, &(self.disk.size() / SECTOR).to_le_bytes());
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &block.to_le_bytes());
        // Physical block as a power of two of logical blocks; no offset; smallest good I/O is one block.
        put(24, &[(PHYSICAL_BLOCK / block).checked_ilog2().unwrap_or(0) as u8, 0]);
        put(26, &1_u16.to_le_bytes());
        put(34, &(self.queue_sizes.len() as u16).to_le_bytes());
        let alignment = (block.max(PHYSICAL_BLOCK) / SECTOR as u32).to_le_bytes();
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &1_u32.to_le_bytes());
        put(44, &alignment);
        put(48, &MAX_ZERO_SECTORS.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        ID
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let writing = if self.disk.read_only() { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_MQ | writing
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let config = self.config();
        for (byte, value) in data.iter_mut().zip(config.iter().skip(offset as usize)) {
            *byte = *value;
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation { memory, queues, interrupt, features } = activation;
        if queues.is_empty() {
            return Err(ActivateError::QueueNotReady(0));
        }
        for active in queues {
            let name = format!("virtio-blk/{}", active.index);
            let Some(metrics) = self.metrics.queue(active.index).cloned() else { continue };
            let queue = VirtQueue::new(active, memory.clone(), interrupt.clone());
            let started = Engine::new(self.kind, self.disk.clone(), queue.size()).and_then(|engine| {
                let worker =
                    BlockWorker::new(queue, engine, self.disk.clone(), self.serial, features, metrics);
                Worker::spawn(&name, Stop::new(), worker)
            });
            match started {
                Ok(worker) => self.workers.push(worker),
                Err(source) => {
                    stop_all(&mut self.workers);
                    return Err(ActivateError::Host { what: "block queue worker", source });
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        stop_all(&mut self.workers);
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Block device (virtio 1.2, 5.2) on a raw file or a host block device.
//!
//! ```text
//!  driver -> queue -> [request] parse, check -> [op] -> [engine] io_uring or threads -> [disk] host file
//!            (one worker thread per queue)
//! ```
//!
//! Data moves between the file and guest memory without a copy, except for buffers that direct I/O cannot take.
//! Offered: SEG_MAX, BLK_SIZE, TOPOLOGY, FLUSH, MQ, and RO or DISCARD and WRITE_ZEROES. A driver that does not
//! accept FLUSH cannot ask for durability, so each of its writes is made durable (5.2.6.2). In cache mode
//! `unsafe` nothing is ever made durable; a crash of the *host* may then lose or tear anything.

mod bounce;
mod engine;
mod op;
mod request;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

pub use cvmm_disk_image::{CacheMode, DiskError, ImageFormat};
use cvmm_disk_image::{Disk, SECTOR};
use thiserror::Error;

use self::engine::Engine;
pub use self::engine::EngineKind;
use self::worker::BlockWorker;
use super::queue::VirtQueue;
use super::worker::{Stop, Worker, stop_all};
use super::{ActivateError, Activation, VirtioDevice};

/// VIRTIO_BLK_F_SEG_MAX.
pub const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO.
pub const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE.
pub const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH.
pub const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_TOPOLOGY.
pub const F_TOPOLOGY: u64 = 1 << 10;
/// VIRTIO_BLK_F_MQ.
pub const F_MQ: u64 = 1 << 12;
/// VIRTIO_BLK_F_DISCARD.
pub const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Most queues of a disk.
pub const MAX_QUEUES: u16 = 16;
/// Descriptors of a queue.
pub const QUEUE_SIZE: u16 = 256;
/// Longest serial, in bytes (VIRTIO_BLK_ID_BYTES).
pub const SERIAL_LEN: usize = 20;
/// Most bytes of one read or write.
pub const MAX_TRANSFER: u64 = 32 << 20;
/// Most sectors of one discard: 1 GiB. Bounds how long a reset may have to wait.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most sectors of one write-zeroes: 64 MiB, because they may have to be written.
pub const MAX_ZERO_SECTORS: u32 = 1 << 17;
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
    workers: Vec<Worker>,
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
        Ok(Self {
            disk: Arc::new(disk),
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
            let queue = VirtQueue::new(active, memory.clone(), interrupt.clone());
            let started = Engine::new(self.kind, self.disk.clone(), queue.size()).and_then(|engine| {
                let worker = BlockWorker::new(queue, engine, self.disk.clone(), self.serial, features);
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
}

// SPDX-License-Identifier: Apache-2.0
//! Block device (virtio 1.2, 5.2) on a raw file or a host block device.
//!
//! ```text
//!  driver -> queue -> [request] parse, check -> [op] -> [engine] io_uring or threads -> [disk] host file
//!            (one worker thread per queue)
//! ```
//!
//! Data moves between the file and guest memory without a copy, except for buffers that direct I/O cannot
//! take. Offered: SEG_MAX, BLK_SIZE, TOPOLOGY, FLUSH, MQ, and RO or DISCARD and WRITE_ZEROES. A driver that
//! does not accept FLUSH cannot ask for durability, so each of its writes is made durable (5.2.6.2). In cache
//! mode `unsafe` nothing is ever made durable; a crash of the *host* may then lose or tear anything.

mod bounce;
mod device;
mod engine;
mod metrics;
mod op;
mod request;
mod spec;
#[cfg(test)]
mod tests;
mod worker;

pub use cvmm_disk_image::{CacheMode, DiskError, ImageFormat};

pub use self::device::{Block, BlockConfig, BlockError};
pub use self::engine::EngineKind;
pub use self::spec::{F_DISCARD, F_FLUSH, F_WRITE_ZEROES, MAX_QUEUES, SERIAL_LEN};

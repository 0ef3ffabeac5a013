// SPDX-License-Identifier: Apache-2.0
//! Feature bits (virtio 1.2, 5.2.3) and the limits of the device.

/// VIRTIO_BLK_F_SEG_MAX.
pub(super) const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO.
pub(super) const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE.
pub(super) const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH.
pub const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_TOPOLOGY.
pub(super) const F_TOPOLOGY: u64 = 1 << 10;
/// VIRTIO_BLK_F_MQ.
pub(super) const F_MQ: u64 = 1 << 12;
/// VIRTIO_BLK_F_DISCARD.
pub const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES.
pub const F_WRITE_ZEROES: u64 = 1 << 14;

/// Most queues of a disk.
pub const MAX_QUEUES: u16 = 16;
/// Descriptors of a queue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// Longest serial, in bytes (VIRTIO_BLK_ID_BYTES).
pub const SERIAL_LEN: usize = 20;
/// Most bytes of one read or write.
pub(super) const MAX_TRANSFER: u64 = 32 << 20;
/// Most sectors of one discard: 1 GiB. Bounds how long a reset may have to wait.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Most sectors of one write-zeroes: 64 MiB, because they may have to be written.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 17;

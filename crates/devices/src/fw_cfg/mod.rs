// SPDX-License-Identifier: Apache-2.0
//! fw_cfg: how firmware learns what the machine is made of (QEMU, docs/specs/fw_cfg.rst).
//!
//! The device is a set of numbered *items* of bytes. Software writes an item's key to the selector (0x510)
//! and reads it byte by byte from the data register (0x511), or hands the guest physical address of a
//! descriptor to the DMA register (0x514, big-endian, the write of the low half at 0x518 starts it) and gets
//! the bytes copied. Item 0x19 is a directory of named files with keys from 0x20 on. All items are read-only.
//!
//! [`FwCfgBuilder`] collects the items, [`FwCfg`] is the device. An item's bytes come from a [`Content`], so
//! a kernel stays in its file until firmware reads it. Firmware reads the directory entry by entry and
//! fetches what it finds: every needless file costs a boot a dozen exits.

mod builder;
mod content;
mod device;
mod dma;
mod metrics;

pub use builder::{FwCfgBuilder, FwCfgError};
pub use content::Content;
pub use device::{FwCfg, PADDING_LIMIT};

/// First port.
pub const BASE: u64 = 0x510;
/// Number of ports, with a hole at 0x512-0x513.
pub const LEN: u64 = 12;

/// Item keys (QEMU, include/standard-headers/linux/qemu_fw_cfg.h).
pub mod key {
    /// The bytes `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// Feature bits, u32.
    pub const ID: u16 = 0x01;
    /// Number of vCPUs present at start, u16.
    pub(crate) const CPU_COUNT: u16 = 0x05;
    /// Size of the kernel without its set-up part, u32.
    pub(crate) const KERNEL_SIZE: u16 = 0x08;
    /// Size of the initial RAM disk, u32.
    pub(crate) const INITRD_SIZE: u16 = 0x0b;
    /// Whether to wait for a boot menu, u16.
    pub(crate) const BOOT_MENU: u16 = 0x0e;
    /// The kernel without its set-up part.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub(crate) const INITRD_DATA: u16 = 0x12;
    /// Size of the command line with its NUL, u32.
    pub(crate) const CMDLINE_SIZE: u16 = 0x14;
    /// The command line, ending in NUL.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Size of the kernel's set-up part, u32.
    pub(crate) const SETUP_SIZE: u16 = 0x17;
    /// The kernel's set-up part.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory.
    pub(crate) const DIRECTORY: u16 = 0x19;
    /// Key of the first file.
    pub const FIRST_FILE: u16 = 0x20;
    /// Keys have 14 bits: bit 14 was a write channel once, bit 15 selects architecture-specific items.
    pub(crate) const LAST: u16 = 0x3fff;
}

#[cfg(test)]
mod tests;

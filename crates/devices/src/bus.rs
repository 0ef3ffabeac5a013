// SPDX-License-Identifier: Apache-2.0
//! A bus: which device answers at which address.
//!
//! One [`Bus`] serves ports, another MMIO. It is filled while the machine is built and then shared, read-only,
//! by all vCPU threads; each device has its own lock, so two vCPUs contend only when they touch the same one.
//! Addresses nobody claims read as all ones and swallow writes, as on a PC.

/// A device reached by port or MMIO accesses.
///
/// `offset` counts from the start of the range the device was added with. `data` holds 1, 2, 4 or 8 bytes,
/// little-endian. An access never crosses the end of the range. Implementations must accept any combination.
pub trait BusDevice: Send {
    /// Fills `data`; bytes the device does not implement must be set to all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`; writes the device does not implement are dropped.
    fn write(&mut self, offset: u64, data: &[u8]);
}

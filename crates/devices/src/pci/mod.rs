// SPDX-License-Identifier: Apache-2.0
//! PCI: one root bus, its configuration mechanisms, and what a function on it looks like.

pub mod config_space;

/// A PCI function (PCI 3.0, chapter 6). Offsets are in bytes; `data` is 1, 2 or 4 bytes (8 for BARs).
pub trait PciFunction: Send {
    /// Reads configuration space (256 bytes). An access never crosses a dword.
    fn config_read(&mut self, offset: u8, data: &mut [u8]);
    /// Writes configuration space.
    fn config_write(&mut self, offset: u8, data: &[u8]);
    /// The memory range that the function's only BAR decodes now: `(base, length)`; `None` while memory
    /// decoding is off or the BAR is being sized. Asked after every configuration write.
    fn decoded(&self) -> Option<(u64, u64)>;
    /// Reads inside that range.
    fn bar_read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes inside that range.
    fn bar_write(&mut self, offset: u64, data: &[u8]);
}

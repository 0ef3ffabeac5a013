// SPDX-License-Identifier: Apache-2.0
//! PCI: one root bus, its configuration mechanisms, and what a function on it looks like.
//!
//! [`PciRoot`] holds the functions of bus 0 and finds the one that an access is for. Guests reach
//! configuration space in two ways, [`ConfigPorts`] (0xcf8/0xcfc) and [`Ecam`] (a memory window), and a
//! function may be shown on one of them only ([`Visibility`]). Firmware enumerates by ECAM, Linux without an
//! MCFG table by ports, so a device that firmware has no use for costs it nothing when it hides from ECAM.
//!
//! Memory accesses to BARs go to [`PciRoot::bar_read`] and [`PciRoot::bar_write`] after the MMIO bus found no
//! fixed device: where a guest moves its BARs it can hide other BARs of its own, nothing else.

pub(crate) mod config_space;
mod ecam;
mod host_bridge;
mod lpc;
mod metrics;
mod ports;
mod root;

pub use ecam::{Ecam, EcamWindow};
pub use host_bridge::HostBridge;
pub use lpc::LpcBridge;
pub use ports::ConfigPorts;
pub use root::{PciError, PciRoot, Visibility, Window};

use std::sync::Arc;

use cvmm_metrics::Inspect;

/// A PCI function (PCI 3.0, chapter 6). Offsets are in bytes; `data` is 1, 2 or 4 bytes (8 for BARs).
pub trait PciFunction: Send {
    /// Reads configuration space (256 bytes). An access never crosses a dword.
    fn config_read(&mut self, offset: u8, data: &mut [u8]);
    /// Writes configuration space.
    fn config_write(&mut self, offset: u8, data: &[u8]);
    /// The memory range that the function's only BAR decodes now: `(base, length)`; `None` while memory
    /// decoding is off or the BAR is being sized, and for a function without BAR. Asked after every
    /// configuration write.
    fn decoded(&self) -> Option<(u64, u64)> {
        None
    }
    /// Reads inside that range.
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        let _ = offset;
        data.fill(0xff);
    }
    /// Writes inside that range.
    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }
    /// What the function has done, beyond the accesses, which the bus counts.
    fn metrics(&self) -> Arc<dyn Inspect>;
}

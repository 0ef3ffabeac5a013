// SPDX-License-Identifier: Apache-2.0
//! The enhanced configuration access mechanism (PCI Express 3.0, 7.2.2): configuration space as memory.
//!
//! Address bits 27:20 are the bus, 19:15 the device, 14:12 the function, 11:0 the byte. The window's place is
//! fixed, as the Q35 register that could move it (PCIEXBAR) is scratch. Bus 0 is the first MiB; everything else,
//! and every byte from 0x100 on, is absent.

use std::sync::Arc;

use super::root::{ConfigAddress, Mechanism, PciRoot};
use crate::bus::BusDevice;

/// The memory window of a [`PciRoot`].
#[derive(Debug)]
pub struct Ecam {
    root: Arc<PciRoot>,
}

impl Ecam {
    /// Bytes of the window: 256 buses of 1 MiB.
    pub const LEN: u64 = 256 << 20;

    /// Serves `root`.
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self { root }
    }

    /// The conversions truncate on purpose: each field is masked to its width.
    fn address(offset: u64) -> ConfigAddress {
        ConfigAddress {
            // An offset past the window can only be the machine's mistake; it must not wrap to bus 0.
            bus: u8::try_from(offset >> 20).unwrap_or(u8::MAX),
            device: (offset >> 15) as u8 & 0x1f,
            function: (offset >> 12) as u8 & 0x7,
            offset: offset as u16 & 0xfff,
        }
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.root.config_read(Mechanism::Ecam, Self::address(offset), data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.root.config_write(Mechanism::Ecam, Self::address(offset), data);
    }
}

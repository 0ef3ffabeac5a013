// SPDX-License-Identifier: Apache-2.0
//! Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2): ports 0xcf8-0xcff.
//!
//! A *dword* access to 0xcf8 is CONFIG_ADDRESS; 0xcfc-0xcff are the four byte lanes of CONFIG_DATA, which
//! byte, word and dword accesses may use. Other accesses to 0xcf8-0xcfb are not for the configuration
//! mechanism and pass through to what lies behind: on a PC that is the reset control register, one byte at
//! 0xcf9, which is therefore handed in here and not put on the bus beside it.
//!
//! AMD processors define address bits 27:24 as register bits 11:8, and Linux uses them when it runs on one.
//! There is no extended space here, so an address with any of the bits 30:24 set selects nothing.

use std::sync::Arc;

use cvmm_metrics::{Inspect, View};

use super::root::{ConfigAddress, Mechanism, PciRoot};
use crate::bus::BusDevice;

/// Offset of the reset control register from 0xcf8.
const RESET_OFFSET: u64 = 1;
/// Offset of CONFIG_DATA from 0xcf8.
const DATA_OFFSET: u64 = 4;
/// CONFIG_ADDRESS bit 31: accesses to CONFIG_DATA are configuration accesses.
const ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS bits 30:24, which no function here answers to.
const RESERVED: u32 = 0x7f << 24;

/// What the device behind the ports has done.
struct PortsMetrics {
    reset: Arc<dyn Inspect>,
}

impl Inspect for PortsMetrics {
    fn inspect(&self, view: &mut View) {
        view.part("reset", &*self.reset);
    }
}

/// Ports 0xcf8-0xcff.
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    reset: Box<dyn BusDevice>,
    address: u32,
}

impl std::fmt::Debug for ConfigPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigPorts")
            .field("address", &format_args!("{:#x}", self.address))
            .finish_non_exhaustive()
    }
}

impl ConfigPorts {
    /// First port.
    pub const BASE: u64 = 0xcf8;
    /// Number of ports.
    pub const LEN: u64 = 8;

    /// Serves `root`; byte accesses to 0xcf9 go to `reset` at its offset 0.
    pub fn new(root: Arc<PciRoot>, reset: Box<dyn BusDevice>) -> Self {
        Self { root, reset, address: 0 }
    }

    /// What an access to byte lane `lane` of CONFIG_DATA names.
    fn target(&self, lane: u64) -> Option<ConfigAddress> {
        if self.address & ENABLE == 0 || self.address & RESERVED != 0 {
            return None;
        }
        let [register, devfn, bus, _] = self.address.to_le_bytes();
        let lane = u16::try_from(lane).ok()?;
        Some(ConfigAddress {
            bus,
            device: devfn >> 3,
            function: devfn & 0x7,
            offset: u16::from(register & 0xfc) + lane,
        })
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (RESET_OFFSET, 1) => self.reset.read(0, data),
            (DATA_OFFSET.., _) => {
                if let Some(target) = self.target(offset - DATA_OFFSET) {
                    self.root.config_read(Mechanism::Ports, target, data);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            // Bits 1:0 are read-only zeros.
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a & 0xfc, b, c, d]),
            (RESET_OFFSET, [_]) => self.reset.write(0, data),
            (DATA_OFFSET.., _) => {
                if let Some(target) = self.target(offset - DATA_OFFSET) {
                    self.root.config_write(Mechanism::Ports, target, data);
                }
            }
            _ => {}
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        Arc::new(PortsMetrics { reset: self.reset.metrics() })
    }
}

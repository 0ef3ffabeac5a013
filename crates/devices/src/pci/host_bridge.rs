// SPDX-License-Identifier: Apache-2.0
//! 00:00.0, the Q35 memory controller hub as far as software looks at it.
//!
//! Firmware recognises the machine by the device ID (8086:29c0) and programs PCIEXBAR at 0x60-0x67 (Intel 3
//! Series datasheet, 5.1.20) with the ECAM window's place. The window does not move here, so the register only
//! has to remember what was written.

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};

/// PCIEXBAR, 8 bytes.
const PCIEXBAR: u8 = 0x60;

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
}

impl HostBridge {
    /// In its reset state.
    pub fn new() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x29c0,
            class: 0x06_00_00,
            ..Identity::default()
        });
        config.allow(PCIEXBAR, &[0xff; 8]);
        Self { config }
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
    }
}

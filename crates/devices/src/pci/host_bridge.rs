// SPDX-License-Identifier: Apache-2.0
//! 00:00.0, the Q35 memory controller hub as far as software looks at it.
//!
//! Firmware recognises the machine by the device ID (8086:29c0) and programs PCIEXBAR at 0x60-0x67 (Intel 3
//! Series datasheet, 5.1.20) with the place of the ECAM window, which follows.

use std::sync::Arc;

use cvmm_metrics::Inspect;

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};
use super::ecam::EcamWindow;

/// PCIEXBAR, 8 bytes.
const PCIEXBAR: u8 = 0x60;

/// The host bridge.
#[derive(Debug)]
pub struct HostBridge {
    config: ConfigSpace,
    window: Arc<EcamWindow>,
}

impl HostBridge {
    /// In its reset state, with the register for `window`.
    pub fn new(window: Arc<EcamWindow>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x29c0,
            class: 0x06_00_00,
            ..Identity::default()
        });
        config.allow(PCIEXBAR, &[0xff; 8]);
        config.write(PCIEXBAR, &window.register().to_le_bytes());
        Self { config, window }
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config.write(offset, data);
        if (PCIEXBAR - 7..PCIEXBAR + 8).contains(&offset) {
            let mut register = [0; 8];
            self.config.read(PCIEXBAR, &mut register);
            self.window.program(u64::from_le_bytes(register));
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.window.clone()
    }
}

// SPDX-License-Identifier: Apache-2.0
//! 00:1f.0, the ICH9 LPC bridge as far as firmware looks at it.
//!
//! Firmware reads PMBASE (0x40) and ACPI_CNTL (0x44) by number, without asking whether the function exists,
//! and skips its set-up when it finds them programmed; so both are fixed: PM block at 0x600, enabled (Intel
//! ICH9 datasheet, 13.1.13 and 13.1.14). The interrupt routing registers and RCBA only remember what was
//! written.
//!
//! The *header* (0x00-0x3f) is needed only where firmware should find its console on the ISA bus behind the
//! bridge. Hidden, it reads as all ones: enumeration sees an empty slot and a boot saves some 570 accesses.

use std::sync::Arc;

use cvmm_metrics::Inspect;

use super::PciFunction;
use super::config_space::{ConfigSpace, Identity};
use super::metrics::LpcMetrics;

const PMBASE: u8 = 0x40;
const ACPI_CNTL: u8 = 0x44;
/// PIRQ[A-D]_ROUT, SIRQ_CNTL and PIRQ[E-H]_ROUT.
const ROUTING: u8 = 0x60;
const RCBA: u8 = 0xf0;
/// Length of the standard header.
const HEADER: u8 = 0x40;

/// The LPC bridge.
#[derive(Debug)]
pub struct LpcBridge {
    config: ConfigSpace,
    visible: bool,
    metrics: Arc<LpcMetrics>,
}

impl LpcBridge {
    /// `visible`: whether enumeration finds the function.
    pub fn new(visible: bool) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x2918,
            class: 0x06_01_00,
            ..Identity::default()
        });
        // Bit 0 says that the base address is one of I/O space.
        config.set_dword(PMBASE, 0x601);
        config.set_byte(ACPI_CNTL, 0x80);
        config.allow(ROUTING, &[0xff; 12]);
        config.allow(RCBA, &[0xff; 4]);
        Self { config, visible, metrics: Arc::default() }
    }

    /// Whether an access at `offset` finds nothing. Counts it if so.
    fn hides(&self, offset: u8) -> bool {
        let hidden = !self.visible && offset < HEADER;
        if hidden {
            self.metrics.hidden.increment();
        }
        hidden
    }
}

impl PciFunction for LpcBridge {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        if self.hides(offset) {
            data.fill(0xff);
        } else {
            self.config.read(offset, data);
        }
    }

    fn config_write(&mut self, offset: u8, data: &[u8]) {
        if !self.hides(offset) {
            self.config.write(offset, data);
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The TPM's place in the machine: its registers, the writes that KVM collects, and the page of memory beside
//! them.
//!
//! Firmware writes every byte of a command to the device by itself, tens of thousands in one boot. What saves
//! exits:
//!
//! - KVM collects writes to the window ([`CoalescedWrites`]); they are played to the device before any access
//!   that reaches it, so the device sees them in their order and before START;
//! - Linux is pointed to a page of ordinary memory, which it reads and writes without any exit.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cvmm_acpi::TpmRegion;
use cvmm_devices::bus::BusDevice;
use cvmm_devices::memory::DeviceMemory;
use cvmm_devices::tpm::{Counters, Crb, TpmExecutor, crb};
use cvmm_kvm::coalesced::{CAPACITY, CoalescedWrites};
use cvmm_kvm::vcpu::Vcpu;
use cvmm_metrics::Inspect;
use kvm_ioctls::{IoEventAddress, VmFd};

use crate::config::Vtpm;

/// A shared handle to a machine's TPM device.
#[derive(Clone)]
pub struct GuestTpm(Arc<Mutex<Front>>);

/// What the TPM device of one machine or several has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TpmCounts {
    /// Of the device.
    pub device: Counters,
    /// Writes that KVM collected: exits that did not happen.
    pub collected: u64,
}

impl TpmCounts {
    /// Adds another machine's counts.
    pub fn add(&mut self, other: &Self) {
        let Counters { commands, from_page, slow, accesses, bytes_in, bytes_out } = other.device;
        self.device.commands += commands;
        self.device.from_page += from_page;
        self.device.slow += slow;
        self.device.accesses += accesses;
        self.device.bytes_in += bytes_in;
        self.device.bytes_out += bytes_out;
        self.collected += other.collected;
    }

    /// Name and count of each.
    pub fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("tpm.commands", self.device.commands),
            ("tpm.commands_from_page", self.device.from_page),
            ("tpm.commands_slow", self.device.slow),
            ("tpm.bytes_in", self.device.bytes_in),
            ("tpm.bytes_out", self.device.bytes_out),
            ("tpm.writes_collected", self.collected),
        ]
    }
}

struct Front {
    crb: Crb,
    /// What the ACPI tables say.
    len: u64,
    ring: Option<CoalescedWrites>,
    collected: u64,
}

impl fmt::Debug for GuestTpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestTpm")
    }
}

impl GuestTpm {
    /// The device in front of `tpm`, with the page `buffer` if there is one.
    pub fn new(tpm: Box<dyn TpmExecutor>, buffer: Option<DeviceMemory>) -> Self {
        let (mut crb, mut len) = (Crb::new(tpm), crb::LEN);
        if let Some(buffer) = buffer {
            crb = crb.with_page(buffer);
            len += crb::LEN;
        }
        Self(Arc::new(Mutex::new(Front { crb, len, ring: None, collected: 0 })))
    }

    /// For the MMIO bus.
    pub fn device(&self) -> Arc<Mutex<dyn BusDevice>> {
        Arc::clone(&self.0) as _
    }

    /// For the ACPI tables.
    pub fn region(&self) -> TpmRegion {
        // All of it lies below 4 GiB.
        TpmRegion {
            base: crb::BASE as u32,
            len: self.with(|front| front.len) as u32,
            control_area: crb::CONTROL_AREA,
        }
    }

    /// Lets KVM collect writes to the window, if `config` wants it and KVM can.
    pub fn collect_writes(&self, config: &Vtpm, vm: &VmFd, vcpu: &Vcpu) {
        if !config.coalesced_mmio {
            return;
        }
        let zone = IoEventAddress::Mmio(crb::BASE + crb::WINDOW);
        let mapped = vcpu.coalesced_writes().and_then(|ring| {
            vm.register_coalesced_mmio(zone, (crb::LEN - crb::WINDOW) as u32)?;
            Ok(ring)
        });
        match mapped {
            Ok(ring) => self.with(|front| front.ring = Some(ring)),
            // Slower, not wrong.
            Err(error) => {
                cvmm_log_limit::warn!(%error, "kvm does not collect writes to the tpm (vtpm.coalesced_mmio)")
            }
        }
    }

    /// What it has done.
    pub fn counts(&self) -> TpmCounts {
        self.with(|front| TpmCounts { device: front.crb.counters(), collected: front.collected })
    }

    fn with<R>(&self, work: impl FnOnce(&mut Front) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Front {
    /// Plays the collected writes. A ring's worth at most: what the vCPU that is served now has written is
    /// among them, and another one that never stops writing is not waited for.
    fn catch_up(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        for _ in 0..CAPACITY {
            let Some(write) = ring.take() else { return };
            self.collected += 1;
            let data = write.data();
            let end = write.gpa.checked_add(data.len() as u64);
            if write.gpa >= crb::BASE + crb::WINDOW && end.is_some_and(|end| end <= crb::BASE + crb::LEN) {
                self.crb.write(write.gpa - crb::BASE, data);
            }
        }
    }
}

impl BusDevice for Front {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.catch_up();
        self.crb.read(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.catch_up();
        self.crb.write(offset, data);
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.crb.metrics()
    }
}

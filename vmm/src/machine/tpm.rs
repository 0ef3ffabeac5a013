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
use cvmm_devices::tpm::{Crb, CrbMetrics, TpmExecutor, crb};
use cvmm_kvm::coalesced::{CAPACITY, CoalescedWrites};
use cvmm_kvm::vcpu::Vcpu;
use cvmm_metrics::{Counter, Inspect, View};
use kvm_ioctls::{IoEventAddress, VmFd};

use crate::config::Vtpm;

/// A shared handle to a machine's TPM device.
#[derive(Clone)]
pub struct GuestTpm(Arc<Mutex<Front>>);

/// What the TPM devices of the machines of a VM have done, for the report at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TpmCounts([u64; 6]);

impl TpmCounts {
    /// Their names in the report.
    const NAMES: [&str; 6] = [
        "tpm.commands",
        "tpm.commands_from_page",
        "tpm.commands_slow",
        "tpm.bytes_in",
        "tpm.bytes_out",
        "tpm.writes_collected",
    ];

    /// Adds another machine's counts.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(total, count)| *total += count);
    }

    /// Name and count of each.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::NAMES.into_iter().zip(self.0)
    }
}

/// What the device and the ring in front of it have done.
#[derive(Debug)]
struct TpmMetrics {
    crb: Arc<CrbMetrics>,
    /// Writes that KVM collected: exits that did not happen.
    writes_collected: Counter,
}

impl Inspect for TpmMetrics {
    fn inspect(&self, view: &mut View) {
        self.crb.inspect(view);
        view.counter("writes_collected", self.writes_collected.get());
    }
}

struct Front {
    crb: Crb,
    /// What the ACPI tables say.
    len: u64,
    ring: Option<CoalescedWrites>,
    metrics: Arc<TpmMetrics>,
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
        let metrics = TpmMetrics { crb: Arc::clone(crb.counters()), writes_collected: Counter::default() };
        Self(Arc::new(Mutex::new(Front { crb, len, ring: None, metrics: Arc::new(metrics) })))
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
        let TpmMetrics { crb, writes_collected } = &*self.with(|front| Arc::clone(&front.metrics));
        let CrbMetrics { commands, from_page, slow, accesses: _, bytes_in, bytes_out, errors: _ } = &**crb;
        TpmCounts([commands, from_page, slow, bytes_in, bytes_out, writes_collected].map(Counter::get))
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
            self.metrics.writes_collected.increment();
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
        self.metrics.clone()
    }
}

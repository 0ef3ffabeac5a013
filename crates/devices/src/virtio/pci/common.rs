// SPDX-License-Identifier: Apache-2.0
//! The common configuration structure (virtio 1.2, 4.1.4.3) and the device status machine (2.1, 3.1.1).
//!
//! Status bits are only ever added, in order: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK. A write that would
//! clear a bit or skip a step is dropped; writing 0 resets. FEATURES_OK sticks only if the driver took
//! nothing that was not offered and did take VERSION_1 and ACCESS_PLATFORM: without the latter a confidential
//! guest would hand out addresses of private memory. Features are frozen by FEATURES_OK, a queue by its
//! enable bit.
//!
//! Fields are written with their natural width (64-bit ones also by halves); other writes are dropped.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::interrupt::Interrupt;
use super::layout::COMMON_LEN;
use crate::memory::DeviceMemory;

/// VIRTIO_F_INDIRECT_DESC.
pub(super) const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub(super) const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub(super) const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM.
pub(super) const F_ACCESS_PLATFORM: u64 = 1 << 33;
/// What a driver must accept.
pub(super) const REQUIRED: u64 = F_VERSION_1 | F_ACCESS_PLATFORM;
/// What the transport offers for every device.
pub(super) const OFFERED: u64 = REQUIRED | F_EVENT_IDX | F_INDIRECT_DESC;

/// The driver noticed the device.
pub(super) const ACKNOWLEDGE: u8 = 1;
/// The driver knows how to drive it.
pub(super) const DRIVER: u8 = 2;
/// The driver can go.
pub(super) const DRIVER_OK: u8 = 4;
/// Negotiation is complete.
pub(super) const FEATURES_OK: u8 = 8;
/// The device gave up.
pub(super) const DEVICE_NEEDS_RESET: u8 = 0x40;
/// The driver gave up.
pub(super) const FAILED: u8 = 0x80;

/// What the transport must do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The driver reset the device.
    Reset,
    /// The driver set DRIVER_OK.
    Start,
}

/// One queue's registers.
#[derive(Debug)]
struct QueueRegisters {
    max: u16,
    size: u16,
    desc: u64,
    driver: u64,
    device: u64,
    enabled: bool,
    /// There from enable to start.
    queue: Option<Queue>,
}

impl QueueRegisters {
    fn new(max: u16) -> Self {
        Self { max, size: max, desc: 0, driver: 0, device: 0, enabled: false, queue: None }
    }

    fn enable(&mut self, memory: &DeviceMemory) -> Result<(), virtio_queue::Error> {
        let mut queue = Queue::new(self.max)?;
        queue.try_set_size(self.size)?;
        queue.try_set_desc_table_address(GuestAddress(self.desc))?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
        queue.try_set_used_ring_address(GuestAddress(self.device))?;
        queue.set_ready(true);
        if !queue.is_valid(memory) {
            return Err(virtio_queue::Error::FindMemoryRegion);
        }
        self.queue = Some(queue);
        self.enabled = true;
        Ok(())
    }
}

/// The registers.
#[derive(Debug)]
pub(super) struct Common {
    offered: u64,
    accepted: u64,
    offered_select: u32,
    accepted_select: u32,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

/// Replaces the low or the high half of `target`.
fn set_half(target: &mut u64, high: bool, value: u32) {
    let shift = if high { 32 } else { 0 };
    *target = *target & !(0xffff_ffff << shift) | u64::from(value) << shift;
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

impl Common {
    /// Registers of a device that offers `features` and has queues of at most `sizes` descriptors.
    pub(super) fn new(features: u64, sizes: &[u16]) -> Self {
        Self {
            offered: features | OFFERED,
            accepted: 0,
            offered_select: 0,
            accepted_select: 0,
            status: 0,
            queue_select: 0,
            queues: sizes.iter().map(|max| QueueRegisters::new(*max)).collect(),
        }
    }

    /// The state after power-on.
    pub(super) fn reset(&mut self) {
        self.accepted = 0;
        self.offered_select = 0;
        self.accepted_select = 0;
        self.status = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max);
        }
    }

    /// Features both sides agreed on.
    pub(super) fn features(&self) -> u64 {
        self.accepted
    }

    /// True between DRIVER_OK and reset.
    pub(super) fn is_running(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// The enabled queues with their indexes, ready to be worked.
    pub(super) fn take_queues(&mut self) -> Vec<(u16, Queue)> {
        let event_idx = self.accepted & F_EVENT_IDX != 0;
        (0..)
            .zip(&mut self.queues)
            .filter_map(|(index, registers)| {
                let mut queue = registers.queue.take()?;
                queue.set_event_idx(event_idx);
                Some((index, queue))
            })
            .collect()
    }

    /// Reads; reading has no side effect.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], interrupt: &Interrupt) {
        let mut image = [0_u8; COMMON_LEN as usize];
        let mut put = |at: usize, value: u64, len: usize| {
            image[at..at + len].copy_from_slice(&value.to_le_bytes()[..len])
        };
        put(0x00, self.offered_select.into(), 4);
        put(0x04, half(self.offered, self.offered_select).into(), 4);
        put(0x08, self.accepted_select.into(), 4);
        put(0x0c, half(self.accepted, self.accepted_select).into(), 4);
        put(0x10, interrupt.config_vector().into(), 2);
        put(0x12, self.queues.len() as u64, 2);
        let needs_reset = if interrupt.reset_needed() { DEVICE_NEEDS_RESET } else { 0 };
        put(0x14, (self.status | needs_reset).into(), 1);
        put(0x15, interrupt.generation().into(), 1);
        put(0x16, self.queue_select.into(), 2);
        // A queue that does not exist has size 0 and otherwise zeros (4.1.4.3.1).
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(0x18, queue.size.into(), 2);
            put(0x1a, interrupt.queue_vector(self.queue_select).into(), 2);
            put(0x1c, queue.enabled.into(), 2);
            put(0x1e, self.queue_select.into(), 2);
            put(0x20, queue.desc, 8);
            put(0x28, queue.driver, 8);
            put(0x30, queue.device, 8);
        }
        data.fill(0);
        for (byte, value) in data.iter_mut().zip(image.iter().skip(offset as usize)) {
            *byte = *value;
        }
    }

    /// Writes one field.
    pub(super) fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        interrupt: &Interrupt,
        memory: &DeviceMemory,
    ) -> Option<Action> {
        let mut bytes = [0; 8];
        bytes.get_mut(..data.len())?.copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        match (offset, data.len()) {
            (0x00, 4) => self.offered_select = value as u32,
            (0x08, 4) => self.accepted_select = value as u32,
            (0x0c, 4) if self.status & FEATURES_OK == 0 && self.accepted_select < 2 => {
                set_half(&mut self.accepted, self.accepted_select == 1, value as u32);
            }
            (0x10, 2) => interrupt.set_config_vector(value as u16),
            (0x14, 1) => return self.write_status(value as u8, interrupt),
            (0x16, 2) => self.queue_select = value as u16,
            (0x1a, 2) => interrupt.set_queue_vector(self.queue_select, value as u16),
            (0x18..0x38, 2 | 4 | 8) => self.write_queue(offset, value, data.len(), memory),
            _ => {}
        }
        None
    }

    fn write_queue(&mut self, offset: u64, value: u64, len: usize, memory: &DeviceMemory) {
        let running = self.is_running();
        let index = self.queue_select;
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        if running || queue.enabled {
            return;
        }
        match (offset, len) {
            // Split rings have a power of two (2.7); an unusable size leaves the old one to be read back.
            (0x18, 2) if value.is_power_of_two() && value <= queue.max.into() => queue.size = value as u16,
            // 0 is not a value a driver may write (4.1.4.3.2).
            (0x1c, 2) if value == 1 => {
                if let Err(error) = queue.enable(memory) {
                    cvmm_log_limit::warn!(
                        queue = index,
                        size = queue.size,
                        desc = format_args!("{:#x}", queue.desc),
                        driver = format_args!("{:#x}", queue.driver),
                        device = format_args!("{:#x}", queue.device),
                        %error,
                        "driver enabled a queue whose rings are not in its memory or not aligned; it stays off"
                    );
                }
            }
            (0x20, 8) => queue.desc = value,
            (0x28, 8) => queue.driver = value,
            (0x30, 8) => queue.device = value,
            (0x20 | 0x24, 4) => set_half(&mut queue.desc, offset == 0x24, value as u32),
            (0x28 | 0x2c, 4) => set_half(&mut queue.driver, offset == 0x2c, value as u32),
            (0x30 | 0x34, 4) => set_half(&mut queue.device, offset == 0x34, value as u32),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u8, interrupt: &Interrupt) -> Option<Action> {
        if value == 0 {
            return Some(Action::Reset);
        }
        // The device's own bit is not the driver's to write.
        let value = value & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
        let steps = value & !FAILED;
        let in_order = [
            0,
            ACKNOWLEDGE,
            ACKNOWLEDGE | DRIVER,
            ACKNOWLEDGE | DRIVER | FEATURES_OK,
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        ];
        if value & self.status != self.status || !in_order.contains(&steps) {
            cvmm_log_limit::warn!(
                from = format_args!("{:#x}", self.status),
                to = format_args!("{value:#x}"),
                "driver wrote a device status out of order; the write is dropped"
            );
            return None;
        }
        let added = value & !self.status;
        self.status |= added & (ACKNOWLEDGE | DRIVER | FAILED);
        if added & FEATURES_OK != 0 {
            if self.accepted & !self.offered != 0 || self.accepted & REQUIRED != REQUIRED {
                cvmm_log_limit::warn!(
                    accepted = format_args!("{:#x}", self.accepted),
                    offered = format_args!("{:#x}", self.offered),
                    required = format_args!("{REQUIRED:#x}"),
                    "features refused"
                );
                return None;
            }
            self.status |= FEATURES_OK;
        }
        if added & DRIVER_OK != 0 && self.status & FAILED == 0 && !interrupt.reset_needed() {
            self.status |= DRIVER_OK;
            return Some(Action::Start);
        }
        None
    }
}

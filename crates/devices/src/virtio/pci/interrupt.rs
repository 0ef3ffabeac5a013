// SPDX-License-Identifier: Apache-2.0
//! Interrupts of one function: MSI-X table and pending bits (PCI 3.0, 6.8.2) and virtio's vector assignment.
//!
//! A device's worker threads signal, vCPU threads program; they meet in the table's lock, which is held for a
//! table look-up or an eventfd write. A vector that is masked, by its own bit or by the function's, collects
//! its interrupt in its pending bit and delivers it when unmasked. The host's routing is changed only when an
//! unmasked vector gets a new message or MSI-X is switched off: masking needs no change because a masked
//! vector is never triggered, and a routing change costs the host far more than a table look-up.
//!
//! Without MSI-X enabled there is no interrupt at all (the function has no pin); such drivers poll.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::host::{MsiMessage, MsiVectors};
use crate::virtio::VirtioInterrupt;

/// VIRTIO_MSI_NO_VECTOR.
pub(super) const NO_VECTOR: u16 = 0xffff;
/// ISR bit: a queue has used buffers.
const ISR_QUEUE: u8 = 1;
/// ISR bit: configuration changed.
const ISR_CONFIG: u8 = 2;
/// Message control, bit 15.
const MSIX_ENABLE: u16 = 1 << 15;
/// Message control, bit 14.
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// Bytes of a table entry.
const ENTRY_LEN: usize = 16;

#[derive(Clone, Debug)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
    pending: bool,
    /// What the host knows.
    programmed: Option<MsiMessage>,
}

#[derive(Debug)]
struct Table {
    entries: Vec<Entry>,
    enabled: bool,
    function_mask: bool,
}

/// The interrupt side of a function, shared between transport and device.
pub(super) struct Interrupt {
    vectors: Arc<dyn MsiVectors>,
    table: Mutex<Table>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    isr: AtomicU8,
    generation: AtomicU8,
    driver_ok: AtomicBool,
    needs_reset: AtomicBool,
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// For a function with `queues` queues.
    pub(super) fn new(vectors: Arc<dyn MsiVectors>, queues: usize) -> Self {
        let entry = Entry { address: 0, data: 0, masked: true, pending: false, programmed: None };
        let entries = vec![entry; vectors.len().into()];
        Self {
            vectors,
            table: Mutex::new(Table { entries, enabled: false, function_mask: false }),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            driver_ok: AtomicBool::new(false),
            needs_reset: AtomicBool::new(false),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is valid after every statement, so a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Back to the state after power-on, as far as virtio's reset goes; MSI-X belongs to PCI and stays.
    pub(super) fn reset(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.isr.store(0, Ordering::Release);
        self.driver_ok.store(false, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    /// The driver has set DRIVER_OK: it may be interrupted.
    pub(super) fn set_driver_ok(&self) {
        self.driver_ok.store(true, Ordering::Release);
    }

    /// Whether the driver has set DRIVER_OK.
    pub(super) fn driver_ok(&self) -> bool {
        self.driver_ok.load(Ordering::Acquire)
    }

    /// True if the device asked for a reset.
    pub(super) fn reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Reads and clears the interrupt status (4.1.4.5).
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// Changes with every configuration change.
    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Vector of configuration changes.
    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    /// Assigns it; a vector that does not exist becomes [`NO_VECTOR`], which is how the driver learns of it.
    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.checked(vector), Ordering::Release);
    }

    /// Vector of queue `index`.
    pub(super) fn queue_vector(&self, index: u16) -> u16 {
        self.queue_vectors.get(usize::from(index)).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// Assigns it.
    pub(super) fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(slot) = self.queue_vectors.get(usize::from(index)) {
            slot.store(self.checked(vector), Ordering::Release);
        }
    }

    fn checked(&self, vector: u16) -> u16 {
        if vector < self.vectors.len() { vector } else { NO_VECTOR }
    }

    /// The message control register of the capability was written.
    pub(super) fn set_control(&self, control: u16) {
        let mut table = self.table();
        let (enabled, mask) = (control & MSIX_ENABLE != 0, control & MSIX_FUNCTION_MASK != 0);
        if (enabled, mask) == (table.enabled, table.function_mask) {
            return;
        }
        table.enabled = enabled;
        table.function_mask = mask;
        for vector in 0..table.entries.len() {
            self.sync(&mut table, vector);
        }
    }

    /// Brings the host's routing of `vector` up to date and delivers what is pending.
    fn sync(&self, table: &mut Table, vector: usize) {
        let (enabled, masked) = (table.enabled, table.function_mask);
        let Some(entry) = table.entries.get_mut(vector) else { return };
        let wanted = if !enabled {
            None
        } else if masked || entry.masked {
            return;
        } else {
            Some(MsiMessage { address: entry.address, data: entry.data })
        };
        // The table has at most 2048 entries, so the index fits.
        let number = vector as u16;
        if wanted != entry.programmed {
            match self.vectors.program(number, wanted) {
                Ok(()) => entry.programmed = wanted,
                Err(error) => {
                    cvmm_log_limit::error!(vector = number, %error, "cannot program interrupt vector");
                    entry.programmed = None;
                    return;
                }
            }
        }
        if enabled && entry.pending {
            entry.pending = false;
            self.vectors.trigger(number);
        }
    }

    fn trigger(&self, vector: u16) {
        let mut table = self.table();
        if !table.enabled {
            return;
        }
        let masked = table.function_mask;
        let Some(entry) = table.entries.get_mut(usize::from(vector)) else { return };
        if masked || entry.masked {
            entry.pending = true;
        } else {
            self.vectors.trigger(vector);
        }
    }

    /// Reads the table at byte `offset`; past its end there are zeros.
    pub(super) fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let table = self.table();
        for (at, byte) in (offset as usize..).zip(data) {
            let Some(entry) = table.entries.get(at / ENTRY_LEN) else { return };
            let mut image = [0; ENTRY_LEN];
            image[..8].copy_from_slice(&entry.address.to_le_bytes());
            image[8..12].copy_from_slice(&entry.data.to_le_bytes());
            image[12] = entry.masked.into();
            *byte = image[at % ENTRY_LEN];
        }
    }

    /// Writes the table. Software uses aligned double or quad words (6.8.2); anything else is dropped.
    pub(super) fn write_table(&self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        let mut table = self.table();
        let vector = offset as usize / ENTRY_LEN;
        let Some(entry) = table.entries.get_mut(vector) else { return };
        for (at, word) in (offset as usize % ENTRY_LEN..).step_by(4).zip(data.chunks_exact(4)) {
            // `chunks_exact` gives four bytes.
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            match at {
                // Address bits 1:0 are zero.
                0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
                4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
                8 => entry.data = value,
                _ => entry.masked = value & 1 != 0,
            }
        }
        self.sync(&mut table, vector);
    }

    /// Reads the pending bits; they are read-only to software.
    pub(super) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let table = self.table();
        for (at, byte) in (offset as usize..).zip(data) {
            *byte = (0..8)
                .filter(|bit| table.entries.get(at * 8 + bit).is_some_and(|entry| entry.pending))
                .fold(0, |bits, bit| bits | 1 << bit);
        }
    }
}

impl VirtioInterrupt for Interrupt {
    fn signal_queue(&self, index: u16) {
        self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        self.trigger(self.queue_vector(index));
    }

    fn signal_config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.trigger(self.config_vector());
    }

    fn needs_reset(&self) {
        let before = self.needs_reset.swap(true, Ordering::AcqRel);
        // A driver that has not set DRIVER_OK must not be interrupted; it will see the bit (2.1.2).
        if !before && self.driver_ok.load(Ordering::Acquire) {
            self.signal_config();
        }
    }
}

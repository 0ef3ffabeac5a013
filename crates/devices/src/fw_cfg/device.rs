// SPDX-License-Identifier: Apache-2.0
//! The registers, and the transfers they start.
//!
//! Cost of one access: a byte read touches at most [`WINDOW`] bytes of the item; a DMA read copies what is
//! left of the item, in pieces of [`PIECE`] bytes without allocation by length, and at most [`PADDING_LIMIT`]
//! zeros behind it. Software may read past an item's end and gets zeros, but a length that goes further is
//! refused as a whole with the error bit, or one exit could hold a vCPU for the time it takes to clear 4 GiB.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use cvmm_metrics::Inspect;
use vm_memory::{Bytes, GuestAddress};

use super::content::Content;
use super::dma::{self, Descriptor, Transfer};
use super::key;
use super::metrics::FwCfgMetrics;
use crate::bus::BusDevice;
use crate::memory::DeviceMemory;

/// Zeros that one DMA read may ask for behind an item's end.
pub const PADDING_LIMIT: u64 = 16 << 20;
/// Bytes copied at a time.
const PIECE: usize = 64 << 10;
/// Bytes read ahead for byte reads, so that each is not a system call.
const WINDOW: usize = 4 << 10;
/// What the DMA register reads as: "there is DMA".
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA_HIGH: u64 = 4;
const DMA_LOW: u64 = 8;
const END: u64 = super::LEN;

/// The fw_cfg device.
pub struct FwCfg {
    items: BTreeMap<u16, Arc<dyn Content>>,
    memory: DeviceMemory,
    selected: u16,
    /// Next byte of the selected item; saturates.
    offset: u64,
    /// Part of the selected item, and its offset there.
    window: Vec<u8>,
    window_at: u64,
    dma_high: u32,
    /// An unreadable item has been reported; a guest can ask again and again.
    reported: Cell<bool>,
    metrics: Arc<FwCfgMetrics>,
}

impl std::fmt::Debug for FwCfg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items: Vec<_> = self.items.iter().map(|(key, item)| (key, item.len())).collect();
        f.debug_struct("FwCfg")
            .field("items", &items)
            .field("selected", &self.selected)
            .finish_non_exhaustive()
    }
}

impl FwCfg {
    pub(super) fn new(items: BTreeMap<u16, Arc<dyn Content>>, memory: DeviceMemory) -> Self {
        Self {
            items,
            memory,
            selected: key::SIGNATURE,
            offset: 0,
            window: Vec::new(),
            window_at: 0,
            dma_high: 0,
            reported: Cell::new(false),
            metrics: Arc::default(),
        }
    }

    fn select(&mut self, key: u16) {
        self.selected = key;
        self.offset = 0;
        self.window.clear();
    }

    fn item(&self) -> Option<&Arc<dyn Content>> {
        self.items.get(&self.selected)
    }

    /// The next byte; 0 past the end, for a key without item, and if the host cannot read the item.
    fn next_byte(&mut self) -> u8 {
        let at = self.offset;
        let held = |window: &[u8], start: u64| {
            let index = at.checked_sub(start).and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| window.get(index)).copied()
        };
        let mut byte = held(&self.window, self.window_at);
        if byte.is_none() {
            self.fill_window();
            byte = held(&self.window, self.window_at);
        }
        self.offset = at.saturating_add(1);
        self.metrics.bytes.increment();
        byte.unwrap_or(0)
    }

    fn fill_window(&mut self) {
        self.window.clear();
        self.window_at = self.offset;
        let Some(item) = self.items.get(&self.selected) else {
            return;
        };
        let left = item.len().saturating_sub(self.offset);
        if left == 0 {
            // Software may read past the end; an item asked for nothing there would call it a failure.
            return;
        }
        let count = usize::try_from(left).unwrap_or(WINDOW).min(WINDOW);
        self.window.resize(count, 0);
        if let Err(error) = item.read_at(self.offset, &mut self.window) {
            // The guest sees zeros from here on.
            self.window.fill(0);
            self.metrics.errors.increment();
            self.report(&error);
        }
    }

    /// Logs the first time that the host could not read an item.
    fn report(&self, error: &io::Error) {
        if !self.reported.replace(true) {
            cvmm_log_limit::warn!(key = self.selected, offset = self.offset, %error, "fw_cfg item cannot be read");
        }
    }

    /// Runs the descriptor at `address`.
    fn run_dma(&mut self, address: u64) {
        self.metrics.requests.increment();
        let mut bytes = [0; dma::LEN];
        if let Err(error) = self.memory.read_slice(&mut bytes, GuestAddress(address)) {
            self.metrics.errors.increment();
            cvmm_log_limit::debug!(address, %error, "fw_cfg descriptor is not in guest memory");
            return;
        }
        let result = if self.execute(&Descriptor::parse(&bytes)) {
            0
        } else {
            self.metrics.errors.increment();
            dma::ERROR
        };
        // A transfer cannot make the descriptor's own memory go away, but the bytes may straddle a region's
        // end.
        if let Err(error) = self.memory.write_slice(&result.to_be_bytes(), GuestAddress(address)) {
            cvmm_log_limit::debug!(address, %error, "fw_cfg result cannot be written");
        }
    }

    /// True if all was done.
    fn execute(&mut self, descriptor: &Descriptor) -> bool {
        if let Some(key) = descriptor.select {
            self.select(key);
        }
        let length = u64::from(descriptor.length);
        match descriptor.transfer {
            Transfer::None => true,
            Transfer::Skip => {
                self.offset = self.offset.saturating_add(length);
                true
            }
            // All items are read-only; an empty write changes nothing.
            Transfer::Write => length == 0,
            Transfer::Read => {
                let done = self.copy_out(descriptor.address, length);
                self.offset = self.offset.saturating_add(length);
                done
            }
        }
    }

    /// Copies `length` bytes from the selected item to guest memory at `address`, zeros past its end.
    fn copy_out(&self, address: u64, length: u64) -> bool {
        let left = self.item().map_or(0, |item| item.len().saturating_sub(self.offset));
        let from_item = left.min(length);
        if length - from_item > PADDING_LIMIT {
            cvmm_log_limit::debug!(key = self.selected, length, "fw_cfg read is too far past the item's end");
            return false;
        }
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(PIECE).min(PIECE)];
        let mut done = 0;
        while done < length {
            let left_here = if done < from_item { from_item - done } else { length - done };
            let count = usize::try_from(left_here).unwrap_or(PIECE).min(buffer.len());
            let Some(piece) = buffer.get_mut(..count) else {
                return false;
            };
            match self.item().filter(|_| done < from_item) {
                Some(item) => {
                    // Both are below 2^33: an item has at most 2^32 bytes and `offset` is inside it here.
                    if let Err(error) = item.read_at(self.offset + done, piece) {
                        self.report(&error);
                        return false;
                    }
                }
                None => piece.fill(0),
            }
            let Some(to) = address.checked_add(done) else {
                return false;
            };
            if let Err(error) = self.memory.write_slice(piece, GuestAddress(to)) {
                cvmm_log_limit::debug!(address = to, %error, "fw_cfg target is not in guest memory");
                return false;
            }
            done += count as u64;
        }
        self.metrics.bytes.add(done);
        true
    }
}

impl BusDevice for FwCfg {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, data) {
            (DATA, [byte]) => *byte = self.next_byte(),
            (DMA_HIGH..END, data) => {
                let skip = usize::try_from(offset - DMA_HIGH).unwrap_or(usize::MAX);
                for (byte, value) in data.iter_mut().zip(DMA_SIGNATURE.iter().skip(skip)) {
                    *byte = *value;
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECTOR, &[low, high]) => self.select(u16::from_le_bytes([low, high])),
            (DMA_HIGH, &[a, b, c, d]) => self.dma_high = u32::from_be_bytes([a, b, c, d]),
            (DMA_LOW, &[a, b, c, d]) => {
                let low = u32::from_be_bytes([a, b, c, d]);
                let address = u64::from(self.dma_high) << 32 | u64::from(low);
                // Each transfer names both halves again.
                self.dma_high = 0;
                self.run_dma(address);
            }
            (DMA_HIGH, &[a, b, c, d, e, f, g, h]) => {
                self.dma_high = 0;
                self.run_dma(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
            }
            _ => {}
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

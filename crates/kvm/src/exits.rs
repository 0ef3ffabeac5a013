// SPDX-License-Identifier: Apache-2.0
//! Counts of vCPU exits to the VMM, by kind and, on request, by port and address.
//!
//! Each vCPU has [`ExitCounters`] of its own, on cache lines that no other vCPU writes. Any thread can take a
//! [`snapshot`] while the vCPU runs.
//!
//! [`snapshot`]: ExitCounters::snapshot

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The guest can touch any number of MMIO addresses; beyond this many different ones they share one entry.
const MAX_PAGES: usize = 256;

/// The counters of one vCPU. Its thread writes them, others read them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ExitCounters {
    io_in: AtomicU64,
    io_out: AtomicU64,
    mmio_read: AtomicU64,
    mmio_write: AtomicU64,
    interrupted: AtomicU64,
    conversions: AtomicU64,
    other: AtomicU64,
    /// Only if asked for.
    by_address: Option<Mutex<ByAddress>>,
}

#[derive(Clone, Debug, Default)]
struct ByAddress {
    ports: BTreeMap<u16, u64>,
    mmio_pages: BTreeMap<u64, u64>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl ExitCounters {
    /// Counts kinds; with `by_address` also ports and MMIO pages.
    pub fn new(by_address: bool) -> Self {
        Self { by_address: by_address.then(Mutex::default), ..Self::default() }
    }

    fn addresses(&self) -> Option<MutexGuard<'_, ByAddress>> {
        // Counts are valid after a panic elsewhere.
        Some(self.by_address.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a port access.
    pub fn port(&self, port: u16, write: bool) {
        count(if write { &self.io_out } else { &self.io_in });
        if let Some(mut addresses) = self.addresses() {
            *addresses.ports.entry(port).or_default() += 1;
        }
    }

    /// Notes an MMIO access.
    pub fn mmio(&self, gpa: u64, write: bool) {
        count(if write { &self.mmio_write } else { &self.mmio_read });
        if let Some(mut addresses) = self.addresses() {
            let pages = &mut addresses.mmio_pages;
            let mut page = gpa & !0xfff;
            if pages.len() >= MAX_PAGES && !pages.contains_key(&page) {
                page = u64::MAX;
            }
            *pages.entry(page).or_default() += 1;
        }
    }

    /// Notes a return because of a signal.
    pub fn interrupted(&self) {
        count(&self.interrupted);
    }

    /// Notes a page conversion.
    pub fn conversion(&self) {
        count(&self.conversions);
    }

    /// Notes any other exit.
    pub fn other(&self) {
        count(&self.other);
    }

    /// The counts now. Counters are read one after the other: their sum may be off by the exits in between.
    pub fn snapshot(&self) -> ExitCounts {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let addresses = self.addresses().map(|addresses| addresses.clone());
        let (ports, mmio_pages) = addresses.map(|by| (by.ports, by.mmio_pages)).unzip();
        ExitCounts {
            io_in: now(&self.io_in),
            io_out: now(&self.io_out),
            mmio_read: now(&self.mmio_read),
            mmio_write: now(&self.mmio_write),
            interrupted: now(&self.interrupted),
            conversions: now(&self.conversions),
            other: now(&self.other),
            ports,
            mmio_pages,
        }
    }
}

/// Exit counts of one vCPU, or of several after [`ExitCounts::add`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Reads from ports.
    pub io_in: u64,
    /// Writes to ports.
    pub io_out: u64,
    /// MMIO reads.
    pub mmio_read: u64,
    /// MMIO writes.
    pub mmio_write: u64,
    /// Returns because of a signal.
    pub interrupted: u64,
    /// Page conversions of an SNP guest, asked for or by a fault.
    pub conversions: u64,
    /// Everything else.
    pub other: u64,
    /// Accesses by port, if asked for.
    pub ports: Option<BTreeMap<u16, u64>>,
    /// Accesses by 4 KiB page, if asked for; [`u64::MAX`] stands for all further pages.
    pub mmio_pages: Option<BTreeMap<u64, u64>>,
}

impl ExitCounts {
    /// Adds the counts of another vCPU or machine.
    pub fn add(&mut self, other: &Self) {
        self.io_in += other.io_in;
        self.io_out += other.io_out;
        self.mmio_read += other.mmio_read;
        self.mmio_write += other.mmio_write;
        self.interrupted += other.interrupted;
        self.conversions += other.conversions;
        self.other += other.other;
        add_each(&mut self.ports, other.ports.as_ref());
        add_each(&mut self.mmio_pages, other.mmio_pages.as_ref());
    }
}

fn add_each<K: Copy + Ord>(counts: &mut Option<BTreeMap<K, u64>>, more: Option<&BTreeMap<K, u64>>) {
    let Some(more) = more else { return };
    let counts = counts.get_or_insert_default();
    for (key, count) in more {
        *counts.entry(*key).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_guest_cannot_grow_the_counters() {
        let counters = ExitCounters::new(true);
        for page in 0..100_000_u64 {
            counters.mmio(page << 12, true);
        }
        let counts = counters.snapshot();
        let pages = counts.mmio_pages.unwrap();
        assert_eq!(pages.len(), MAX_PAGES + 1);
        assert_eq!(pages.values().sum::<u64>(), 100_000);
        assert_eq!(counts.mmio_write, 100_000);
    }

    #[test]
    fn sums_over_vcpus() {
        let mut total = ExitCounts::default();
        for _ in 0..3 {
            let one = ExitCounters::new(true);
            one.port(0x3f8, true);
            one.port(0x608, false);
            total.add(&one.snapshot());
        }
        assert_eq!((total.io_in, total.io_out), (3, 3));
        assert_eq!(total.ports.unwrap(), BTreeMap::from([(0x3f8, 3), (0x608, 3)]));
        assert_eq!(total.mmio_pages, Some(BTreeMap::new()));
        assert_eq!(ExitCounters::new(false).snapshot().ports, None);
    }

    #[test]
    fn a_snapshot_shows_what_the_vcpu_has_done_so_far() {
        let counters = Arc::new(ExitCounters::new(false));
        let writer = Arc::clone(&counters);
        let vcpu = thread::spawn(move || (0..100_000).for_each(|_| writer.port(0x80, true)));
        let mut last = 0;
        while !vcpu.is_finished() {
            let now = counters.snapshot().io_out;
            assert!(now >= last);
            last = now;
        }
        vcpu.join().unwrap();
        assert_eq!(counters.snapshot().io_out, 100_000);
    }
}

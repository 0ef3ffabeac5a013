// SPDX-License-Identifier: Apache-2.0
//! Counts of vCPU exits to the VMM, by kind and, on request, by port and address.
//!
//! Each vCPU thread counts for itself without sharing a cache line, and the counts are added up when it ends.

use std::collections::BTreeMap;

/// The guest can touch any number of MMIO addresses; beyond this many different ones they share one entry.
const MAX_PAGES: usize = 256;

/// Exit counts of one vCPU, or of all after [`ExitCounts::add`].
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
    /// Counts kinds; with `by_address` also ports and MMIO pages.
    pub fn new(by_address: bool) -> Self {
        let mut counts = Self::default();
        if by_address {
            counts.ports = Some(BTreeMap::new());
            counts.mmio_pages = Some(BTreeMap::new());
        }
        counts
    }

    /// Notes a port access.
    pub fn port(&mut self, port: u16, write: bool) {
        *(if write { &mut self.io_out } else { &mut self.io_in }) += 1;
        if let Some(ports) = &mut self.ports {
            *ports.entry(port).or_default() += 1;
        }
    }

    /// Notes an MMIO access.
    pub fn mmio(&mut self, gpa: u64, write: bool) {
        *(if write { &mut self.mmio_write } else { &mut self.mmio_read }) += 1;
        if let Some(pages) = &mut self.mmio_pages {
            let mut page = gpa & !0xfff;
            if pages.len() >= MAX_PAGES && !pages.contains_key(&page) {
                page = u64::MAX;
            }
            *pages.entry(page).or_default() += 1;
        }
    }

    /// Adds another vCPU's counts.
    pub fn add(&mut self, other: &Self) {
        self.io_in += other.io_in;
        self.io_out += other.io_out;
        self.mmio_read += other.mmio_read;
        self.mmio_write += other.mmio_write;
        self.interrupted += other.interrupted;
        self.conversions += other.conversions;
        self.other += other.other;
        if let (Some(mine), Some(theirs)) = (&mut self.ports, &other.ports) {
            for (port, count) in theirs {
                *mine.entry(*port).or_default() += count;
            }
        }
        if let (Some(mine), Some(theirs)) = (&mut self.mmio_pages, &other.mmio_pages) {
            for (page, count) in theirs {
                *mine.entry(*page).or_default() += count;
            }
        }
    }

    /// Name and count of every kind, and of every port and page that was counted.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let mut rows = vec![
            ("io_in".to_owned(), self.io_in),
            ("io_out".to_owned(), self.io_out),
            ("mmio_read".to_owned(), self.mmio_read),
            ("mmio_write".to_owned(), self.mmio_write),
            ("interrupted".to_owned(), self.interrupted),
            ("conversion".to_owned(), self.conversions),
            ("other".to_owned(), self.other),
        ];
        rows.extend(self.ports.iter().flatten().map(|(port, count)| (format!("port {port:#06x}"), *count)));
        rows.extend(self.mmio_pages.iter().flatten().map(|(page, count)| match *page {
            u64::MAX => ("mmio elsewhere".to_owned(), *count),
            page => (format!("mmio {page:#x}"), *count),
        }));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_grow_the_counters() {
        let mut counts = ExitCounts::new(true);
        for page in 0..100_000_u64 {
            counts.mmio(page << 12, true);
        }
        let pages = counts.mmio_pages.as_ref().unwrap();
        assert_eq!(pages.len(), MAX_PAGES + 1);
        assert_eq!(pages.values().sum::<u64>(), 100_000);
        assert_eq!(counts.mmio_write, 100_000);
    }

    #[test]
    fn sums_over_vcpus() {
        let mut total = ExitCounts::new(true);
        for _ in 0..3 {
            let mut one = ExitCounts::new(true);
            one.port(0x3f8, true);
            one.port(0x608, false);
            total.add(&one);
        }
        assert_eq!((total.io_in, total.io_out), (3, 3));
        assert!(total.rows().contains(&("port 0x0608".to_owned(), 3)));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! What a VMM needs beside guest RAM: the private pages of its process, from `/proc/PID/smaps`, without the
//! mappings that are the guest's memory or its firmware.
//!
//! cvmm names these mappings; QEMU's are told by their size, which is the configured one to the page. The
//! largest of the remaining mappings are kept in the results, so that a mistake here would show.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// One process.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// Private_Clean + Private_Dirty of everything but the guest's memory.
    pub own_kib: u64,
    /// The same of the guest's memory.
    pub guest_kib: u64,
    /// Resident set without the guest's memory, shared pages included.
    pub rss_kib: u64,
    /// Number of the guest's mappings.
    pub guest_mappings: usize,
    /// Largest of the others: name, private KiB.
    pub largest: Vec<(String, u64)>,
}

#[derive(Debug, Default)]
struct Mapping {
    name: String,
    size_kib: u64,
    private_kib: u64,
    rss_kib: u64,
}

/// Reads the use of memory of a process whose guest has `memory_mib` of RAM.
pub fn usage(pid: u32, memory_mib: u32) -> Result<Usage> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).context("the VMM ended too early")?;
    let usage = sum(&mappings(&text), u64::from(memory_mib) << 10);
    ensure!(usage.guest_mappings > 0, "found no mapping of the guest's memory in /proc/{pid}/smaps");
    Ok(usage)
}

fn mappings(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !first.ends_with(':') {
            // ADDRESS PERMISSIONS OFFSET DEVICE INODE [NAME]
            let name = words.skip(4).collect::<Vec<_>>().join(" ");
            mappings.push(Mapping { name, ..Mapping::default() });
        } else if let Some(mapping) = mappings.last_mut() {
            let kib = words.next().and_then(|word| word.parse().ok()).unwrap_or(0_u64);
            match first {
                "Size:" => mapping.size_kib = kib,
                "Rss:" => mapping.rss_kib = kib,
                "Private_Clean:" | "Private_Dirty:" => mapping.private_kib += kib,
                _ => {}
            }
        }
    }
    mappings
}

/// The AmdSev firmware image.
const FIRMWARE_KIB: u64 = 4 << 10;

fn is_guest(mapping: &Mapping, ram_kib: u64) -> bool {
    mapping.name.starts_with("[anon:cvmm-guest-")
        // QEMU maps RAM and firmware anonymously.
        || (mapping.name.is_empty() && [ram_kib, FIRMWARE_KIB].contains(&mapping.size_kib))
}

fn sum(mappings: &[Mapping], ram_kib: u64) -> Usage {
    let (guest, own): (Vec<_>, Vec<_>) = mappings.iter().partition(|mapping| is_guest(mapping, ram_kib));
    let mut largest: Vec<_> = own.iter().map(|mapping| (mapping.name.clone(), mapping.private_kib)).collect();
    largest.sort_by_key(|(_, kib)| std::cmp::Reverse(*kib));
    largest.truncate(12);
    Usage {
        own_kib: own.iter().map(|mapping| mapping.private_kib).sum(),
        guest_kib: guest.iter().map(|mapping| mapping.private_kib).sum(),
        rss_kib: own.iter().map(|mapping| mapping.rss_kib).sum(),
        guest_mappings: guest.len(),
        largest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0020000000 rw-p 00000000 00:00 0 
Size:             524288 kB
Rss:              100000 kB
Private_Clean:         0 kB
Private_Dirty:    100000 kB
VmFlags: rd wr mr mw me dd
7f0030000000-7f0030010000 rw-p 00000000 00:00 0                          [anon:cvmm-guest-ram]
Size:                 64 kB
Rss:                  64 kB
Private_Clean:         0 kB
Private_Dirty:        64 kB
555500000000-555500100000 r-xp 00000000 00:10 7                          /bin/some vmm
Size:               1024 kB
Rss:                 900 kB
Private_Clean:       800 kB
Private_Dirty:         4 kB
";

    #[test]
    fn guest_memory_is_not_the_vmms() {
        let usage = sum(&mappings(SMAPS), 524_288);
        assert_eq!(
            (usage.own_kib, usage.guest_kib, usage.rss_kib, usage.guest_mappings),
            (804, 100_064, 900, 2)
        );
        assert_eq!(usage.largest, [("/bin/some vmm".to_owned(), 804)]);
        // With another size of RAM the first one is the VMM's own.
        assert_eq!(sum(&mappings(SMAPS), 1024).own_kib, 100_804);
    }
}

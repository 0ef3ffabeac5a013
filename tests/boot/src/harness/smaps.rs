// SPDX-License-Identifier: Apache-2.0
//! What of a guest's memory a process has mapped, from /proc.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

/// Resident bytes of the mappings of an SNP guest's RAM, and the address of the first. They are known by what
/// cvmm has asked for: not in core dumps (`dd`), no large pages (`nh`). Not by name: not every kernel has
/// names.
pub fn guest_ram(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).context("read smaps")?;
    parse(&text).with_context(|| format!("process {pid} has no mapping of guest RAM"))
}

fn parse(smaps: &str) -> Option<(u64, u64)> {
    let (mut total, mut first) = (0, None);
    let (mut address, mut resident) = (0, 0);
    for line in smaps.lines() {
        let (head, rest) = line.split_once(' ')?;
        if let Some((start, _)) = head.split_once('-') {
            address = u64::from_str_radix(start, 16).ok()?;
        } else if head == "Rss:" {
            let kib: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
            resident = kib << 10;
        } else if head == "VmFlags:" {
            let has = |flag| rest.split(' ').any(|word| word == flag);
            if has("dd") && has("nh") {
                total += resident;
                first.get_or_insert(address);
            }
        }
    }
    Some((total, first?))
}

/// How many private memory files of KVM the process holds, and whether it has mapped any.
pub fn private_memory(pid: u32) -> Result<(usize, bool)> {
    let is_private = |name: &str| name.contains("kvm-gmem") || name.contains("guest_memfd");
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .context("read its descriptors")?
        .flatten()
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| is_private(&to.to_string_lossy())))
        .count();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("read maps")?;
    Ok((files, maps.lines().any(is_private)))
}

/// Writes a byte into each of `pages` pages of the process from `address` on, as a debugger may.
pub fn touch(pid: u32, address: u64, pages: u64) -> Result<()> {
    let memory = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")).context("open mem")?;
    for page in 0..pages {
        match memory.write_at(&[0x5a], address + (page << 12)) {
            Ok(1) => {}
            other => bail!("cannot write to page {page} of guest RAM in process {pid}: {other:?}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_guests_mappings() {
        let smaps = "7f0000000000-7f0004000000 rw-p 00000000 00:00 0 \nSize: 65536 kB\n\
                     Rss:        8 kB\nVmFlags: rd wr dd nh \n7f1000000000-7f1000001000 rw-p 00000000 00:00 0 \n\
                     Rss:        4 kB\nVmFlags: rd wr dd \n7f2000000000-7f2000001000 rw-p 0 00:00 0 x\nRss: 12 kB\n\
                     VmFlags: rd dd nh\n";
        assert_eq!(parse(smaps), Some((20 << 10, 0x7f00_0000_0000)));
        assert_eq!(parse("7f0000000000-7f0004000000 rw-p 0 00:00 0 \nRss: 4 kB\nVmFlags: dd hg\n"), None);
    }

    #[test]
    fn this_process_has_no_private_memory() {
        assert_eq!(private_memory(std::process::id()).unwrap(), (0, false));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The host's memory as a dump sees it: /proc/kcore, through the kernel's own mapping of all RAM.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

const PAGE: usize = 4096;
/// Above are the areas of vmalloc and modules, which show memory a second time.
const DIRECT_MAP_END: u64 = 0xffff_c000_0000_0000;
/// Pages read at once.
const BATCH: usize = 256;

/// Physical addresses where a page in use begins with `words` at the offset `at`, and how many pages were
/// read. `words` makes them again each time, so that no copy of the whole is in memory.
pub fn find<I: Iterator<Item = u32>>(words: impl Fn() -> I, at: usize) -> Result<(Vec<u64>, usize)> {
    let mut found = Vec::new();
    let pages = walk(&mut |physical, page| {
        if words().zip(page[at..].chunks_exact(4)).all(|(word, bytes)| word.to_le_bytes() == *bytes) {
            found.push(physical);
        }
        true
    })?;
    Ok((found, pages))
}

/// Shows `look` every page in use with its physical address, as long as it wants more; how many these were.
fn walk(look: &mut dyn FnMut(u64, &[u8]) -> bool) -> Result<usize> {
    let core = File::open("/proc/kcore").context("/proc/kcore")?;
    let flags = File::open("/proc/kpageflags").context("/proc/kpageflags")?;
    let mut pages = 0;
    let mut kinds = vec![0; BATCH * 8];
    let mut buffer = vec![0; BATCH * PAGE];
    'all: for (physical, size, offset) in segments(&core)? {
        let mut frame = physical / PAGE as u64;
        let end = (physical + size) / PAGE as u64;
        while frame < end {
            let batch = (end - frame).min(BATCH as u64) as usize;
            let kinds = &mut kinds[..batch * 8];
            flags.read_exact_at(kinds, frame * 8).context("read /proc/kpageflags")?;
            let used: Vec<bool> = kinds.chunks_exact(8).map(in_use).collect();
            let mut first = 0;
            for run in used.chunk_by(|a, b| a == b) {
                let start = frame + first as u64;
                first += run.len();
                if !run[0] {
                    continue;
                }
                let part = &mut buffer[..run.len() * PAGE];
                core.read_exact_at(part, offset + start * PAGE as u64 - physical)
                    .context("read /proc/kcore")?;
                for (index, page) in part.chunks_exact(PAGE).enumerate() {
                    pages += 1;
                    if !look((start + index as u64) * PAGE as u64, page) {
                        break 'all;
                    }
                }
            }
            frame += batch as u64;
        }
    }
    // What was found must not be found again here, nor where the kernel had it for us: in a buffer for the
    // page that was read last.
    if let Some((_, _, offset)) = segments(&core)?.first() {
        core.read_exact_at(&mut buffer[..PAGE], *offset).context("read /proc/kcore")?;
    }
    buffer.fill(0);
    black_box(&mut buffer);
    Ok(pages)
}

/// Where `needle` is in the host's pages in use, by physical address with the page's flags, and how many
/// pages were read. With `enough` the first find is all.
pub fn search(needle: &Needle, enough: bool) -> Result<(Vec<String>, usize)> {
    // Pages that were freed just now wait on the processor's own list, where they look as if they were in
    // use: a file in memory uses them.
    let mut waiting = tempfile::tempfile()?;
    for _ in 0..64 {
        waiting.write_all(&[1; 1 << 20])?;
    }
    drop(waiting);
    let flags = File::open("/proc/kpageflags").context("/proc/kpageflags")?;
    let mut found = Vec::new();
    let pages = walk(&mut |physical, page| {
        if !needle.is_in(page) {
            return true;
        }
        let mut kind = [0; 8];
        let _ = flags.read_exact_at(&mut kind, physical / PAGE as u64 * 8);
        found.push(format!("{physical:#x} (flags {:#x})", u64::from_le_bytes(kind)));
        !enough
    })?;
    Ok((found, pages))
}

/// Where `needle` is in the memory of a process, by virtual address, and how many pages were read: of all
/// that it has mapped, what is there.
pub fn search_process(pid: u32, needle: &Needle) -> Result<(Vec<u64>, usize)> {
    let file = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        File::open(&path).context(path)
    };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let (memory, there) = (file("mem")?, file("pagemap")?);
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut page = vec![0; PAGE];
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let (start, end) = range.with_context(|| format!("no range in {line:?}"))?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        // vsyscall and such are the kernel's.
        if start >= 1 << 47 {
            continue;
        }
        let mut entries = vec![0; ((end - start) / PAGE as u64 * 8) as usize];
        there.read_exact_at(&mut entries, start / PAGE as u64 * 8).context("read the page map")?;
        for (index, entry) in entries.chunks_exact(8).enumerate() {
            // Bit 63: present. This host has no swap.
            if entry[7] & 0x80 == 0 {
                continue;
            }
            let address = start + index as u64 * PAGE as u64;
            // Device memory and unreadable mappings are not the process's own memory.
            if memory.read_exact_at(&mut page, address).is_ok() {
                pages += 1;
                if needle.is_in(&page) {
                    found.push(address);
                }
            }
        }
    }
    page.fill(0);
    black_box(&mut page);
    Ok((found, pages))
}

/// What is searched for. No copy of it lies about here: what is kept is changed by a mask.
#[derive(Debug, Default)]
pub struct Needle {
    /// The eight bytes at each of the first [`STRIDE`] places: wherever the whole is, one of these is at a
    /// multiple of [`STRIDE`].
    words: Vec<u64>,
    /// Which lowest bytes these have, for speed.
    lowest: Vec<bool>,
}

const MASK: u64 = 0x5a5a_a5a5_0ff0_f00f;
/// Places of a page that are looked at.
const STRIDE: usize = 32;

impl Needle {
    /// Searches for these bytes, of which the first 40 matter, too.
    pub fn or(mut self, bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() >= STRIDE + 8, "too short to be found everywhere");
        self.lowest.resize(256, false);
        for start in 0..STRIDE {
            let word = word(&bytes[start..start + 8]) ^ MASK;
            self.words.push(word);
            self.lowest[(word & 0xff) as usize] = true;
        }
        Ok(self)
    }

    fn is_in(&self, page: &[u8]) -> bool {
        let mask = black_box(MASK);
        page.chunks_exact(STRIDE).any(|bytes| {
            let word = word(&bytes[..8]) ^ mask;
            self.lowest[(word & 0xff) as usize] && self.words.contains(&word)
        })
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Physical address, size and offset in the file of each run of RAM.
fn segments(core: &File) -> Result<Vec<(u64, u64, u64)>> {
    let mut header = [0; 64];
    core.read_exact_at(&mut header, 0).context("the header of /proc/kcore")?;
    let count = u64::from(u16::from_le_bytes([header[56], header[57]]));
    let mut segments = Vec::new();
    for index in 0..count {
        let mut entry = [0; 56];
        core.read_exact_at(&mut entry, 64 + 56 * index).context("the segments of /proc/kcore")?;
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&entry[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (kind, offset, address, physical, size) =
            (field(0) as u32, field(8), field(16), field(24), field(40));
        if kind == 1 && physical != u64::MAX && address < DIRECT_MAP_END {
            segments.push((physical, size, offset));
        }
    }
    Ok(segments)
}

/// Not free, there, and not poisoned (Linux, include/uapi/linux/kernel-page-flags.h).
fn in_use(flags: &[u8]) -> bool {
    const UNUSABLE: u64 = 1 << 10 | 1 << 19 | 1 << 20;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(flags);
    u64::from_le_bytes(bytes) & UNUSABLE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_at_every_address_and_not_in_itself() {
        let first: Vec<u8> = (1..65).collect();
        let second: Vec<u8> = (101..165).collect();
        let needle = Needle::default().or(&first).unwrap().or(&second).unwrap();
        for bytes in [first, second] {
            for at in 0..64 {
                let mut page = vec![0; 160];
                assert!(!needle.is_in(&page));
                page[at..at + 64].copy_from_slice(&bytes);
                assert!(needle.is_in(&page), "at {at}");
            }
        }
        let own: Vec<u8> = needle.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(!needle.is_in(&own));
        assert!(Needle::default().or(&[1; 39]).is_err());
    }
}

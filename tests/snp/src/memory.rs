// SPDX-License-Identifier: Apache-2.0
//! The host's view of physical memory: the RMP, /proc/kcore as a dump, page flags.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

use crate::sys::{self, Mapping};
use crate::vm::PAGE;

/// The processor's own part before the entries, bytes.
const RMP_BOOKKEEPING: usize = 0x4000;
const RMP_BASE: u32 = 0xc001_0132;
const RMP_END: u32 = 0xc001_0133;

/// The RMP, mapped as a root user may.
#[derive(Debug)]
pub struct Rmp(Mapping);

impl Rmp {
    /// Map it.
    pub fn open() -> Result<Self> {
        let (base, end) = (sys::rdmsr(RMP_BASE)?, sys::rdmsr(RMP_END)?);
        let size = usize::try_from(end + 1 - base).context("the RMP's size")?;
        let memory = OpenOptions::new().read(true).write(true).open("/dev/mem").context("/dev/mem")?;
        Mapping::of(&memory, base, size).map(Self).context("map the RMP")
    }

    /// First word of the entry of a page frame.
    fn entry(&self, frame: usize) -> u64 {
        self.0.word((RMP_BOOKKEEPING + 16 * frame) / 8)
    }

    /// The page frames that are assigned to a guest at `gpa` and validated.
    pub fn frames_at(&self, gpa: u64) -> Vec<usize> {
        let frames = (self.0.size() - RMP_BOOKKEEPING) / 16;
        (0..frames)
            .filter(|&frame| {
                let entry = self.entry(frame);
                let (assigned, asid, validated) = (entry & 1, entry >> 51 & 0x3ff, entry >> 62 & 1);
                assigned == 1 && validated == 1 && asid != 0 && entry & 0x7_ffff_ffff_f000 == gpa
            })
            .collect()
    }

    /// Try to change an entry; the signal that came of it, and whether the entry changed.
    pub fn try_write(&self) -> Result<(Option<i32>, bool)> {
        let word = RMP_BOOKKEEPING / 8 + 1;
        let before = self.0.word(word);
        let signal = sys::in_child(|| self.0.set_word(word, before ^ 1))?;
        Ok((signal, self.0.word(word) != before))
    }
}

/// A dump of physical memory: /proc/kcore through the kernel's own mapping of all RAM.
#[derive(Debug)]
pub struct Dump {
    core: File,
    /// Physical address, bytes, offset in the file.
    parts: Vec<(u64, u64, u64)>,
}

impl Dump {
    /// Open it.
    pub fn open() -> Result<Self> {
        /// Above are the areas of vmalloc and modules, which show memory a second time.
        const DIRECT_MAP_END: u64 = 0xffff_c000_0000_0000;
        let core = File::open("/proc/kcore").context("/proc/kcore")?;
        let mut header = [0; 64];
        core.read_exact_at(&mut header, 0).context("the header of /proc/kcore")?;
        let count = u64::from(u16::from_le_bytes([header[56], header[57]]));
        let mut parts = Vec::new();
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
                parts.push((physical, size, offset));
            }
        }
        Ok(Self { core, parts })
    }

    /// Read at a physical address.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        for &(start, size, offset) in &self.parts {
            if address >= start && address + into.len() as u64 <= start + size {
                return self
                    .core
                    .read_exact_at(into, offset + (address - start))
                    .with_context(|| format!("read physical memory at {address:#x}"));
            }
        }
        bail!("physical address {address:#x} is not in /proc/kcore")
    }

    /// Where the words stand in memory that is in use (as dump tools do, free pages are left out), and how
    /// many pages were read; the first place only, if that is enough. `words` makes them again each time: no
    /// copy of the whole must lie about. Their place is a multiple of 8.
    pub fn find(
        &self,
        words: impl Fn() -> Box<dyn Iterator<Item = u32>>,
        enough: bool,
    ) -> Result<(Vec<u64>, usize)> {
        const BATCH: usize = 256;
        let flags = File::open("/proc/kpageflags").context("/proc/kpageflags")?;
        let mut start_of = words();
        let (first, second) = start_of.next().zip(start_of.next()).context("nothing to look for")?;
        let first = u64::from(second) << 32 | u64::from(first);
        let (mut found, mut pages) = (Vec::new(), 0);
        let mut buffer = vec![0; BATCH * PAGE];
        let mut kinds = vec![0; BATCH * 8];
        for &(start, size, _) in &self.parts {
            let (mut frame, end) = (start / PAGE as u64, (start + size) / PAGE as u64);
            while frame < end {
                let batch = (end - frame).min(BATCH as u64) as usize;
                kinds.resize(batch * 8, 0);
                flags.read_exact_at(&mut kinds, frame * 8).context("read /proc/kpageflags")?;
                let used: Vec<bool> = kinds.chunks_exact(8).map(in_use).collect();
                let mut at = 0;
                for run in used.chunk_by(|a, b| a == b) {
                    if run[0] {
                        let part = &mut buffer[..run.len() * PAGE];
                        let address = (frame + at as u64) * PAGE as u64;
                        self.read(address, part)?;
                        pages += run.len();
                        for place in starts(part, first) {
                            if same(&part[place..], words()) {
                                found.push(address + place as u64);
                            }
                        }
                        if enough && !found.is_empty() {
                            return Ok((found, pages));
                        }
                    }
                    at += run.len();
                }
                frame += batch as u64;
            }
        }
        Ok((found, pages))
    }
}

/// Not free, there, and not poisoned (Linux, include/uapi/linux/kernel-page-flags.h).
fn in_use(flags: &[u8]) -> bool {
    const BUDDY: u32 = 10;
    const HWPOISON: u32 = 19;
    const NOPAGE: u32 = 20;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(flags);
    u64::from_le_bytes(bytes) & (1 << BUDDY | 1 << HWPOISON | 1 << NOPAGE) == 0
}

/// Where the 64-bit word is.
fn starts(memory: &[u8], first: u64) -> impl Iterator<Item = usize> {
    let first = first.to_le_bytes();
    memory.chunks_exact(8).enumerate().filter(move |(_, chunk)| **chunk == first).map(|(index, _)| index * 8)
}

fn same(memory: &[u8], mut words: impl Iterator<Item = u32>) -> bool {
    let mut chunks = memory.chunks_exact(4);
    words.all(|word| chunks.next().is_some_and(|chunk| *chunk == word.to_le_bytes()))
}

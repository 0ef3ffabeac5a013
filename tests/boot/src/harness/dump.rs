// SPDX-License-Identifier: Apache-2.0
//! The host's memory as a dump sees it: /proc/kcore, through the kernel's own mapping of all RAM.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

const PAGE: usize = 4096;
/// Above are the areas of vmalloc and modules, which show memory a second time.
const DIRECT_MAP_END: u64 = 0xffff_c000_0000_0000;
/// Pages read at once.
const BATCH: usize = 256;

/// Physical addresses where a page in use begins with `words` at the offset `at`, and how many pages were read. `words` makes them
/// anew each time: no copy of the whole must lie about.
pub fn find<I: Iterator<Item = u32>>(words: impl Fn() -> I, at: usize) -> Result<(Vec<u64>, usize)> {
    let core = File::open("/proc/kcore").context("/proc/kcore")?;
    let flags = File::open("/proc/kpageflags").context("/proc/kpageflags")?;
    let (mut found, mut pages) = (Vec::new(), 0);
    let mut kinds = vec![0; BATCH * 8];
    let mut buffer = vec![0; BATCH * PAGE];
    for (physical, size, offset) in segments(&core)? {
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
                pages += run.len();
                for (index, page) in part.chunks_exact(PAGE).enumerate() {
                    if words()
                        .zip(page[at..].chunks_exact(4))
                        .all(|(word, bytes)| word.to_le_bytes() == *bytes)
                    {
                        found.push((start + index as u64) * PAGE as u64);
                    }
                }
            }
            frame += batch as u64;
        }
    }
    Ok((found, pages))
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

// SPDX-License-Identifier: Apache-2.0
//! Searches the memory of a process for a secret. Only root may read that of a process that is not dumpable.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

/// How often something was found in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occurrences {
    /// In memory that a core dump or the swap could have.
    pub exposed: usize,
    /// In pages that are locked and left out of dumps.
    pub locked: usize,
}

/// Searches all readable mappings.
pub fn search(pid: u32, wanted: &[u8]) -> Occurrences {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (mut mapping, mut found) = (None, Occurrences { exposed: 0, locked: 0 });
    for line in smaps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        if let Some(range) = range.and_then(|(start, end)| Some((number(start)?, number(end)?))) {
            mapping = Some(range);
        } else if let (Some(flags), Some((start, end))) = (line.strip_prefix("VmFlags:"), mapping) {
            let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
            let mut bytes = vec![0; (end - start) as usize];
            // Some mappings cannot be read, such as [vvar].
            if !has("rd") || memory.read_exact_at(&mut bytes, start).is_err() {
                continue;
            }
            let count = bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
            *(if has("dd") && has("lo") { &mut found.locked } else { &mut found.exposed }) += count;
        }
    }
    found
}

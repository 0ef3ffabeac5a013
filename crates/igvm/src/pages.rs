// SPDX-License-Identifier: Apache-2.0
//! The pages of a file, put together to imports in file order.
//!
//! A file has a header for each page; a guest has hundreds of thousands. Neighbours of one kind whose content
//! is contiguous in the file become one import.

use cvmm_launch::blob::Blob;
use cvmm_launch::memory::{HIGH_BASE, MemoryLayout};
use cvmm_launch::plan::{PageImport, PageKind, Source};

use crate::error::{IgvmProblem, Place};

/// How far below 4 GiB pages may be that are not RAM: firmware is there.
const MAX_WINDOW: u64 = cvmm_launch::firmware::MAX_SIZE;

struct Run {
    import: PageImport,
    /// The header of the first page.
    first: Place,
}

/// The pages so far.
#[derive(Default)]
pub(crate) struct Pages {
    runs: Vec<Run>,
    window: u64,
}

impl Pages {
    /// Adds pages, which must be in RAM or directly below 4 GiB.
    pub(crate) fn add(
        &mut self,
        import: PageImport,
        place: Place,
        memory: &MemoryLayout,
    ) -> Result<(), IgvmProblem> {
        self.check(import.gpa, import.len, memory)?;
        if let Some(last) = self.runs.last_mut().filter(|last| continues(&last.import, &import)) {
            last.import.len += import.len;
            if let (Source::Blob { len, .. }, Source::Blob { len: more, .. }) =
                (&mut last.import.source, &import.source)
            {
                *len += more;
            }
            return Ok(());
        }
        self.runs.push(Run { import, first: place });
        Ok(())
    }

    /// Whether the guest has memory there; memory below 4 GiB is added.
    pub(crate) fn check(&mut self, gpa: u64, len: u64, memory: &MemoryLayout) -> Result<(), IgvmProblem> {
        if memory.contains(gpa, len) {
            return Ok(());
        }
        let below = HIGH_BASE.checked_sub(gpa);
        match below.filter(|below| len <= *below && *below <= MAX_WINDOW) {
            Some(below) => {
                self.window = self.window.max(below);
                Ok(())
            }
            None => {
                let (low, high) = (memory.low, HIGH_BASE.saturating_add(memory.high));
                Err(IgvmProblem::OutsideMemory { gpa, len, low, high })
            }
        }
    }

    /// The imports in file order, and the bytes of memory below 4 GiB.
    pub(crate) fn finish(self) -> Result<(Vec<PageImport>, u64), (Place, IgvmProblem)> {
        let mut sorted: Vec<&Run> = self.runs.iter().collect();
        sorted.sort_by_key(|run| run.import.gpa);
        for (a, b) in sorted.iter().zip(sorted.iter().skip(1)) {
            // Both ends are inside memory.
            if a.import.gpa + a.import.len > b.import.gpa {
                // The later header is the one that is too much.
                let (first, second) = if a.first.index < b.first.index { (a, b) } else { (b, a) };
                let problem = IgvmProblem::Overlap { gpa: b.import.gpa, other: first.first.index };
                return Err((second.first, problem));
            }
        }
        Ok((self.runs.into_iter().map(|run| run.import).collect(), self.window))
    }
}

fn continues(last: &PageImport, next: &PageImport) -> bool {
    let contiguous = match (&last.source, &next.source) {
        (Source::None, Source::None) => true,
        (Source::Blob { blob, offset, len }, Source::Blob { blob: other, offset: start, .. }) => {
            blob.is_clone_of(other) && offset + len == *start
        }
        _ => false,
    };
    let single = matches!(next.kind, PageKind::Secrets | PageKind::Cpuid);
    contiguous && !single && last.kind == next.kind && last.gpa + last.len == next.gpa && last.tag == next.tag
}

/// Content of pages in the file.
pub(crate) fn content(file: &Blob, offset: u64, len: u64) -> Source {
    Source::Blob { blob: file.clone(), offset, len }
}

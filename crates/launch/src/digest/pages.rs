// SPDX-License-Identifier: Apache-2.0
//! Hashing the pages of an image.
//!
//! A window of pages is cut into runs; each thread takes a run, reads it in chunks and hashes page by page,
//! and the window's hashes are handed on in order. So any number of threads gives the same result, and what
//! is held is one window of hashes and one chunk per thread.

use std::iter::Enumerate;
use std::slice::ChunksMut;
use std::sync::{Mutex, PoisonError};
use std::thread;

use cvmm_snp::digest::Digest;

use crate::blob::{Blob, CHUNK_SIZE, ReadError};
use crate::hash::sha384;
use crate::page::PAGE_SIZE;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages between two synchronisations of the threads: 4 MiB of content, 48 KiB of hashes.
const WINDOW: usize = 1024;
/// Pages one thread takes at a time: 256 KiB. Fewer are not worth a thread.
const RUN: usize = 64;
/// Most threads: more would wait for the chain instead of hashing.
const MAX_THREADS: usize = 8;

/// The last page of one repeated byte, and its hash.
#[derive(Default)]
struct Uniform(Option<(u8, Digest)>);

impl Uniform {
    fn hash(&mut self, page: &[u8]) -> Digest {
        // A page that equals itself shifted by one consists of one repeated byte.
        let byte = match page {
            [byte, rest @ ..] if page.get(..rest.len()) == Some(rest) => *byte,
            _ => return sha384(page),
        };
        match self.0 {
            Some((known, hash)) if known == byte => hash,
            _ => self.0.insert((byte, sha384(page))).1,
        }
    }
}

/// Passes the hash of each page of the `len` bytes of `blob` from `offset` on to `sink`; the last page is
/// padded with zeros.
pub fn hash(blob: &Blob, offset: u64, len: u64, sink: &mut dyn FnMut(Digest)) -> Result<(), ReadError> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get().min(MAX_THREADS));
    hash_with(threads, blob, offset, len, sink)
}

fn hash_with(
    threads: usize,
    blob: &Blob,
    offset: u64,
    len: u64,
    sink: &mut dyn FnMut(Digest),
) -> Result<(), ReadError> {
    let mut known: Vec<Uniform> = (0..threads.max(1)).map(|_| Uniform::default()).collect();
    let mut hashes = Vec::new();
    let mut at = 0;
    while at < len {
        // At most a window, so the cast keeps the value.
        let window = (len - at).min((WINDOW * PAGE) as u64) as usize;
        hashes.resize(window.div_ceil(PAGE), Digest::ZERO);
        let start = offset + at;
        let queue = Queue { runs: Mutex::new(hashes.chunks_mut(RUN).enumerate()), failed: Mutex::new(None) };
        let work = |uniform: &mut Uniform| {
            while let Some((index, part)) = queue.next() {
                let skipped = index * RUN * PAGE;
                let bytes = (window - skipped).min(RUN * PAGE);
                if let Err(error) = hash_run(blob, start + skipped as u64, bytes as u64, uniform, part) {
                    queue.fail(index, error);
                }
            }
        };
        let work = &work;
        thread::scope(|scope| {
            let mut uniforms = known.iter_mut();
            let own = uniforms.next();
            for uniform in uniforms.take(window.div_ceil(RUN * PAGE).saturating_sub(1)) {
                // If no thread can be started, its share stays in the queue.
                let _ = thread::Builder::new().spawn_scoped(scope, move || work(uniform));
            }
            own.into_iter().for_each(work);
        });
        if let Some((_, error)) = queue.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        hashes.iter().for_each(|hash| sink(*hash));
        at += window as u64;
    }
    Ok(())
}

/// The runs of a window that no thread has taken yet.
struct Queue<'a> {
    runs: Mutex<Enumerate<ChunksMut<'a, Digest>>>,
    /// The failure nearest to the start of the file, so that the result does not depend on timing.
    failed: Mutex<Option<(usize, ReadError)>>,
}

impl<'a> Queue<'a> {
    fn next(&self) -> Option<(usize, &'a mut [Digest])> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn fail(&self, index: usize, error: ReadError) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.as_ref().is_none_or(|(first, _)| index < *first) {
            *failed = Some((index, error));
        }
    }
}

/// Fills `hashes` with those of the `len` bytes at `offset`.
fn hash_run(
    blob: &Blob,
    offset: u64,
    len: u64,
    uniform: &mut Uniform,
    hashes: &mut [Digest],
) -> Result<(), ReadError> {
    const { assert!(CHUNK_SIZE.is_multiple_of(PAGE)) };
    let mut hashes = hashes.iter_mut();
    let mut chunks = blob.chunks(offset, len);
    while let Some(chunk) = chunks.next_chunk()? {
        for (page, hash) in chunk.chunks(PAGE).zip(&mut hashes) {
            *hash = if page.len() == PAGE {
                uniform.hash(page)
            } else {
                let mut last = [0; PAGE];
                last[..page.len()].copy_from_slice(page);
                uniform.hash(&last)
            };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes with repeated pages, different pages and an end inside a page.
    fn content(pages: usize, tail: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for page in 0..pages {
            match page % 5 {
                0 | 1 => bytes.extend([0xff; PAGE]),
                2 => bytes.extend([0; PAGE]),
                _ => bytes.extend((0..PAGE).map(|at| (at * (page + 3)) as u8)),
            }
        }
        // One byte away from uniform, at both ends.
        bytes[PAGE] = 0xfe;
        bytes[6 * PAGE - 1] ^= 1;
        bytes.extend(vec![7; tail]);
        bytes
    }

    #[test]
    fn any_number_of_threads_gives_the_hashes_of_the_pages() {
        let bytes = content(2 * WINDOW + 100, 9);
        let blob = Blob::from_bytes("x", bytes.clone());
        let expected: Vec<_> = bytes[3..]
            .chunks(PAGE)
            .map(|page| {
                let mut padded = page.to_vec();
                padded.resize(PAGE, 0);
                sha384(&padded)
            })
            .collect();
        for threads in [1, 2, 3, 8] {
            let mut seen = Vec::new();
            hash_with(threads, &blob, 3, bytes.len() as u64 - 3, &mut |hash| seen.push(hash)).unwrap();
            assert!(seen == expected, "{threads} threads");
        }
        hash_with(2, &blob, 0, 0, &mut |_| panic!("a page of nothing")).unwrap();
    }

    #[test]
    fn the_first_error_of_the_file_is_reported_and_its_window_is_not_handed_on() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content(WINDOW + 300, 0)).unwrap();
        let blob = Blob::open(file.path()).unwrap();
        // The second window loses its end: two of four runs see that.
        file.as_file().set_len(((WINDOW + 140) * PAGE) as u64).unwrap();
        let mut count = 0;
        let error = hash_with(4, &blob, 0, blob.len(), &mut |_| count += 1).unwrap_err();
        let ReadError::Shrank { offset, .. } = error else { panic!("{error}") };
        assert_eq!((count, offset), (WINDOW, ((WINDOW + 128) * PAGE) as u64));
    }
}

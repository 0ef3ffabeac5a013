// SPDX-License-Identifier: Apache-2.0
//! One disk operation as a sequence of system calls that any engine can make.
//!
//! An [`Op`] says which call comes next ([`Op::step`]) and learns how it went ([`Op::complete`]): short
//! transfers are continued, a file system that cannot zero a range by itself gets zeros written in bounded
//! pieces, and durability is added where it was asked for. Engines only carry out steps, so both behave
//! alike.
//!
//! On a block device fallocate(2) discards and zeroes as the device can (Linux 4.9), so there is one way for
//! files and devices.

use std::io;

use cvmm_disk_image::Disk;
use vm_memory::{GuestMemory, Permissions};

use crate::memory::{Access, DeviceMemory};
use crate::virtio::queue::Segment;

/// A finished operation: its tag and how it went.
pub(super) type Finished = (u16, io::Result<()>);

/// Buffers in one call (IOV_MAX).
const MAX_IOVECS: usize = 1024;
/// Bytes of zeros in memory; they are never written, so they take one shared page of the system.
const ZEROES_LEN: usize = 64 * 1024;
/// Copies of them in one call: 1 MiB.
const ZERO_IOVECS: usize = 16;
/// Times a call is repeated after EINTR or EAGAIN.
const MAX_RETRIES: u8 = 100;

/// Aligned for direct I/O.
#[repr(align(4096))]
struct Zeroes([u8; ZEROES_LEN]);

static ZEROES: Zeroes = Zeroes([0; ZEROES_LEN]);

/// The next system call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// preadv(2).
    Read {
        /// First buffer.
        iovecs: *const libc::iovec,
        /// Number of buffers.
        count: u32,
        /// File offset in bytes.
        offset: u64,
    },
    /// pwritev2(2).
    Write {
        /// First buffer.
        iovecs: *const libc::iovec,
        /// Number of buffers.
        count: u32,
        /// File offset in bytes.
        offset: u64,
        /// RWF_* flags.
        flags: i32,
    },
    /// fdatasync(2).
    Sync,
    /// fallocate(2).
    Allocate {
        /// FALLOC_FL_* flags.
        mode: i32,
        /// File offset in bytes.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

/// What an operation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Read,
    Write,
    Sync,
    Discard,
    Zero { unmap: bool },
    FillZeroes,
}

/// An operation in progress.
#[derive(Debug)]
pub(super) struct Op {
    stage: Stage,
    offset: u64,
    remaining: u64,
    /// To be durable when complete.
    durable: bool,
    /// Buffers not transferred yet, from `first` on.
    iovecs: Vec<libc::iovec>,
    first: usize,
    retries: u8,
    /// Ends the access to guest memory when the operation is over. Nothing if `iovecs` point to [`ZEROES`].
    _access: Option<Access>,
    /// Keeps the memory mapped that `iovecs` point into. Nothing if they point to [`ZEROES`].
    _memory: Option<DeviceMemory>,
}

// SAFETY: the pointers in `iovecs` are to guest memory, which is shared between threads by nature and only
// touched by the kernel through them, or to a static that is never written.
#[expect(unsafe_code)]
unsafe impl Send for Op {}

/// How far an operation got.
#[derive(Debug)]
pub(super) enum Progress {
    /// Carry out [`Op::step`] again.
    More,
    /// It is over.
    Done(io::Result<()>),
}

impl Op {
    fn new(stage: Stage, offset: u64, remaining: u64, durable: bool) -> Self {
        Self {
            stage,
            offset,
            remaining,
            durable,
            iovecs: Vec::new(),
            first: 0,
            retries: 0,
            _access: None,
            _memory: None,
        }
    }

    /// Reads from `offset` into `segments`. `None` if they are not all in memory.
    pub(super) fn read(memory: &DeviceMemory, segments: &[Segment], offset: u64) -> Option<Self> {
        Self::transfer(Stage::Read, memory, segments, offset, false)
    }

    /// Writes `segments` at `offset`. `None` if they are not all in memory.
    pub(super) fn write(
        memory: &DeviceMemory,
        segments: &[Segment],
        offset: u64,
        durable: bool,
    ) -> Option<Self> {
        Self::transfer(Stage::Write, memory, segments, offset, durable)
    }

    /// Makes everything completed durable.
    pub(super) fn flush() -> Self {
        Self::new(Stage::Sync, 0, 0, false)
    }

    /// Gives up the content of a range.
    pub(super) fn discard(offset: u64, len: u64, durable: bool) -> Self {
        Self::new(Stage::Discard, offset, len, durable)
    }

    /// Zeroes a range.
    pub(super) fn write_zeroes(offset: u64, len: u64, unmap: bool, durable: bool) -> Self {
        Self::new(Stage::Zero { unmap }, offset, len, durable)
    }

    fn transfer(
        stage: Stage,
        memory: &DeviceMemory,
        segments: &[Segment],
        offset: u64,
        durable: bool,
    ) -> Option<Self> {
        let access = if stage == Stage::Read { Permissions::Write } else { Permissions::Read };
        let mut iovecs = Vec::with_capacity(segments.len());
        let mut remaining = 0;
        let mut until_over = memory.access();
        for segment in segments {
            for slice in memory.get_slices(segment.addr, segment.len as usize, access).ok()? {
                let slice = slice.ok()?;
                let guard = slice.ptr_guard_mut();
                iovecs.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: slice.len() });
                remaining += slice.len() as u64;
            }
            until_over.add(segment.addr, segment.len as usize);
        }
        let op = Self::new(stage, offset, remaining, durable);
        Some(Self { iovecs, _access: Some(until_over), _memory: Some(memory.clone()), ..op })
    }

    /// True if all buffers start and end at multiples of `align` bytes, a power of two.
    pub(super) fn is_aligned(&self, align: usize) -> bool {
        self.iovecs.iter().all(|iovec| (iovec.iov_base as usize | iovec.iov_len) & (align - 1) == 0)
    }

    /// The call to make now. Its pointers are valid until [`Op::complete`] or until the operation is dropped;
    /// moving the operation does not move what they point to.
    pub(super) fn step(&mut self) -> Step {
        let flags = if self.durable { libc::RWF_DSYNC } else { 0 };
        let (offset, len) = (self.offset, self.remaining);
        if self.stage == Stage::FillZeroes {
            self.load_zeroes();
        }
        let rest = self.iovecs.get(self.first..).unwrap_or_default();
        let (iovecs, count) = (rest.as_ptr(), rest.len().min(MAX_IOVECS) as u32);
        match self.stage {
            Stage::Read => Step::Read { iovecs, count, offset },
            Stage::Write | Stage::FillZeroes => Step::Write { iovecs, count, offset, flags },
            Stage::Sync => Step::Sync,
            Stage::Discard | Stage::Zero { unmap: true } => {
                Step::Allocate { mode: libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len }
            }
            Stage::Zero { unmap: false } => {
                Step::Allocate { mode: libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, offset, len }
            }
        }
    }

    /// Fills the buffer list with as many zeros as remain, at most a bounded piece.
    fn load_zeroes(&mut self) {
        self.iovecs.clear();
        self.first = 0;
        let mut left = self.remaining;
        while left > 0 && self.iovecs.len() < ZERO_IOVECS {
            let now = left.min(ZEROES_LEN as u64);
            // The kernel only reads through this pointer: it is part of writes alone.
            let base = ZEROES.0.as_ptr().cast_mut().cast();
            self.iovecs.push(libc::iovec { iov_base: base, iov_len: now as usize });
            left -= now;
        }
    }

    /// Takes the result of the call: bytes moved, or an error.
    pub(super) fn complete(&mut self, result: io::Result<u64>, disk: &Disk) -> Progress {
        let error = match result {
            Ok(count) => return self.advance(count),
            Err(error) => error,
        };
        let code = error.raw_os_error();
        if matches!(code, Some(libc::EINTR | libc::EAGAIN)) && self.retries < MAX_RETRIES {
            self.retries += 1;
            return Progress::More;
        }
        // What a file system or device says that does not do this, or not at this alignment.
        let cannot = matches!(code, Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV));
        match self.stage {
            // Discarding is advice (5.2.6.2); ignoring it is not an error.
            Stage::Discard if cannot => Progress::Done(Ok(())),
            Stage::Zero { .. } if cannot => {
                self.stage = Stage::FillZeroes;
                Progress::More
            }
            Stage::Sync => {
                disk.set_flush_failed();
                Progress::Done(Err(error))
            }
            _ => Progress::Done(Err(error)),
        }
    }

    fn advance(&mut self, count: u64) -> Progress {
        match self.stage {
            Stage::Sync => Progress::Done(Ok(())),
            Stage::Discard | Stage::Zero { .. } if self.durable => {
                self.stage = Stage::Sync;
                Progress::More
            }
            Stage::Discard | Stage::Zero { .. } => Progress::Done(Ok(())),
            // Nothing moved although something was left: the file has become shorter.
            Stage::Read | Stage::Write | Stage::FillZeroes if count == 0 => {
                Progress::Done(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Stage::Read | Stage::Write | Stage::FillZeroes => {
                self.remaining = self.remaining.saturating_sub(count);
                self.offset = self.offset.saturating_add(count);
                if self.remaining == 0 {
                    return Progress::Done(Ok(()));
                }
                if self.stage != Stage::FillZeroes {
                    self.skip(count);
                }
                Progress::More
            }
        }
    }

    /// Drops `count` bytes from the front of the buffers.
    fn skip(&mut self, count: u64) {
        let mut left = count as usize;
        for iovec in self.iovecs.iter_mut().skip(self.first) {
            if left < iovec.iov_len {
                iovec.iov_base = iovec.iov_base.wrapping_byte_add(left);
                iovec.iov_len -= left;
                return;
            }
            left -= iovec.iov_len;
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;
    use crate::memory::SharedPages;
    use crate::virtio::block::{CacheMode, ImageFormat};
    use crate::virtio::testing::{BUFFERS, RAM_LEN, memory};

    #[test]
    fn a_short_transfer_is_continued_where_it_stopped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8192).unwrap();
        let disk =
            Disk::open(Path::new(file.path()), false, CacheMode::Writeback, ImageFormat::Probe).unwrap();
        let segment = |at, len| Segment { addr: GuestAddress(BUFFERS + at), len };
        let segments = [segment(0, 1000), segment(0x1000, 24), segment(0x2000, 3072)];
        let mut op = Op::read(&memory(), &segments, 512).unwrap();
        let base: Vec<usize> = op.iovecs.iter().map(|iovec| iovec.iov_base as usize).collect();
        // Within the first buffer, to the end of the second, within the third, the rest.
        for (moved, offset, first, skipped, count) in
            [(600, 1112, 0, 600, 3), (424, 1536, 2, 0, 1), (1, 1537, 2, 1, 1)]
        {
            assert!(matches!(op.complete(Ok(moved), &disk), Progress::More));
            let Step::Read { offset: now, count: buffers, iovecs } = op.step() else { panic!("not a read") };
            assert_eq!((now, buffers), (offset, count));
            assert_eq!(iovecs, &raw const op.iovecs[first]);
            assert_eq!(op.iovecs[first].iov_base as usize, base[first] + skipped);
        }
        assert_eq!(op.iovecs[2].iov_len, 3071);
        // Interrupted calls are repeated, but only so often.
        let interrupted = || Err(io::Error::from_raw_os_error(libc::EINTR));
        let repeats = (0..1000).take_while(|_| matches!(op.complete(interrupted(), &disk), Progress::More));
        assert_eq!(repeats.count(), usize::from(MAX_RETRIES));
        assert!(matches!(op.complete(Ok(3071), &disk), Progress::Done(Ok(()))));
    }

    #[test]
    fn the_access_to_guest_memory_ends_with_the_operation() {
        #[derive(Debug, Default)]
        struct Pages(Mutex<Vec<(u64, u64)>>);
        impl SharedPages for Pages {
            fn is_shared(&self, gpa: u64, len: u64) -> bool {
                gpa + len <= BUFFERS + 0x3000
            }
            fn settle(&self, gpa: u64, len: u64) {
                self.0.lock().unwrap().push((gpa, len));
            }
        }
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_LEN as usize)]).unwrap();
        let pages = Arc::new(Pages::default());
        let memory = DeviceMemory::guarded(Arc::new(ram), pages.clone());
        let settled = || std::mem::take(&mut *pages.0.lock().unwrap());
        let segment = |at, len| Segment { addr: GuestAddress(BUFFERS + at), len };
        let op = Op::read(&memory, &[segment(0, 4096), segment(0x2000, 512)], 0).unwrap();
        settled();
        let mut op = Box::new(op);
        op.step();
        assert_eq!(settled(), [], "the kernel has the buffers");
        drop(op);
        assert_eq!(settled(), [(BUFFERS, 4096), (BUFFERS + 0x2000, 512)]);
        // What is refused settles nothing that it did not reach.
        assert!(Op::write(&memory, &[segment(0, 512), segment(0x2fff, 2)], 0, false).is_none());
        assert!(settled().iter().all(|range| *range == (BUFFERS, 512)));
        // A copy ends with its call.
        vm_memory::Bytes::write_obj(&memory, 1_u16, GuestAddress(BUFFERS + 8)).unwrap();
        assert_eq!(settled(), [(BUFFERS + 8, 2)]);
        vm_memory::Bytes::load::<u16>(&memory, GuestAddress(BUFFERS), std::sync::atomic::Ordering::Relaxed)
            .unwrap();
        assert_eq!(settled(), [(BUFFERS, 2)]);
    }

    #[test]
    fn a_list_of_buffers_is_given_to_the_kernel_in_pieces_it_takes() {
        let segments = vec![Segment { addr: GuestAddress(BUFFERS), len: 1 }; 3000];
        let Step::Write { count, .. } = Op::write(&memory(), &segments, 0, false).unwrap().step() else {
            panic!("not a write")
        };
        assert_eq!(count, MAX_IOVECS as u32);
    }
}

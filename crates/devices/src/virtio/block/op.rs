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

use crate::memory::{Access, Reach};
use crate::virtio::queue::Segment;

/// A finished operation.
#[derive(Debug)]
pub(super) struct Finished {
    /// Under which it was started.
    pub(super) tag: u16,
    /// How it went.
    pub(super) outcome: io::Result<()>,
    /// For the next one.
    pub(super) buffers: Buffers,
}

/// The buffers of an operation and its access to them. Kept, so that the next operation allocates nothing;
/// boxed, because operations are moved a few times.
#[derive(Debug, Default)]
pub(super) struct Buffers(Box<BufferList>);

#[derive(Debug, Default)]
struct BufferList {
    iovecs: Vec<libc::iovec>,
    /// Keeps the memory mapped that `iovecs` point into. Nothing before the first transfer.
    access: Option<Access>,
}

// SAFETY: the pointers in `iovecs` are to guest memory, which is shared between threads by nature and only
// touched by the kernel through them, or to a static that is never written.
#[expect(unsafe_code)]
unsafe impl Send for Buffers {}

impl Buffers {
    /// Takes the addresses of `segments`; returns how many bytes they are. `None` if they are not all in
    /// memory.
    fn fill(&mut self, reach: &mut Reach, segments: &[Segment], access: Permissions) -> Option<u64> {
        let BufferList { iovecs, access: until_over } = &mut *self.0;
        iovecs.clear();
        let until_over = until_over.get_or_insert_with(|| reach.memory().access());
        until_over.begin();
        let mut bytes = 0;
        for Segment { addr, len } in segments {
            let (addr, len) = (*addr, *len as usize);
            until_over.add(addr, len);
            if let Some(host) = reach.host(addr.0, len as u64) {
                iovecs.push(libc::iovec { iov_base: host.as_ptr().cast(), iov_len: len });
            } else {
                for slice in reach.memory().get_slices(addr, len, access).ok()? {
                    let slice = slice.ok()?;
                    let guard = slice.ptr_guard_mut();
                    iovecs.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: slice.len() });
                }
            }
            bytes += len as u64;
        }
        Some(bytes)
    }

    /// Ends the access.
    fn release(&mut self) {
        self.0.iovecs.clear();
        if let Some(access) = &mut self.0.access {
            access.end();
        }
    }
}

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
    buffers: Buffers,
    first: usize,
    retries: u8,
}

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
        Self { stage, offset, remaining, durable, buffers: Buffers::default(), first: 0, retries: 0 }
    }

    /// Reads from `offset` into `segments`. `None` if they are not all in memory.
    pub(super) fn read(
        reach: &mut Reach,
        mut buffers: Buffers,
        segments: &[Segment],
        offset: u64,
    ) -> Option<Self> {
        let remaining = buffers.fill(reach, segments, Permissions::Write)?;
        Some(Self { buffers, ..Self::new(Stage::Read, offset, remaining, false) })
    }

    /// Writes `segments` at `offset`. `None` if they are not all in memory.
    pub(super) fn write(
        reach: &mut Reach,
        mut buffers: Buffers,
        segments: &[Segment],
        offset: u64,
        durable: bool,
    ) -> Option<Self> {
        let remaining = buffers.fill(reach, segments, Permissions::Read)?;
        Some(Self { buffers, ..Self::new(Stage::Write, offset, remaining, durable) })
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

    /// The operation is over: ends its access to guest memory.
    pub(super) fn finish(mut self, tag: u16, outcome: io::Result<()>) -> Finished {
        self.buffers.release();
        Finished { tag, outcome, buffers: self.buffers }
    }

    /// True if all buffers start and end at multiples of `align` bytes, a power of two.
    pub(super) fn is_aligned(&self, align: usize) -> bool {
        align == 1
            || self
                .buffers
                .0
                .iovecs
                .iter()
                .all(|iovec| (iovec.iov_base as usize | iovec.iov_len) & (align - 1) == 0)
    }

    /// The call to make now. Its pointers are valid until [`Op::complete`] or until the operation is dropped;
    /// moving the operation does not move what they point to.
    pub(super) fn step(&mut self) -> Step {
        let flags = if self.durable { libc::RWF_DSYNC } else { 0 };
        let (offset, len) = (self.offset, self.remaining);
        if self.stage == Stage::FillZeroes {
            self.load_zeroes();
        }
        let rest = self.buffers.0.iovecs.get(self.first..).unwrap_or_default();
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
        self.buffers.0.iovecs.clear();
        self.first = 0;
        let mut left = self.remaining;
        while left > 0 && self.buffers.0.iovecs.len() < ZERO_IOVECS {
            let now = left.min(ZEROES_LEN as u64);
            // The kernel only reads through this pointer: it is part of writes alone.
            let base = ZEROES.0.as_ptr().cast_mut().cast();
            self.buffers.0.iovecs.push(libc::iovec { iov_base: base, iov_len: now as usize });
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
        for iovec in self.buffers.0.iovecs.iter_mut().skip(self.first) {
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
    use std::ops::Range;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use vm_memory::{GuestAddress, GuestMemoryMmap};

    use super::*;
    use crate::memory::{DeviceMemory, SharedPages};
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
        let mut op = Op::read(&mut Reach::new(memory()), Buffers::default(), &segments, 512).unwrap();
        let base: Vec<usize> = op.buffers.0.iovecs.iter().map(|iovec| iovec.iov_base as usize).collect();
        // Within the first buffer, to the end of the second, within the third, the rest.
        for (moved, offset, first, skipped, count) in
            [(600, 1112, 0, 600, 3), (424, 1536, 2, 0, 1), (1, 1537, 2, 1, 1)]
        {
            assert!(matches!(op.complete(Ok(moved), &disk), Progress::More));
            let Step::Read { offset: now, count: buffers, iovecs } = op.step() else { panic!("not a read") };
            assert_eq!((now, buffers), (offset, count));
            assert_eq!(iovecs, &raw const op.buffers.0.iovecs[first]);
            assert_eq!(op.buffers.0.iovecs[first].iov_base as usize, base[first] + skipped);
        }
        assert_eq!(op.buffers.0.iovecs[2].iov_len, 3071);
        // Interrupted calls are repeated, but only so often.
        let interrupted = || Err(io::Error::from_raw_os_error(libc::EINTR));
        let repeats = (0..1000).take_while(|_| matches!(op.complete(interrupted(), &disk), Progress::More));
        assert_eq!(repeats.count(), usize::from(MAX_RETRIES));
        assert!(matches!(op.complete(Ok(3071), &disk), Progress::Done(Ok(()))));
    }

    #[test]
    fn the_access_to_guest_memory_ends_with_the_operation() {
        /// Shared up to an address, which a test moves.
        #[derive(Debug, Default)]
        struct Pages {
            end: AtomicU64,
            withdrawals: AtomicU64,
            settled: Mutex<Vec<(u64, u64)>>,
        }
        impl SharedPages for Pages {
            fn is_shared(&self, gpa: u64, len: u64) -> bool {
                gpa + len <= self.end.load(Ordering::SeqCst)
            }
            fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
                Some(0..self.end.load(Ordering::SeqCst)).filter(|run| run.contains(&gpa))
            }
            fn withdrawals(&self) -> u64 {
                self.withdrawals.load(Ordering::SeqCst)
            }
            fn settle(&self, gpa: u64, len: u64) {
                self.settled.lock().unwrap().push((gpa, len));
            }
        }
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM_LEN as usize)]).unwrap();
        let pages = Arc::new(Pages::default());
        let set_end = |end| {
            pages.end.store(end, Ordering::SeqCst);
            pages.withdrawals.fetch_add(1, Ordering::SeqCst);
        };
        set_end(BUFFERS + 0x3000);
        let memory = DeviceMemory::guarded(Arc::new(ram), pages.clone());
        let mut reach = Reach::new(memory.clone());
        let settled = || std::mem::take(&mut *pages.settled.lock().unwrap());
        let segment = |at, len| Segment { addr: GuestAddress(BUFFERS + at), len };
        let segments = [segment(0, 4096), segment(0x2000, 512)];
        let ranges = [(BUFFERS, 4096), (BUFFERS + 0x2000, 512)];

        // Nothing became private: nothing to drop, and the buffers serve again.
        let op = Op::read(&mut reach, Buffers::default(), &segments, 0).unwrap();
        let Finished { buffers, .. } = op.finish(0, Ok(()));
        assert_eq!(settled(), []);

        let mut op = Box::new(Op::read(&mut reach, buffers, &segments, 0).unwrap());
        op.step();
        set_end(BUFFERS + 0x1000);
        assert_eq!(settled(), [], "the kernel has the buffers");
        let Finished { buffers, .. } = op.finish(0, Ok(()));
        assert_eq!(settled(), ranges);

        // Dropped without an end: the same.
        set_end(BUFFERS + 0x3000);
        let op = Op::read(&mut reach, buffers, &segments, 0).unwrap();
        set_end(BUFFERS);
        drop(op);
        assert_eq!(settled(), ranges);

        // What is refused settles nothing that it did not try to reach.
        set_end(BUFFERS + 0x3000);
        let refused = [segment(0, 512), segment(0x2fff, 2)];
        assert!(Op::write(&mut reach, Buffers::default(), &refused, 0, false).is_none());
        assert_eq!(settled(), []);
        // A copy ends with its call.
        vm_memory::Bytes::write_obj(&memory, 1_u16, GuestAddress(BUFFERS + 8)).unwrap();
        assert_eq!(settled(), [(BUFFERS + 8, 2)]);
        vm_memory::Bytes::load::<u16>(&memory, GuestAddress(BUFFERS), Ordering::Relaxed).unwrap();
        assert_eq!(settled(), [(BUFFERS, 2)]);
    }

    #[test]
    fn a_list_of_buffers_is_given_to_the_kernel_in_pieces_it_takes() {
        let segments = vec![Segment { addr: GuestAddress(BUFFERS), len: 1 }; 3000];
        let mut reach = Reach::new(memory());
        let write = Op::write(&mut reach, Buffers::default(), &segments, 0, false);
        let Step::Write { count, .. } = write.unwrap().step() else { panic!("not a write") };
        assert_eq!(count, MAX_IOVECS as u32);
    }
}

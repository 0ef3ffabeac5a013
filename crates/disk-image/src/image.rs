// SPDX-License-Identifier: Apache-2.0
//! The host file or block device behind a disk: opened, checked, measured and locked.
//!
//! Everything that can be wrong with it is found here, before a VM exists, and said with the path and what to
//! do. The lock is an open-file-description lock on the whole file, so two VMs, in one process or two, cannot
//! write the same disk, nor one write what another reads. It goes when the file is closed, however that
//! happens. A block device that is to be written is also opened exclusively: the kernel refuses if it is
//! mounted.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags, ioctl_blksszget, statx};
use thiserror::Error;

use crate::format::{self, Foreign, ImageFormat};

/// Bytes in a sector, virtio's unit whatever the block size.
pub const SECTOR: u64 = 512;
/// Assumed for O_DIRECT where the kernel does not tell (before 6.1).
const DIRECT_ALIGN: u64 = 4096;

/// How long a lock is waited for. A lock outlives its VM by a moment: until a killed process and its io_uring
/// are cleaned up,
/// or a child that was being started has closed its copies.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);
/// How often it is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// What happens to written data on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Through the host's page cache; durable after a flush.
    #[default]
    Writeback,
    /// Past the page cache (O_DIRECT); durable after a flush.
    Direct,
    /// Through the page cache; flushes do nothing. For throw-away disks.
    Unsafe,
}

/// What is wrong with a disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// There is nothing at the path.
    #[error("disk {path}: no such file; create it, for example with truncate -s 10G, or correct `path`", path = .0.display())]
    Missing(PathBuf),
    /// It is a directory.
    #[error("disk {path}: is a directory; `path` must name a raw image file or a block device", path = .0.display())]
    Directory(PathBuf),
    /// It is something else, not a disk.
    #[error("disk {path}: is a {kind}; `path` must name a raw image file or a block device", path = .path.display())]
    Kind {
        /// The disk.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It has no bytes.
    #[error("disk {path}: is empty; give it a size, for example with truncate -s 10G", path = .0.display())]
    Empty(PathBuf),
    /// Its length is not a whole number of blocks.
    #[error("disk {path}: length {len} is not a multiple of {unit} bytes; pad the image or check that it is raw", path = .path.display())]
    Unaligned {
        /// The disk.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The block size in bytes.
        unit: u64,
    },
    /// It is an image that is not raw.
    #[error(
        "disk {path}: is a {format} image, not a raw image; convert it: {command}. If the disk is raw and its guest wrote this \
         header, say so: format = \"raw\"",
        path = .path.display(), format = .format.name(), command = .format.command(.path)
    )]
    Foreign {
        /// The disk.
        path: PathBuf,
        /// What it is.
        format: Foreign,
    },
    /// It may be read but not written.
    #[error("disk {path}: is not writable ({source}); set `read_only = true` or change its permissions", path = .path.display())]
    NotWritable {
        /// The disk.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// Its file system has no direct I/O.
    #[error("disk {path}: its file system does not support direct I/O; use `cache = \"writeback\"`", path = .0.display())]
    NoDirect(PathBuf),
    /// Direct I/O works in larger blocks than the guest's sectors. Larger sectors would make another disk of
    /// the image: partition tables and file systems count in them.
    #[error(
        "disk {path}: direct I/O on its file system needs blocks of {needed} bytes, and the disk has sectors of {sector}; \
         use `cache = \"writeback\"`",
        path = .path.display()
    )]
    DirectBlocks {
        /// The disk.
        path: PathBuf,
        /// What the guest has, in bytes.
        sector: u64,
        /// What direct I/O needs, in bytes.
        needed: u64,
    },
    /// Another process uses it.
    #[error("disk {path}: is in use by another VM or mounted; a disk can be shared only if all open it read-only", path = .0.display())]
    InUse(PathBuf),
    /// Anything else.
    #[error("disk {path}: cannot {what}: {source}", path = .path.display())]
    Io {
        /// The disk.
        path: PathBuf,
        /// What failed.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    len: u64,
    read_only: bool,
    cache: CacheMode,
    block_size: u32,
    memory_align: usize,
    /// A flush has failed once. The kernel reports a lost write only once, so no later flush may succeed.
    flush_failed: AtomicBool,
}

fn kind_of(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        None
    } else if kind.is_fifo() {
        Some("fifo")
    } else if kind.is_char_device() {
        Some("character device")
    } else if kind.is_socket() {
        Some("socket")
    } else {
        Some("special file")
    }
}

/// A disk that was opened, before it is locked and measured.
struct DiskFile<'a> {
    path: &'a Path,
    file: File,
    is_device: bool,
}

/// Length and alignment of a disk, in bytes.
struct Geometry {
    len: u64,
    block_size: u64,
    memory_align: u64,
}

/// Opens `path`; waits a little for an exclusive claim to go, as for a lock.
fn open_patiently(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let start = Instant::now();
    loop {
        match options.open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() <= LOCK_PATIENCE => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            result => return result,
        }
    }
}

impl<'a> DiskFile<'a> {
    /// `exclusive` asks the kernel to refuse a block device that is mounted or that another VM writes.
    fn new(path: &'a Path, read_only: bool, cache: CacheMode, exclusive: bool) -> Result<Self, DiskError> {
        let at = || path.to_path_buf();
        // Looked at before it is opened: opening a fifo waits, opening a device may act.
        let before = std::fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DiskError::Missing(at()),
            _ => DiskError::Io { path: at(), what: "look at it", source },
        })?;
        check_kind(path, &before)?;
        let is_device = before.file_type().is_block_device();
        if !is_device && before.len() == 0 {
            return Err(DiskError::Empty(at()));
        }

        let mut flags = 0;
        if cache == CacheMode::Direct {
            flags |= libc::O_DIRECT;
        }
        if is_device && !read_only && exclusive {
            flags |= libc::O_EXCL;
        }
        let file = open_patiently(OpenOptions::new().read(true).write(!read_only).custom_flags(flags), path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL) if cache == CacheMode::Direct => DiskError::NoDirect(at()),
                Some(libc::EBUSY) => DiskError::InUse(at()),
                Some(libc::EACCES | libc::EPERM | libc::EROFS) if !read_only && File::open(path).is_ok() => {
                    DiskError::NotWritable { path: at(), source }
                }
                _ => DiskError::Io { path: at(), what: "open it", source },
            })?;
        let opened = Self { path, file, is_device };
        // The path may have been given another file since.
        let metadata = opened.file.metadata().map_err(opened.failed("look at it"))?;
        check_kind(path, &metadata)?;
        Ok(opened)
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> DiskError + use<> {
        let path = self.path.to_path_buf();
        move |source| DiskError::Io { path: path.clone(), what, source }
    }

    fn lock(&self, write: bool) -> Result<(), DiskError> {
        let start = Instant::now();
        while !lock(&self.file, write).map_err(self.failed("lock it"))? {
            if start.elapsed() > LOCK_PATIENCE {
                return Err(DiskError::InUse(self.path.to_path_buf()));
            }
            std::thread::sleep(LOCK_INTERVAL);
        }
        Ok(())
    }

    fn measure(&mut self, cache: CacheMode, format: ImageFormat) -> Result<Geometry, DiskError> {
        let at = || self.path.to_path_buf();
        let find_size = self.failed("find its size");
        // For a block device the end is its size; its metadata says 0.
        let len = self.file.seek(SeekFrom::End(0)).map_err(find_size)?;
        let device_block = if self.is_device {
            logical_block_size(&self.file).map_err(self.failed("find its block size"))?
        } else {
            SECTOR
        };
        let (offset_align, memory_align) = match cache {
            CacheMode::Direct => direct_alignment(&self.file)
                .unwrap_or_else(|| (probe_offset_alignment(&self.file), DIRECT_ALIGN)),
            CacheMode::Writeback | CacheMode::Unsafe => (SECTOR, 1),
        };
        // The same in all cache modes.
        let block_size = SECTOR.max(device_block);
        if len == 0 {
            return Err(DiskError::Empty(at()));
        }
        // Before the length: other formats have odd ones.
        if format == ImageFormat::Probe {
            // Alignments are a few KiB.
            let align = block_size.max(offset_align).max(memory_align) as usize;
            if let Some(format) = format::probe(&self.file, len, align).map_err(self.failed("read it"))? {
                return Err(DiskError::Foreign { path: at(), format });
            }
        }
        if offset_align > block_size {
            return Err(DiskError::DirectBlocks { path: at(), sector: block_size, needed: offset_align });
        }
        if len % block_size != 0 {
            return Err(DiskError::Unaligned { path: at(), len, unit: block_size });
        }
        Ok(Geometry { len, block_size, memory_align })
    }
}

impl Disk {
    /// Opens and locks the disk at `path`.
    pub fn open(
        path: &Path,
        read_only: bool,
        cache: CacheMode,
        format: ImageFormat,
    ) -> Result<Self, DiskError> {
        let mut opened = DiskFile::new(path, read_only, cache, true)?;
        opened.lock(!read_only)?;
        let Geometry { len, block_size, memory_align } = opened.measure(cache, format)?;
        Ok(Self {
            file: opened.file,
            len,
            read_only,
            cache,
            // Both are a few KiB.
            block_size: block_size as u32,
            memory_align: memory_align as usize,
            flush_failed: AtomicBool::new(false),
        })
    }

    /// Finds what [`Disk::open`] would refuse, but for a disk that is in use: it takes no lock, so that a VM
    /// that is started at the same time does not notice.
    pub fn check(
        path: &Path,
        read_only: bool,
        cache: CacheMode,
        format: ImageFormat,
    ) -> Result<(), DiskError> {
        DiskFile::new(path, read_only, cache, false)?.measure(cache, format).map(drop)
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Length in bytes, a multiple of [`Disk::block_size`] and not 0.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// True for a disk that the guest must not change.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// How writes are cached.
    pub fn cache(&self) -> CacheMode {
        self.cache
    }

    /// Smallest unit of I/O in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// What addresses and lengths of buffers must be a multiple of; 1 without direct I/O.
    pub fn memory_align(&self) -> usize {
        self.memory_align
    }

    /// Remembers that a flush failed.
    pub fn set_flush_failed(&self) {
        self.flush_failed.store(true, Ordering::Release);
    }

    /// True if a flush has ever failed.
    pub fn flush_failed(&self) -> bool {
        self.flush_failed.load(Ordering::Acquire)
    }

    /// Device and inode of the file, for finding one disk given twice.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), DiskError> {
    if metadata.is_dir() {
        return Err(DiskError::Directory(path.to_path_buf()));
    }
    match kind_of(metadata) {
        None => Ok(()),
        Some(kind) => Err(DiskError::Kind { path: path.to_path_buf(), kind }),
    }
}

/// Locks all of `file`; `false` if another process has a lock that excludes this one.
#[expect(unsafe_code)]
fn lock(file: &File, write: bool) -> io::Result<bool> {
    let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the duration of the call and `range` is a valid flock structure that
    // the kernel only reads for F_OFD_SETLK.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Logical block size of a block device (BLKSSZGET).
fn logical_block_size(file: &File) -> io::Result<u64> {
    match ioctl_blksszget(file)? {
        size if size.is_power_of_two() => Ok(size.into()),
        size => Err(io::Error::other(format!("block size {size} is not a power of two"))),
    }
}

/// The alignment that direct I/O requires of offsets and of buffers (statx, Linux 6.1). `None` if the kernel
/// does not report it.
fn direct_alignment(file: &File) -> Option<(u64, u64)> {
    let info = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let (offset, memory) = (info.stx_dio_offset_align, info.stx_dio_mem_align);
    let known = StatxFlags::from_bits_retain(info.stx_mask).contains(StatxFlags::DIOALIGN);
    (known && offset.is_power_of_two() && memory.is_power_of_two()).then(|| (offset.into(), memory.into()))
}

/// What direct I/O asks of offsets, where the kernel does not say: a sector, if one can be read.
fn probe_offset_alignment(file: &File) -> u64 {
    let mut buffer = vec![0; 2 * DIRECT_ALIGN as usize];
    let start = buffer.as_ptr().align_offset(DIRECT_ALIGN as usize);
    let sector = buffer.get_mut(start..).and_then(|rest| rest.get_mut(..SECTOR as usize));
    match sector.map(|sector| file.read_at(sector, SECTOR)) {
        Some(Ok(_)) => SECTOR,
        _ => DIRECT_ALIGN,
    }
}

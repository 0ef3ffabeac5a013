// SPDX-License-Identifier: Apache-2.0
//! Disks that depend on the host: block devices, direct I/O, file systems with large sectors. They need root,
//! loop devices or a file system with direct I/O.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use cvmm_devices::virtio::block::{
    Block, BlockConfig, BlockError, CacheMode, EngineKind, F_DISCARD, F_FLUSH, F_WRITE_ZEROES, ImageFormat,
};
use cvmm_devices::virtio::testing::{BUFFERS, Ring, activate, memory};
use cvmm_disk_image::{Disk, DiskError, SECTOR};
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

const ENGINES: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Threads];
const SECTORS: u64 = 2048;
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
const OK: u8 = 0;

fn config(path: &Path, cache: CacheMode) -> BlockConfig {
    BlockConfig {
        path: path.to_path_buf(),
        read_only: false,
        serial: String::new(),
        cache,
        queues: 1,
        format: ImageFormat::Probe,
    }
}

fn image() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.img");
    fs::write(&path, vec![0xa5; (SECTORS * SECTOR) as usize]).unwrap();
    (dir, path)
}

/// A device and its driver.
struct Machine {
    device: Block,
    ring: Ring,
}

impl Machine {
    fn new(config: BlockConfig, kind: EngineKind) -> Self {
        let mut device = Block::open_with(config, kind).unwrap();
        let ring = Ring::new(&memory(), 0, 64);
        activate(&mut device, &[&ring], F_FLUSH | F_DISCARD | F_WRITE_ZEROES);
        Self { device, ring }
    }

    /// A request with one buffer between header and status; status and used length.
    fn request(&mut self, kind: u32, sector: u64, buffer: Option<(u64, u32, bool)>) -> (u8, u32) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.ring.memory.write_slice(&header, GuestAddress(HEADER)).unwrap();
        let mut chain = vec![(HEADER, 16, false)];
        chain.extend(buffer);
        chain.push((STATUS, 1, true));
        self.ring.add(&chain);
        self.ring.kick();
        let used = self.ring.wait().1;
        (self.ring.memory.read_obj(GuestAddress(STATUS)).unwrap(), used)
    }

    fn range(&mut self, kind: u32, sector: u64, count: u32) -> u8 {
        let range = [&sector.to_le_bytes()[..], &count.to_le_bytes(), &[0; 4]].concat();
        self.write(DATA, &range);
        self.request(kind, 0, Some((DATA, 16, false))).0
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.ring.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ring.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(path: &Path, sector: u64) -> Result<Self, Missing> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show", "--sector-size", &sector.to_string()]).arg(path);
        let output =
            losetup.output().map_err(|error| Missing::new(format_args!("needs losetup: {error}")))?;
        let name = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        if output.status.success() && !name.is_empty() {
            return Ok(Self(name));
        }
        let error = String::from_utf8_lossy(&output.stderr);
        Err(Missing::new(format_args!(
            "needs root and a loop device with sectors of {sector} bytes: {}",
            error.trim()
        )))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A file system on a loop device, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Loop, at: PathBuf) -> Result<Self, Missing> {
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let output = Command::new(program).args(arguments).output();
            let done = output.is_ok_and(|output| output.status.success());
            done.then_some(())
                .ok_or_else(|| Missing::new(format_args!("needs root, and a {program} that works here")))
        };
        run("mkfs.ext4", &["-q".as_ref(), device.0.as_ref()])?;
        fs::create_dir(&at).unwrap();
        run("mount", &[device.0.as_ref(), at.as_os_str()])?;
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn direct_io_takes_aligned_and_unaligned_buffers() -> suite::Result {
    for kind in ENGINES {
        let (_dir, path) = image();
        let direct = config(&path, CacheMode::Direct);
        match Block::open_with(direct.clone(), kind) {
            Ok(device) => assert!(device.disk().memory_align() > 1),
            Err(BlockError::Disk(DiskError::NoDirect(_) | DiskError::DirectBlocks { .. })) => {
                return Err(Missing::new("needs a TMPDIR with direct I/O for sectors of 512 bytes"));
            }
            Err(error) => panic!("{error}"),
        }
        let mut machine = Machine::new(direct, kind);
        for start in [DATA, DATA + 3] {
            let pattern: Vec<u8> = (0..300 * 1024_u32).map(|i| (i * 13 % 241 + start as u32) as u8).collect();
            machine.write(start, &pattern);
            let len = pattern.len() as u32;
            assert_eq!(machine.request(OUT, 8, Some((start, len, false))).0, OK);
            assert_eq!(machine.request(FLUSH, 0, None).0, OK);
            let to = (5 << 20) + start - DATA;
            assert_eq!(machine.request(IN, 8, Some((to, len, true))), (OK, len + 1));
            assert!(machine.bytes(to, pattern.len()) == pattern, "{kind:?} {start:#x}");
        }
    }
    Ok(())
}

fn a_block_device_is_a_disk() -> suite::Result {
    let (_dir, path) = image();
    let device = Loop::attach(&path, SECTOR)?;
    let at = PathBuf::from(&device.0);
    for kind in ENGINES {
        for cache in [CacheMode::Writeback, CacheMode::Direct] {
            let mut machine = Machine::new(config(&at, cache), kind);
            assert_eq!(machine.device.disk().size(), SECTORS * SECTOR);
            assert!(matches!(
                Block::open(config(&at, CacheMode::Writeback)),
                Err(BlockError::Disk(DiskError::InUse(_)))
            ));
            let pattern: Vec<u8> = (0..4096_u32).map(|i| (i * 3 % 251) as u8).collect();
            machine.write(DATA, &pattern);
            let read = Some((DATA + 0x2000, 4096, true));
            assert_eq!(machine.request(OUT, 64, Some((DATA, 4096, false))).0, OK);
            assert_eq!(machine.request(FLUSH, 0, None).0, OK);
            assert_eq!(machine.request(IN, 64, read).0, OK);
            assert!(machine.bytes(DATA + 0x2000, 4096) == pattern);
            assert_eq!(machine.range(WRITE_ZEROES, 64, 8), OK);
            assert_eq!(machine.range(DISCARD, 128, 8), OK);
            assert_eq!(machine.request(IN, 64, read).0, OK);
            assert!(machine.bytes(DATA + 0x2000, 4096).iter().all(|byte| *byte == 0), "{kind:?} {cache:?}");
        }
    }
    Ok(())
}

fn sectors(path: &Path, cache: CacheMode) -> Result<u32, BlockError> {
    Block::open(config(path, cache)).map(|block| block.disk().block_size())
}

fn the_cache_mode_does_not_change_the_sector_size_of_a_file() {
    // Where the tests run, and in memory, where direct I/O is by the page if there is any.
    let (_dir, here) = image();
    let memory = tempfile::Builder::new().tempfile_in("/dev/shm");
    if let Ok(file) = &memory {
        file.as_file().set_len(1 << 20).unwrap();
    }
    for path in std::iter::once(here.as_path()).chain(memory.as_ref().ok().map(|file| file.path())) {
        assert_eq!(sectors(path, CacheMode::Writeback).unwrap(), 512);
        match sectors(path, CacheMode::Direct) {
            Ok(size) => assert_eq!(size, 512, "{}", path.display()),
            Err(BlockError::Disk(DiskError::NoDirect(_))) => {}
            Err(BlockError::Disk(DiskError::DirectBlocks { sector, needed, .. })) => {
                assert!(sector == 512 && needed > 512)
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn a_device_with_large_sectors_keeps_them_and_its_files_cannot_use_direct_io() -> suite::Result {
    let dir = TempDir::new().unwrap();
    let backing = dir.path().join("4kn");
    File::create(&backing).unwrap().set_len(32 << 20).unwrap();
    let device = Loop::attach(&backing, 4096)?;
    for cache in [CacheMode::Writeback, CacheMode::Direct] {
        assert_eq!(sectors(Path::new(&device.0), cache).unwrap(), 4096);
    }
    let mounted = Mounted::new(&device, dir.path().join("mnt"))?;
    let path = mounted.0.join("disk.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(sectors(&path, CacheMode::Writeback).unwrap(), 512);
    let refused = sectors(&path, CacheMode::Direct).unwrap_err();
    assert!(
        matches!(refused, BlockError::Disk(DiskError::DirectBlocks { sector: 512, needed: 4096, .. })),
        "{refused}"
    );
    assert!(refused.to_string().contains("writeback"), "{refused}");
    let checked = Disk::check(&path, false, CacheMode::Direct, ImageFormat::Probe);
    assert!(matches!(checked, Err(DiskError::DirectBlocks { .. })));
    Ok(())
}

suite!(
    direct_io_takes_aligned_and_unaligned_buffers,
    a_block_device_is_a_disk,
    the_cache_mode_does_not_change_the_sector_size_of_a_file,
    a_device_with_large_sectors_keeps_them_and_its_files_cannot_use_direct_io,
);

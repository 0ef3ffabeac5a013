// SPDX-License-Identifier: Apache-2.0
//! One suite for both engines, on real files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::request::{STATUS_IOERR, STATUS_OK, STATUS_UNSUPPORTED};
use super::*;
use crate::virtio::testing::{BUFFERS, RAM_LEN, Ring, Signals, activate, memory, wait_for};

const SECTORS: u64 = 2048;
const ENGINES: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Threads];
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;
const ALL: u64 = F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_MQ;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

fn config(path: &Path) -> BlockConfig {
    BlockConfig {
        path: path.to_path_buf(),
        read_only: false,
        serial: "serial-1".into(),
        cache: CacheMode::Writeback,
        queues: 1,
        format: ImageFormat::Probe,
    }
}

/// A directory with a disk image whose every sector starts with its number.
fn image() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.img");
    let mut bytes = vec![0xa5; (SECTORS * SECTOR) as usize];
    for (number, sector) in (0_u64..).zip(bytes.chunks_mut(SECTOR as usize)) {
        sector[..8].copy_from_slice(&number.to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

struct Machine {
    device: Block,
    rings: Vec<Ring>,
    signals: Arc<Signals>,
}

impl Machine {
    fn new(config: BlockConfig, kind: EngineKind, features: u64) -> Self {
        let mut device = Block::open_with(config, kind).unwrap();
        let memory = memory();
        let rings: Vec<_> =
            (0..device.queue_sizes.len()).map(|number| Ring::new(&memory, number as u64, 64)).collect();
        let signals = activate(&mut device, &rings.iter().collect::<Vec<_>>(), features);
        Self { device, rings, signals }
    }

    fn header(&self, at: u64, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.rings[0].memory.write_slice(&header, GuestAddress(at)).unwrap();
    }

    /// One request on queue 0 with `buffers` between header and status; returns status and used length.
    fn request(&mut self, kind: u32, sector: u64, buffers: &[(u64, u32, bool)]) -> (u8, u32) {
        self.header(HEADER, kind, sector);
        let ring = &mut self.rings[0];
        ring.memory.write_obj(0xee_u8, GuestAddress(STATUS)).unwrap();
        let mut chain = vec![(HEADER, 16, false)];
        chain.extend_from_slice(buffers);
        chain.push((STATUS, 1, true));
        let head = ring.add(&chain);
        ring.kick();
        let (id, used) = ring.wait();
        assert_eq!(id, u32::from(head));
        (ring.memory.read_obj(GuestAddress(STATUS)).unwrap(), used)
    }

    fn range(&mut self, kind: u32, sector: u64, count: u32, flags: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend_from_slice(&count.to_le_bytes());
        range.extend_from_slice(&flags.to_le_bytes());
        self.rings[0].memory.write_slice(&range, GuestAddress(DATA)).unwrap();
        self.request(kind, 0, &[(DATA, 16, false)]).0
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rings[0].memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}

#[test]
fn reads_and_writes_reach_the_file() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut machine = Machine::new(config(&path), kind, ALL);
        // Split into odd pieces, one across the border of two memory regions.
        let border = (4 << 20) - 100;
        let buffers = [(DATA + 3, 700, true), (border, 200, true), (DATA + 0x4000, 2048 - 900, true)];
        assert_eq!(machine.request(IN, 5, &buffers), (STATUS_OK, 2049));
        let got =
            [machine.bytes(DATA + 3, 700), machine.bytes(border, 200), machine.bytes(DATA + 0x4000, 1148)];
        let mut want = vec![0; 2048];
        File::open(&path).unwrap().read_exact_at(&mut want, 5 * SECTOR).unwrap();
        assert_eq!(got.concat(), want, "{kind:?}");

        let pattern: Vec<u8> = (0..8192_u32).map(|i| (i * 7 % 251) as u8).collect();
        machine.rings[0].memory.write_slice(&pattern, GuestAddress(DATA + 1)).unwrap();
        let buffers = [(DATA + 1, 5000, false), (DATA + 5001, 3192, false)];
        assert_eq!(machine.request(OUT, 100, &buffers), (STATUS_OK, 1));
        assert_eq!(machine.request(FLUSH, 0, &[]), (STATUS_OK, 1));
        let mut on_disk = vec![0; 8192];
        File::open(&path).unwrap().read_exact_at(&mut on_disk, 100 * SECTOR).unwrap();
        assert_eq!(on_disk, pattern, "{kind:?}");
        assert!(machine.signals.counts.lock().unwrap()[&0] >= 3);
        assert!(!machine.signals.reset_asked());
    }
}

#[test]
fn header_and_status_may_be_spread_over_any_descriptors() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut machine = Machine::new(config(&path), kind, ALL);
        machine.header(HEADER, IN, 9);
        let ring = &mut machine.rings[0];
        // Header in three pieces with an empty one; data and status in one buffer.
        ring.add(&[
            (HEADER, 5, false),
            (HEADER + 5, 0, false),
            (HEADER + 5, 10, false),
            (HEADER + 15, 1, false),
            (DATA, 513, true),
        ]);
        ring.kick();
        assert_eq!(ring.wait().1, 513);
        assert_eq!(machine.bytes(DATA, 8), 9_u64.to_le_bytes());
        assert_eq!(machine.bytes(DATA + 512, 1), [STATUS_OK]);
    }
}

#[test]
fn indirect_chains_work() {
    let (_dir, path) = image();
    let mut machine = Machine::new(config(&path), EngineKind::detect(), ALL);
    machine.header(HEADER, IN, 3);
    let table = BUFFERS + 0x800;
    let ring = &mut machine.rings[0];
    ring.write_desc(table, 0, HEADER, 16, 1, 1);
    ring.write_desc(table, 1, DATA, 512, 3, 2);
    ring.write_desc(table, 2, STATUS, 1, 2, 0);
    ring.write_desc(ring.desc, 7, table, 48, 4, 0);
    ring.offer(7);
    ring.kick();
    assert_eq!(ring.wait(), (7, 513));
    assert_eq!(machine.bytes(DATA, 8), 3_u64.to_le_bytes());
}

#[test]
fn zeroes_and_discards_keep_to_their_range() {
    for kind in ENGINES {
        for flags in [0, 1] {
            let (_dir, path) = image();
            let mut machine = Machine::new(config(&path), kind, ALL);
            assert_eq!(machine.range(WRITE_ZEROES, 17, 33, flags), STATUS_OK);
            let bytes = fs::read(&path).unwrap();
            let zeroed: Vec<_> = (0..SECTORS)
                .filter(|s| bytes[(s * SECTOR) as usize..][..SECTOR as usize].iter().all(|b| *b == 0))
                .collect();
            assert_eq!(zeroed, (17..50).collect::<Vec<_>>(), "{kind:?} {flags}");
            assert_eq!(bytes.len() as u64, SECTORS * SECTOR);
        }
        let (_dir, path) = image();
        let mut machine = Machine::new(config(&path), kind, ALL);
        let before = fs::metadata(&path).unwrap().blocks();
        assert_eq!(machine.range(DISCARD, 1024, 512, 0), STATUS_OK);
        let metadata = fs::metadata(&path).unwrap();
        assert!(metadata.blocks() < before, "nothing was given back");
        assert_eq!(metadata.len(), SECTORS * SECTOR);
    }
}

#[test]
fn zeroes_are_written_where_the_file_system_cannot_make_them() {
    // Drives the fallback without such a file system: the operation is told that it is not supported.
    let (_dir, path) = image();
    let disk = Disk::open(&path, false, CacheMode::Writeback, ImageFormat::Probe).unwrap();
    let len = 600 * SECTOR;
    let mut op = op::Op::write_zeroes(10 * SECTOR, len, false, true);
    assert!(matches!(op.step(), op::Step::Allocate { .. }));
    let refused = Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    assert!(matches!(op.complete(refused, &disk), op::Progress::More));
    let op::Step::Write { offset, count, flags, .. } = op.step() else { panic!("not a write") };
    assert_eq!((offset, count, flags), (10 * SECTOR, 5, libc::RWF_DSYNC));
    // A short write is continued where it stopped.
    assert!(matches!(op.complete(Ok(1000), &disk), op::Progress::More));
    let op::Step::Write { offset, .. } = op.step() else { panic!("not a write") };
    assert_eq!(offset, 10 * SECTOR + 1000);
    assert!(matches!(op.complete(Ok(len - 1000), &disk), op::Progress::Done(Ok(()))));
}

#[test]
fn serial_and_config() {
    let (_dir, path) = image();
    let mut machine = Machine::new(BlockConfig { queues: 2, ..config(&path) }, EngineKind::detect(), ALL);
    assert_eq!(machine.request(GET_ID, 0, &[(DATA, 20, true)]), (STATUS_OK, 21));
    assert_eq!(&machine.bytes(DATA, 20), b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
    let mut config = [0xff; 64];
    machine.device.read_config(0, &mut config);
    assert_eq!(config[..8], SECTORS.to_le_bytes());
    assert_eq!(config[20..24], 512_u32.to_le_bytes());
    assert_eq!(config[24], 3, "8 logical blocks in a physical one");
    assert_eq!(config[34..36], 2_u16.to_le_bytes());
    assert_eq!(config[60..], [0; 4]);
    machine.device.read_config(u64::MAX, &mut config);
    assert_eq!(config, [0; 64]);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_status() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let before = fs::read(&path).unwrap();
        let mut machine = Machine::new(config(&path), kind, ALL);
        let data_in = |len| [(DATA, len, true)];
        let data_out = |len| [(DATA, len, false)];
        let refused = (STATUS_IOERR, 0);
        // Out of range, in every way arithmetic can go.
        assert_eq!(machine.request(IN, SECTORS, &data_in(512)), refused);
        assert_eq!(machine.request(IN, SECTORS - 1, &data_in(1024)), refused);
        assert_eq!(machine.request(IN, u64::MAX / 512, &data_in(512)), refused);
        assert_eq!(machine.request(IN, u64::MAX, &data_in(512)), refused);
        assert_eq!(machine.request(OUT, SECTORS, &data_out(512)).0, STATUS_IOERR);
        // Not whole sectors, nothing, wrong direction.
        assert_eq!(machine.request(IN, 0, &data_in(511)), refused);
        assert_eq!(machine.request(IN, 0, &[]).0, STATUS_IOERR);
        assert_eq!(machine.request(IN, 0, &data_out(512)).0, STATUS_IOERR);
        assert_eq!(machine.request(OUT, 0, &data_in(512)).0, STATUS_IOERR);
        // Outside memory: behind its end, and half of it.
        assert_eq!(machine.request(IN, 0, &[(RAM_LEN, 512, true)]), refused);
        assert_eq!(machine.request(IN, 0, &[(RAM_LEN - 256, 512, true)]), refused);
        assert_eq!(machine.request(IN, 0, &[(u64::MAX - 10, 512, true)]), refused);
        assert_eq!(machine.request(GET_ID, 0, &[(RAM_LEN, 20, true)]), refused);
        // Larger than any transfer.
        assert_eq!(machine.request(IN, 0, &[(0, 0x4000_0000, true)]), refused);
        // Ranges: none, too long, past the end, unknown flags, two of them.
        assert_eq!(machine.range(DISCARD, 0, 0, 0), STATUS_IOERR);
        assert_eq!(machine.range(DISCARD, 0, MAX_DISCARD_SECTORS + 1, 0), STATUS_IOERR);
        assert_eq!(machine.range(DISCARD, SECTORS - 1, 2, 0), STATUS_IOERR);
        assert_eq!(machine.range(DISCARD, u64::MAX, 1, 0), STATUS_IOERR);
        assert_eq!(machine.range(DISCARD, 0, 1, 1), STATUS_UNSUPPORTED);
        assert_eq!(machine.range(WRITE_ZEROES, 0, 1, 2), STATUS_UNSUPPORTED);
        assert_eq!(machine.request(DISCARD, 0, &data_out(32)).0, STATUS_IOERR);
        assert_eq!(machine.request(77, 0, &[]).0, STATUS_UNSUPPORTED);
        assert!(!machine.signals.reset_asked());
        drop(machine);
        assert!(fs::read(&path).unwrap() == before, "a refused request changed the disk");
    }
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let (_dir, path) = image();
    let before = fs::read(&path).unwrap();
    let read_only = BlockConfig { read_only: true, ..config(&path) };
    let mut machine = Machine::new(read_only, EngineKind::detect(), ALL);
    assert_eq!(machine.device.features() & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
    assert_eq!(machine.request(OUT, 0, &[(DATA, 512, false)]).0, STATUS_IOERR);
    assert_eq!(machine.range(WRITE_ZEROES, 0, 8, 0), STATUS_IOERR);
    assert_eq!(machine.range(DISCARD, 0, 8, 0), STATUS_IOERR);
    assert_eq!(machine.request(IN, 1, &[(DATA, 512, true)]).0, STATUS_OK);
    assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_OK);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn features_not_accepted_are_not_there() {
    let (_dir, path) = image();
    let mut machine = Machine::new(config(&path), EngineKind::detect(), 0);
    assert_eq!(machine.range(DISCARD, 0, 8, 0), STATUS_UNSUPPORTED);
    assert_eq!(machine.range(WRITE_ZEROES, 0, 8, 0), STATUS_UNSUPPORTED);
    // Without FLUSH every write is durable by itself.
    assert_eq!(machine.request(OUT, 0, &[(DATA, 512, false)]).0, STATUS_OK);
}

#[test]
fn a_file_that_shrinks_gives_errors() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut machine = Machine::new(config(&path), kind, ALL);
        File::options().write(true).open(&path).unwrap().set_len(512 * 10).unwrap();
        assert_eq!(machine.request(IN, 8, &[(DATA, 2048, true)]), (STATUS_IOERR, 0), "{kind:?}");
        assert_eq!(machine.request(IN, 8, &[(DATA, 1024, true)]), (STATUS_OK, 1025), "{kind:?}");
    }
}

#[test]
fn direct_io_takes_aligned_and_unaligned_buffers() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let direct = BlockConfig { cache: CacheMode::Direct, ..config(&path) };
        match Block::open_with(direct.clone(), kind) {
            Ok(device) => assert!(device.disk().memory_align() > 1),
            Err(BlockError::Disk(DiskError::NoDirect(_) | DiskError::DirectBlocks { .. })) => {
                eprintln!("skipped: no direct I/O for sectors of 512 bytes on this file system");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        let mut machine = Machine::new(direct, kind, ALL);
        for start in [DATA, DATA + 3] {
            let pattern: Vec<u8> = (0..300 * 1024_u32).map(|i| (i * 13 % 241 + start as u32) as u8).collect();
            machine.rings[0].memory.write_slice(&pattern, GuestAddress(start)).unwrap();
            let len = pattern.len() as u32;
            assert_eq!(machine.request(OUT, 8, &[(start, len, false)]).0, STATUS_OK);
            assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_OK);
            let to = 5 << 20;
            assert_eq!(machine.request(IN, 8, &[(to + start - DATA, len, true)]), (STATUS_OK, len + 1));
            assert!(machine.bytes(to + start - DATA, pattern.len()) == pattern, "{kind:?} {start:#x}");
        }
    }
}

#[test]
fn many_requests_on_many_queues_keep_data_intact() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut machine = Machine::new(BlockConfig { queues: 4, ..config(&path) }, kind, ALL);
        let mut rings = std::mem::take(&mut machine.rings);
        std::thread::scope(|scope| {
            for (number, ring) in (0_u64..).zip(&mut rings) {
                scope.spawn(move || hammer(ring, number));
            }
        });
        assert!(!machine.signals.reset_asked());
        machine.device.reset();
        // Each queue wrote its quarter of the disk.
        let bytes = fs::read(&path).unwrap();
        for (sector, data) in (0_u64..).zip(bytes.chunks(SECTOR as usize)) {
            let want = (sector / 512 * 1_000_000 + sector % 512 + 31).to_le_bytes();
            assert!(data.chunks(8).all(|word| word == want), "{kind:?} sector {sector}");
        }
    }
}

/// Writes a quarter of the disk in batches of 16 requests of 2 sectors, then reads it back.
fn hammer(ring: &mut Ring, number: u64) {
    let base = BUFFERS + number * 0x4_0000;
    let slot = |i: u64| base + i * 0x1000;
    for kind in [OUT, IN] {
        for batch in 0..16_u64 {
            for i in 0..16_u64 {
                let sector = number * 512 + (batch * 16 + i) * 2;
                let mut header = [0; 16];
                header[..4].copy_from_slice(&kind.to_le_bytes());
                header[8..].copy_from_slice(&sector.to_le_bytes());
                ring.memory.write_slice(&header, GuestAddress(slot(i))).unwrap();
                ring.memory.write_obj(0xee_u8, GuestAddress(slot(i) + 16)).unwrap();
                if kind == OUT {
                    ring.memory.write_slice(&content(sector), GuestAddress(slot(i) + 512)).unwrap();
                }
                ring.add(&[(slot(i), 16, false), (slot(i) + 512, 1024, kind == IN), (slot(i) + 16, 1, true)]);
                if i % 5 == 0 {
                    ring.kick();
                }
            }
            ring.kick();
            for _ in 0..16 {
                ring.wait();
            }
            for i in 0..16_u64 {
                assert_eq!(ring.memory.read_obj::<u8>(GuestAddress(slot(i) + 16)).unwrap(), STATUS_OK);
                let mut got = vec![0; 1024];
                ring.memory.read_slice(&mut got, GuestAddress(slot(i) + 512)).unwrap();
                assert!(got == content(number * 512 + (batch * 16 + i) * 2), "batch {batch} request {i}");
                // The next round must not find what this one left.
                ring.memory.write_slice(&[0; 1024], GuestAddress(slot(i) + 512)).unwrap();
            }
        }
    }
}

fn content(sector: u64) -> Vec<u8> {
    (sector..sector + 2).flat_map(|s| (s / 512 * 1_000_000 + s % 512 + 31).to_le_bytes().repeat(64)).collect()
}

#[test]
fn nothing_is_missed_when_driver_and_device_announce_as_little_as_they_may() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut device = Block::open_with(config(&path), kind).unwrap();
        let memory = memory();
        let mut ring = Ring { event_idx: true, ..Ring::new(&memory, 0, 64) };
        let signals = activate(&mut device, &[&ring], ALL);
        let interrupts = || signals.counts.lock().unwrap().get(&0).copied().unwrap_or(0);
        let slot = |i: u64| BUFFERS + i * 0x1000;
        let rounds = 300_u64;
        for round in 0..rounds {
            let seen = interrupts();
            ring.ask_interrupt();
            let batch = 1 + round % 16;
            for i in 0..batch {
                let mut header = [0; 16];
                header[8..].copy_from_slice(&(round + i).to_le_bytes());
                memory.write_slice(&header, GuestAddress(slot(i))).unwrap();
                ring.add(&[(slot(i), 16, false), (slot(i) + 512, 512, true), (slot(i) + 16, 1, true)]);
                ring.kick_if_asked();
            }
            // As Linux does: sleeps until interrupted, then takes all there is, then asks again.
            let mut used = 0;
            let mut last = seen;
            assert!(
                wait_for(|| {
                    if interrupts() == last {
                        return false;
                    }
                    last = interrupts();
                    loop {
                        while ring.poll().is_some() {
                            used += 1;
                        }
                        ring.ask_interrupt();
                        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                        match ring.poll() {
                            Some(_) => used += 1,
                            None => break,
                        }
                    }
                    used == batch
                }),
                "{kind:?} round {round}: {used} of {batch} after {} interrupts",
                interrupts()
            );
            for i in 0..batch {
                let sector: u64 = memory.read_obj(GuestAddress(slot(i) + 512)).unwrap();
                assert_eq!(sector, round + i);
            }
        }
        assert!(u64::from(ring.kicks) >= rounds, "each round begins with an idle device");
        assert!(!signals.reset_asked());
    }
}

#[test]
fn a_block_device_is_a_disk() {
    let (_dir, path) = image();
    let Some(device) = Loop::attach(&path) else {
        eprintln!("skipped: no loop device can be set up here (needs root)");
        return;
    };
    let at = PathBuf::from(&device.0);
    for kind in ENGINES {
        for cache in [CacheMode::Writeback, CacheMode::Direct] {
            let mut machine = Machine::new(BlockConfig { cache, ..config(&at) }, kind, ALL);
            assert_eq!(machine.device.disk().size(), SECTORS * SECTOR);
            assert!(matches!(Block::open(config(&at)), Err(BlockError::Disk(DiskError::InUse(_)))));
            let pattern: Vec<u8> = (0..4096_u32).map(|i| (i * 3 % 251) as u8).collect();
            machine.rings[0].memory.write_slice(&pattern, GuestAddress(DATA)).unwrap();
            assert_eq!(machine.request(OUT, 64, &[(DATA, 4096, false)]).0, STATUS_OK);
            assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_OK);
            assert_eq!(machine.request(IN, 64, &[(DATA + 0x2000, 4096, true)]).0, STATUS_OK);
            assert!(machine.bytes(DATA + 0x2000, 4096) == pattern);
            assert_eq!(machine.range(WRITE_ZEROES, 64, 8, 0), STATUS_OK);
            assert_eq!(machine.range(DISCARD, 128, 8, 0), STATUS_OK);
            assert_eq!(machine.request(IN, 64, &[(DATA + 0x2000, 4096, true)]).0, STATUS_OK);
            assert!(machine.bytes(DATA + 0x2000, 4096).iter().all(|byte| *byte == 0), "{kind:?} {cache:?}");
        }
    }
}

/// A file system on a loop device, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Loop, at: PathBuf) -> Option<Self> {
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let status = std::process::Command::new(program).args(arguments).output();
            status.is_ok_and(|output| output.status.success()).then_some(())
        };
        run("mkfs.ext4", &["-q".as_ref(), device.0.as_ref()])?;
        fs::create_dir(&at).ok()?;
        run("mount", &[device.0.as_ref(), at.as_os_str()])?;
        Some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn the_cache_mode_does_not_change_the_sector_size() {
    let sectors = |path: &Path, cache| match Block::open(BlockConfig { cache, ..config(path) }) {
        Ok(block) => Ok(block.disk().block_size()),
        Err(error) => Err(error),
    };
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
                assert!(sector == 512 && needed > 512);
            }
            Err(error) => panic!("{error}"),
        }
    }

    let dir = TempDir::new().unwrap();
    let backing = dir.path().join("4kn");
    File::create(&backing).unwrap().set_len(32 << 20).unwrap();
    let Some(device) = Loop::with_sectors(&backing, 4096) else {
        eprintln!("skipped: no loop device with sectors of 4096 bytes can be set up here (needs root)");
        return;
    };
    // A device keeps its own sectors.
    for cache in [CacheMode::Writeback, CacheMode::Direct] {
        assert_eq!(sectors(Path::new(&device.0), cache).unwrap(), 4096);
    }
    let Some(mounted) = Mounted::new(&device, dir.path().join("mnt")) else {
        eprintln!("skipped: no file system can be made and mounted here (needs root)");
        return;
    };
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
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(path: &Path) -> Option<Self> {
        Self::with_sectors(path, SECTOR)
    }

    fn with_sectors(path: &Path, size: u64) -> Option<Self> {
        let output = std::process::Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &size.to_string()])
            .arg(path)
            .output()
            .ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !name.is_empty()).then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn reset_waits_for_what_is_in_flight_and_the_device_starts_again() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut machine = Machine::new(config(&path), kind, ALL);
        for round in 0..20_u8 {
            machine.header(HEADER, OUT, 0);
            let ring = &mut machine.rings[0];
            let data = vec![round; 256 * 1024];
            ring.memory.write_slice(&data, GuestAddress(DATA)).unwrap();
            ring.add(&[(HEADER, 16, false), (DATA, 256 * 1024, false), (STATUS, 1, true)]);
            ring.kick();
            // Reset at once, or a little later.
            std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 100));
            machine.device.reset();
            assert!(machine.device.workers.is_empty());
            let first = fs::read(&path).unwrap()[..256 * 1024].to_vec();
            std::thread::sleep(std::time::Duration::from_millis(1));
            let second = fs::read(&path).unwrap()[..256 * 1024].to_vec();
            assert!(first == second, "{kind:?}: written after reset");
            let memory = memory();
            machine.rings = vec![Ring::new(&memory, 0, 64)];
            machine.signals = activate(&mut machine.device, &[&machine.rings[0]], ALL);
        }
        assert_eq!(machine.request(IN, 1, &[(DATA, 512, true)]).0, STATUS_OK);
    }
}

#[test]
fn a_chain_without_status_breaks_the_queue() {
    let (_dir, path) = image();
    let read_only = [(HEADER, 16, false)];
    let outside = [(HEADER, 16, false), (RAM_LEN + 5, 1, true)];
    for chain in [&read_only[..], &outside[..]] {
        let mut machine = Machine::new(config(&path), EngineKind::detect(), ALL);
        machine.header(HEADER, FLUSH, 0);
        machine.rings[0].add(chain);
        machine.rings[0].kick();
        assert!(wait_for(|| machine.signals.reset_asked()), "{chain:?}");
        assert_eq!(machine.rings[0].poll(), None);
    }
}

#[test]
fn a_failed_flush_is_never_followed_by_a_good_one() {
    let (_dir, path) = image();
    let mut machine = Machine::new(config(&path), EngineKind::detect(), ALL);
    assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_OK);
    machine.device.disk().set_flush_failed();
    assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_IOERR);
}

mod opening {
    use super::*;

    fn error(path: &Path) -> DiskError {
        match Block::open(config(path)).unwrap_err() {
            BlockError::Disk(error) => error,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_disk() {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(matches!(error(&at("none")), DiskError::Missing(_)));
        assert!(matches!(error(dir.path()), DiskError::Directory(_)));
        assert!(matches!(error(Path::new("/dev/null")), DiskError::Kind { kind: "character device", .. }));
        File::create(at("empty")).unwrap();
        assert!(matches!(error(&at("empty")), DiskError::Empty(_)));
        fs::write(at("odd"), [0; 1000]).unwrap();
        let odd = error(&at("odd"));
        assert!(matches!(odd, DiskError::Unaligned { len: 1000, unit: 512, .. }));
        assert!(odd.to_string().contains("length 1000 is not a multiple of 512 bytes"), "{odd}");
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());
        assert!(matches!(error(&at("fifo")), DiskError::Kind { kind: "fifo", .. }));
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(matches!(error(&at("socket")), DiskError::Kind { kind: "socket", .. }));
    }

    #[test]
    fn checks_what_was_configured() {
        let (_dir, path) = image();
        let open = |change: fn(&mut BlockConfig)| {
            let mut config = config(&path);
            change(&mut config);
            Block::open(config)
        };
        assert!(open(|c| c.serial = "12345678901234567890".into()).is_ok());
        assert!(matches!(
            open(|c| c.serial = "123456789012345678901".into()),
            Err(BlockError::Serial { .. })
        ));
        assert!(matches!(open(|c| c.serial = "tab\t".into()), Err(BlockError::Serial { .. })));
        assert!(matches!(open(|c| c.queues = 0), Err(BlockError::Queues { .. })));
        assert!(matches!(open(|c| c.queues = 17), Err(BlockError::Queues { .. })));
    }

    #[test]
    fn an_image_of_another_format_is_refused_unless_it_is_said_to_be_raw() {
        let dir = TempDir::new().unwrap();
        let (qcow2, vhd) = (dir.path().join("a.qcow2"), dir.path().join("b.vhd"));
        // An empty qcow2 image's length need not be a multiple of a sector: that it is qcow2 matters more.
        fs::write(&qcow2, [b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 193_000]].concat()).unwrap();
        fs::write(&vhd, [&[0; 1 << 20][..], b"conectix", &[0; 504]].concat()).unwrap();
        for (path, format) in [(&qcow2, "qcow2"), (&vhd, "VHD")] {
            let (before, error) = (fs::read(path).unwrap(), error(path));
            assert!(
                matches!(&error, DiskError::Foreign { format: found, .. } if found.name() == format),
                "{error}"
            );
            let text = error.to_string();
            let command =
                format!("qemu-img convert -f {} -O raw", if format == "VHD" { "vpc" } else { format });
            assert!(text.contains(&command) && text.contains("format = \"raw\""), "{text}");
            assert!(fs::read(path).unwrap() == before);
            let check = |format| Disk::check(path, false, CacheMode::Writeback, format);
            assert!(matches!(check(ImageFormat::Probe), Err(DiskError::Foreign { .. })));
        }
        Block::open(BlockConfig { format: ImageFormat::Raw, ..config(&vhd) }).unwrap();
        match Block::open(BlockConfig { cache: CacheMode::Direct, ..config(&vhd) }) {
            Err(BlockError::Disk(
                DiskError::Foreign { .. } | DiskError::NoDirect(_) | DiskError::DirectBlocks { .. },
            )) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_check_finds_what_is_wrong_and_disturbs_nobody() {
        let (_dir, path) = image();
        let check = |path: &Path| Disk::check(path, false, CacheMode::Writeback, ImageFormat::Probe);
        assert!(matches!(check(&path.with_extension("none")), Err(DiskError::Missing(_))));
        let _writer = Block::open(config(&path)).unwrap();
        check(&path).unwrap();
    }

    #[test]
    fn a_disk_has_one_writer_or_many_readers() {
        let (_dir, path) = image();
        let reader = || Block::open(BlockConfig { read_only: true, ..config(&path) });
        let writer = Block::open(config(&path)).unwrap();
        assert!(matches!(error(&path), DiskError::InUse(_)));
        assert!(matches!(reader(), Err(BlockError::Disk(DiskError::InUse(_)))));
        drop(writer);
        let first = reader().unwrap();
        let second = reader().unwrap();
        assert!(matches!(error(&path), DiskError::InUse(_)));
        drop((first, second));
        Block::open(config(&path)).unwrap();
    }
}

/// Rings and headers that change while the device reads them.
#[test]
fn a_guest_that_rewrites_its_rings_all_the_time_does_no_harm() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut device = Block::open_with(config(&path), kind).unwrap();
        let memory = memory();
        let done = std::sync::atomic::AtomicBool::new(false);
        let mut activations = 0;
        std::thread::scope(|scope| {
            let (memory, done) = (&memory, &done);
            scope.spawn(move || {
                let ring = Ring::new(memory, 0, 16);
                let mut state = 0x1234_5678_9abc_def1_u64;
                let mut random = || {
                    // xorshift64
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state
                };
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let i = (random() % 16) as u16;
                    let len = [16, 512, 1, 1024][(random() % 4) as usize];
                    let addr = BUFFERS + random() % 0x40 * 0x100;
                    ring.write_desc(ring.desc, i, addr, len, (random() % 4) as u16, (random() % 16) as u16);
                    let header = [[0, 1, 4, 8, 11, 13][(random() % 6) as usize], random() % SECTORS];
                    for (at, word) in (0_u64..).zip(header) {
                        memory
                            .write_obj(word, GuestAddress(BUFFERS + random() % 0x40 * 0x100 + 8 * at))
                            .unwrap();
                    }
                    let slot = ring.avail + 4 + 2 * (random() % 16);
                    memory.write_obj((random() % 17) as u16, GuestAddress(slot)).unwrap();
                }
            });
            let start = std::time::Instant::now();
            while start.elapsed() < std::time::Duration::from_millis(400) {
                let ring = Ring::new(memory, 0, 16);
                let signals = activate(&mut device, &[&ring], ALL);
                for idx in 1..200_u16 {
                    ring.set_avail_idx(idx);
                    ring.kick();
                    if signals.reset_asked() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                let reset = std::time::Instant::now();
                device.reset();
                assert!(reset.elapsed() < crate::virtio::testing::PATIENCE);
                activations += 1;
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(activations > 1);
        assert_eq!(fs::metadata(&path).unwrap().len(), SECTORS * SECTOR);
        // It still works for a driver that behaves.
        drop(device);
        let mut machine = Machine::new(config(&path), kind, ALL);
        assert_eq!(machine.request(IN, 0, &[(DATA, 512, true)]).0, STATUS_OK);
    }
}

/// A descriptor as a hostile driver might write it: mostly near something valid.
fn descriptor() -> impl Strategy<Value = (u64, u32, u16, u16)> {
    let addr = prop_oneof![
        4 => (0..0x40_u64).prop_map(|page| BUFFERS + page * 0x100),
        1 => Just(RAM_LEN - 8),
        1 => Just(0x1000),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => Just(16_u32), 4 => Just(512), 2 => Just(1), 1 => Just(0), 1 => any::<u32>()];
    let next = prop_oneof![8 => 0..16_u16, 1 => any::<u16>()];
    (addr, len, 0..8_u16, next)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Whatever is in rings, tables and headers: no panic, no hang, and the worker still ends.
    #[test]
    fn hostile_rings_do_no_harm(
        descriptors in proptest::collection::vec(descriptor(), 16),
        indirect in proptest::collection::vec(descriptor(), 16),
        heads in proptest::collection::vec(prop_oneof![8 => 0..16_u16, 1 => any::<u16>()], 16),
        jump in prop_oneof![8 => 1..17_u16, 1 => any::<u16>()],
        headers in proptest::collection::vec((0..16_u32, prop_oneof![0..SECTORS, any::<u64>()]), 16),
        threads in any::<bool>(),
    ) {
        let (_dir, path) = image();
        let kind = if threads { EngineKind::Threads } else { EngineKind::Uring };
        let mut device = Block::open_with(config(&path), kind).unwrap();
        let memory = memory();
        let mut ring = Ring::new(&memory, 0, 16);
        for (i, (kind, sector)) in (0_u64..).zip(headers) {
            let mut header = [0; 16];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..].copy_from_slice(&sector.to_le_bytes());
            memory.write_slice(&header, GuestAddress(BUFFERS + i * 0x100)).unwrap();
        }
        for (table, list) in [(ring.desc, descriptors), (BUFFERS + 0x2000, indirect)] {
            for (index, (addr, len, flags, next)) in (0_u16..).zip(list) {
                let (addr, len) = if flags & 4 != 0 { (BUFFERS + 0x2000, len.min(256)) } else { (addr, len) };
                ring.write_desc(table, index, addr, len, flags, next);
            }
        }
        let signals = activate(&mut device, &[&ring], ALL);
        for head in heads {
            ring.offer(head);
        }
        ring.set_avail_idx(jump);
        ring.kick();
        // Either everything asked for is answered, or the queue is broken.
        let mut answered = 0;
        let settled = wait_for(|| {
            while ring.poll().is_some() {
                answered += 1;
            }
            answered >= jump || signals.reset_asked()
        });
        prop_assert!(settled, "neither answered nor broken: {answered} of {jump}");
        let start = std::time::Instant::now();
        device.reset();
        prop_assert!(start.elapsed() < crate::virtio::testing::PATIENCE);
        prop_assert_eq!(fs::metadata(&path).unwrap().len(), SECTORS * SECTOR);
    }
}

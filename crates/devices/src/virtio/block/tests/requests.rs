// SPDX-License-Identifier: Apache-2.0
//! Single requests: what reaches the file, and what is refused.

use super::*;

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
fn requests_bytes_and_errors_are_counted_for_each_queue() {
    for kind in ENGINES {
        let (_dir, path) = image();
        let mut machine = Machine::new(BlockConfig { queues: 2, ..config(&path) }, kind, ALL);
        assert_eq!(machine.request(IN, 0, &[(DATA, 1024, true)]).0, STATUS_OK);
        assert_eq!(machine.request(OUT, 0, &[(DATA, 512, false)]).0, STATUS_OK);
        assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_OK);
        assert_eq!(machine.range(DISCARD, 8, 8, 0), STATUS_OK);
        assert_eq!(machine.request(GET_ID, 0, &[(DATA, 20, true)]).0, STATUS_OK);
        // Past the end.
        assert_eq!(machine.request(IN, SECTORS, &[(DATA, 512, true)]).0, STATUS_IOERR);
        let view = View::of(&*machine.device.metrics());
        let counts = |queue: &str| {
            ["reads", "writes", "flushes", "discards", "others", "bytes_read", "bytes_written", "errors"]
                .map(|name| view.count(&[queue, name]).unwrap())
        };
        assert_eq!(counts("queue0"), [1, 1, 1, 1, 2, 1024, 512, 1], "{kind:?}");
        assert_eq!(counts("queue1"), [0; 8], "{kind:?}");
        assert_eq!(view.count(&["size"]), Some(SECTORS * SECTOR));
        assert_eq!(view.get(&["read_only"]), Some(&Value::Flag(false)));
        let ring = &machine.rings[0].metrics;
        assert_eq!((ring.requests.get(), ring.errors.get()), (6, 0));
        assert!(ring.kicks.get() >= 1 && ring.interrupts.get() >= 1);
        // They go on after a reset.
        machine.device.reset();
        assert_eq!(View::of(&*machine.device.metrics()).count(&["queue0", "reads"]), Some(1));
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
fn a_failed_flush_is_never_followed_by_a_good_one() {
    let (_dir, path) = image();
    let mut machine = Machine::new(config(&path), EngineKind::detect(), ALL);
    assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_OK);
    machine.device.disk().set_flush_failed();
    assert_eq!(machine.request(FLUSH, 0, &[]).0, STATUS_IOERR);
}

// SPDX-License-Identifier: Apache-2.0
//! Drivers that break the rules.

use super::*;

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

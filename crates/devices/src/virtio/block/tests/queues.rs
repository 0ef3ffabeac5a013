// SPDX-License-Identifier: Apache-2.0
//! Many requests and queues at a time, notifications, reset.

use super::*;

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

// SPDX-License-Identifier: Apache-2.0
//! Drives a disk as a guest's driver does, without a VM: `block_reads FILE DEPTH REQUESTS`.
//!
//! Random reads of 4 KiB, DEPTH at a time, by indirect descriptors and with event indexes, as Linux makes
//! them. For costs of the device in instructions:
//!
//! ```text
//! cargo build --profile boot -p cvmm-devices --example block_reads
//! valgrind --tool=callgrind target/boot/examples/block_reads disk.img 32 20000
//! ```

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: it ends with the first mistake")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use cvmm_devices::memory::DeviceMemory;
use cvmm_devices::virtio::block::{Block, BlockConfig, CacheMode, EngineKind, F_FLUSH, ImageFormat};
use cvmm_devices::virtio::worker::event_fd;
use cvmm_devices::virtio::{Activation, ActiveQueue, VirtioDevice, VirtioInterrupt};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const SIZE: u16 = 256;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x6000;
/// Each slot has 256 bytes here: an indirect table, a header at 0x80 and a status at 0xa0.
const TABLES: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const BLOCK: u64 = 4096;

/// The driver waits on an eventfd, as a guest waits for its interrupt.
struct Interrupt(EventFd);

impl VirtioInterrupt for Interrupt {
    fn signal_queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }

    fn signal_config(&self) {}

    fn needs_reset(&self) {
        std::process::abort();
    }
}

struct Driver {
    memory: DeviceMemory,
    avail_idx: u16,
    used_idx: u16,
    seed: u64,
}

impl Driver {
    fn put<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn descriptor(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        self.put(at, addr);
        self.put(at + 8, len);
        self.put(at + 12, flags);
        self.put(at + 14, next);
    }

    /// Makes a read of a random block available.
    fn send(&mut self, slot: u16, blocks: u64) {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let table = TABLES + u64::from(slot) * 0x100;
        self.put(table + 0x80, 0_u32);
        self.put(table + 0x88, (self.seed >> 33) % blocks * (BLOCK / 512));
        self.descriptor(table, table + 0x80, 16, 1, 1);
        self.descriptor(table + 16, DATA + u64::from(slot) * BLOCK, BLOCK as u32, 3, 2);
        self.descriptor(table + 32, table + 0xa0, 1, 2, 0);
        self.descriptor(DESC + u64::from(slot) * 16, table, 48, 4, 0);
        self.put(AVAIL + 4 + u64::from(self.avail_idx % SIZE) * 2, slot);
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    /// Publishes what was sent since `old`; whether the device wants its doorbell rung.
    fn publish(&self, old: u16) -> bool {
        self.memory.store(self.avail_idx, GuestAddress(AVAIL + 2), Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
        let event: u16 = self.memory.read_obj(GuestAddress(USED + 4 + 8 * u64::from(SIZE))).unwrap();
        self.avail_idx.wrapping_sub(event).wrapping_sub(1) < self.avail_idx.wrapping_sub(old)
    }

    fn used(&self) -> u16 {
        self.memory.load(GuestAddress(USED + 2), Ordering::Acquire).unwrap()
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [_, path, depth, total] = &words[..] else {
        println!("usage: block_reads FILE DEPTH REQUESTS");
        return;
    };
    let (depth, total): (u16, u64) = (depth.parse().unwrap(), total.parse().unwrap());
    let blocks = std::fs::metadata(path).unwrap().len() / BLOCK;
    assert!(blocks > 0 && (1..=SIZE).contains(&depth), "FILE needs 4 KiB, and DEPTH is 1 to {SIZE}");

    let mut block = Block::open(BlockConfig {
        path: PathBuf::from(path),
        read_only: true,
        serial: String::new(),
        cache: CacheMode::Writeback,
        format: ImageFormat::Raw,
        queues: 1,
    })
    .unwrap();
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
    let memory = DeviceMemory::new(Arc::new(ram));
    let mut queue = Queue::new(SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(DESC)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAIL)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_event_idx(true);
    queue.set_ready(true);
    let kick = Arc::new(event_fd().unwrap());
    let interrupt = Arc::new(Interrupt(EventFd::new(0).unwrap()));
    let active = ActiveQueue { index: 0, queue, kick: kick.clone(), metrics: Arc::default() };
    let metrics = active.metrics.clone();
    let activation = Activation {
        memory: memory.clone(),
        queues: vec![active],
        interrupt: interrupt.clone(),
        features: F_FLUSH,
    };
    block.activate(activation).unwrap();

    let mut driver = Driver { memory, avail_idx: 0, used_idx: 0, seed: 1 };
    let mut free: Vec<u16> = (0..depth).rev().collect();
    let (mut sent, mut done) = (0, 0);
    let start = Instant::now();
    while done < total {
        let old = driver.avail_idx;
        while sent < total
            && let Some(slot) = free.pop()
        {
            driver.send(slot, blocks);
            sent += 1;
        }
        if driver.avail_idx != old && driver.publish(old) {
            kick.write(1).unwrap();
        }
        // Ask for an interrupt at the next completion, look once more, then wait.
        driver.put(AVAIL + 4 + 2 * u64::from(SIZE), driver.used_idx);
        fence(Ordering::SeqCst);
        if driver.used() == driver.used_idx {
            interrupt.0.read().unwrap();
        }
        let used = driver.used();
        while driver.used_idx != used {
            let at = USED + 4 + u64::from(driver.used_idx % SIZE) * 8;
            let slot: u32 = driver.memory.read_obj(GuestAddress(at)).unwrap();
            let slot = slot as u16;
            let status: u8 =
                driver.memory.read_obj(GuestAddress(TABLES + u64::from(slot) * 0x100 + 0xa0)).unwrap();
            assert_eq!(status, 0, "a read failed");
            free.push(slot);
            done += 1;
            driver.used_idx = driver.used_idx.wrapping_add(1);
        }
    }
    let nanos = start.elapsed().as_nanos() as f64 / total as f64;
    let engine = EngineKind::detect();
    println!(
        "{total} reads, depth {depth}, {engine:?}: {nanos:.0} ns each, {} kicks, {} interrupts",
        metrics.kicks.get(),
        metrics.interrupts.get()
    );
}

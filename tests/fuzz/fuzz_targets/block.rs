// SPDX-License-Identifier: Apache-2.0
//! virtio-blk: requests of a hostile driver through worker, engine and a real file.
//!
//! The device works on its own threads, so after a kick a step waits for the first interrupt or half a
//! millisecond; what is not done by then runs into the next step or the reset. Runs are therefore not quite
//! reproducible. What is checked: a reset always ends, the file keeps its length, and no thread panics.
#![no_main]

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cvmm_devices::virtio::block::{
    Block, BlockConfig, BlockError, CacheMode, DiskError, EngineKind, ImageFormat,
};
use cvmm_devices::virtio::worker::event_fd;
use cvmm_devices::virtio::{Activation, ActiveQueue, VirtioDevice, VirtioInterrupt};
use cvmm_fuzz::Input;
use cvmm_fuzz::machine::memory;
use cvmm_fuzz::ring::{RAM, Ring};
use libfuzzer_sys::fuzz_target;

const DISK: u64 = 64 << 10;
const STEPS: usize = 48;
const KICKS: usize = 3;

#[derive(Default)]
struct Signals(AtomicU32);

impl VirtioInterrupt for Signals {
    fn signal_queue(&self, index: u16) {
        assert_eq!(index, 0);
        self.0.fetch_add(1, Ordering::Release);
    }

    fn signal_config(&self) {}

    fn needs_reset(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A file in memory, so that durability costs nothing. One for all runs.
fn disk() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).expect("a file");
        file.set_len(DISK).expect("room for it");
        file
    })
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mode = input.u8();
    let file = disk();
    let cache = match mode >> 5 & 3 {
        0 | 1 => CacheMode::Writeback,
        2 => CacheMode::Unsafe,
        _ => CacheMode::Direct,
    };
    let config = |cache| BlockConfig {
        path: PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        read_only: mode & 1 != 0,
        serial: "fuzz".into(),
        cache,
        format: ImageFormat::Raw,
        queues: 1,
    };
    let kind = if mode & 4 != 0 { EngineKind::Threads } else { EngineKind::detect() };
    let mut block = match Block::open_with(config(cache), kind) {
        // Linux before 6.6 has no direct I/O on files in memory.
        Err(BlockError::Disk(DiskError::NoDirect(_))) => Block::open_with(config(CacheMode::Writeback), kind),
        other => other,
    }
    .expect("the disk is good");
    let memory = memory(RAM as usize);
    let mut ring = Ring::new(&memory, input.u8());
    let kick = Arc::new(event_fd().expect("an eventfd"));
    let signals = Arc::new(Signals::default());
    let active = ActiveQueue { index: 0, queue: ring.queue(mode & 8 != 0), kick: kick.clone(), metrics: Arc::default() };
    let accepted = if mode & 16 != 0 { block.features() } else { block.features() & !(1 << 9) };
    let activation =
        Activation { memory, queues: vec![active], interrupt: signals.clone(), features: accepted };

    // Most steps only fill the rings: they need no device yet.
    let mut kicks = 0;
    let mut activation = Some(activation);
    for _ in 0..STEPS {
        if !input.more() || kicks == KICKS {
            break;
        }
        let op = input.u8();
        if op < 0xf0 {
            ring.step(op, &mut input);
            continue;
        }
        kicks += 1;
        if let Some(activation) = activation.take() {
            block.activate(activation).expect("the host has threads");
        }
        let before = signals.0.load(Ordering::Acquire);
        kick.write(1).expect("a counter that is not full");
        // An interrupt or a broken queue is the normal end of this; a driver that wants none gets less time.
        let start = Instant::now();
        while signals.0.load(Ordering::Acquire) == before && start.elapsed() < Duration::from_micros(500) {
            std::thread::yield_now();
        }
    }
    block.reset();
    drop(block);
    let mut file = file;
    let len = file.seek(SeekFrom::End(0)).expect("a file");
    assert_eq!(len, DISK, "the disk's length is not the guest's to change");
});

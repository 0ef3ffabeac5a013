// SPDX-License-Identifier: Apache-2.0
//! The descriptor chain walker on rings that the driver fills as it likes: loops, dangling and nested chains,
//! indexes that jump, addresses outside of RAM.
#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cvmm_devices::virtio::queue::{Chain, VirtQueue, take_front, total_len, write_segments};
use cvmm_devices::virtio::worker::event_fd;
use cvmm_devices::virtio::{ActiveQueue, VirtioInterrupt};
use cvmm_fuzz::Input;
use cvmm_fuzz::machine::memory;
use cvmm_fuzz::ring::{RAM, Ring};
use libfuzzer_sys::fuzz_target;

const STEPS: usize = 256;

#[derive(Default)]
struct Signals {
    queue: AtomicU32,
    resets: AtomicU32,
}

impl VirtioInterrupt for Signals {
    fn signal_queue(&self, index: u16) {
        assert_eq!(index, 7);
        self.queue.fetch_add(1, Ordering::Relaxed);
    }

    fn signal_config(&self) {}

    fn needs_reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a popped chain must be, whatever the driver wrote.
fn check(chain: &Chain, size: u16) {
    let segments = chain.readable.len() + chain.writable.len();
    assert!(segments <= size.into(), "{segments} segments in a queue of {size}");
    assert!(chain.readable.iter().chain(&chain.writable).all(|segment| segment.len > 0));
    // Devices count bytes of a chain in 32 bits.
    assert!(total_len(&chain.readable) + total_len(&chain.writable) <= u64::from(u32::MAX));
    assert!(chain.head < size, "head {}", chain.head);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let memory = memory(RAM as usize);
    let mut ring = Ring::new(&memory, input.u8());
    let size = ring.size();
    let signals = Arc::new(Signals::default());
    let kick = Arc::new(event_fd().expect("an eventfd"));
    let active =
        ActiveQueue { index: 7, queue: ring.queue(input.u8() & 1 != 0), kick, metrics: Arc::default() };
    let mut queue = VirtQueue::new(active, memory, signals.clone());
    let mut chain = Chain::default();
    let mut taken: Vec<u16> = Vec::new();
    let mut failed = false;

    for _ in 0..STEPS {
        if !input.more() {
            break;
        }
        let op = input.u8();
        match op {
            // As a device with requests in flight works.
            0xf0..=0xf7 if !queue.is_broken() => match queue.pop(&mut chain) {
                Ok(true) => {
                    check(&chain, size);
                    taken.push(chain.head);
                    assert!(taken.len() <= size.into(), "more in flight than there are descriptors");
                }
                Ok(false) => {}
                Err(error) => {
                    queue.fail(&error);
                    failed = true;
                }
            },
            0xf8..=0xfb if !queue.is_broken() => {
                let index = usize::from(op) % taken.len().max(1);
                if index < taken.len() {
                    let head = taken.swap_remove(index);
                    let done = queue.complete(head, input.u32()).and_then(|()| queue.publish());
                    if let Err(error) = done {
                        queue.fail(&error);
                        failed = true;
                    }
                }
            }
            // As one that answers at once.
            0xfc..=0xff => {
                let mut calls = 0;
                let before = signals.resets.load(Ordering::Relaxed);
                queue.serve(&mut chain, |memory, chain| {
                    check(chain, size);
                    calls += 1;
                    let mut readable = chain.readable.clone();
                    let length = total_len(&readable);
                    let mut header = [0; 16];
                    if take_front(memory, &mut readable, &mut header)? {
                        assert_eq!(total_len(&readable), length - 16);
                    }
                    if op == 0xfc {
                        return Ok(None);
                    }
                    let written = write_segments(memory, &chain.writable, &[0x5a; 600])?;
                    assert!(u64::from(written) <= total_len(&chain.writable).min(600));
                    Ok(Some(written))
                });
                assert!(calls <= size, "{calls} chains in one turn of a queue of {size}");
                failed |= signals.resets.load(Ordering::Relaxed) > before;
            }
            op => ring.step(op, &mut input),
        }
        assert_eq!(queue.is_broken(), failed);
        assert_eq!(signals.resets.load(Ordering::Relaxed), u32::from(failed), "one request for a reset");
    }
});

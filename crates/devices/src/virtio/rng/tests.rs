// SPDX-License-Identifier: Apache-2.0
//! An entropy device and a driver.

use cvmm_metrics::View;
use vm_memory::{Bytes, GuestAddress};

use super::{MAX_BYTES, Rng};
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{BUFFERS, RAM_LEN, Ring, activate, memory, wait_for};

#[test]
fn fills_buffers_with_different_bytes_up_to_the_bound() {
    let memory = memory();
    let mut ring = Ring::new(&memory, 0, 64);
    let mut rng = Rng::new();
    let signals = activate(&mut rng, &[&ring], 0);
    ring.add(&[(BUFFERS, 1000, true), (BUFFERS + 0x1000, 24, true)]);
    ring.add(&[(BUFFERS + 0x2000, 2 * MAX_BYTES, true)]);
    ring.kick();
    assert_eq!(ring.wait(), (0, 1024));
    assert_eq!(ring.wait(), (2, MAX_BYTES));
    let view = View::of(&*rng.metrics());
    let counts = ["requests", "bytes", "errors"].map(|name| view.count(&[name]).unwrap());
    assert_eq!(counts, [2, 1024 + u64::from(MAX_BYTES), 0]);
    assert_eq!((ring.metrics.requests.get(), ring.metrics.errors.get()), (2, 0));
    assert!(ring.metrics.kicks.get() >= 1 && ring.metrics.interrupts.get() >= 1);
    let read = |at, len: usize| {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    };
    // 1000 random bytes contain nearly all values; so few of them have probability 2^-1000.
    let first = read(BUFFERS, 1000);
    let values = first.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(values > 200, "{values} different values");
    assert_ne!(first[..24], read(BUFFERS + 0x1000, 24));
    assert_eq!(read(BUFFERS + 1000, 100), [0; 100], "behind the buffer");
    let bound = u64::from(MAX_BYTES);
    assert_ne!(read(BUFFERS + 0x2000 + bound - 32, 32), [0; 32]);
    assert_eq!(read(BUFFERS + 0x2000 + bound, 64), [0; 64], "behind the bound");
    assert!(!signals.reset_asked());
}

#[test]
fn readable_or_unreachable_buffers_break_the_queue() {
    for buffer in [(BUFFERS, 64, false), (RAM_LEN, 64, true), (RAM_LEN - 32, 64, true)] {
        let mut ring = Ring::new(&memory(), 0, 64);
        let mut rng = Rng::new();
        let signals = activate(&mut rng, &[&ring], 0);
        ring.add(&[buffer]);
        ring.kick();
        assert!(wait_for(|| signals.reset_asked()), "{buffer:x?}");
        assert_eq!(ring.poll(), None);
        let view = View::of(&*rng.metrics());
        assert_eq!((view.count(&["errors"]), view.count(&["requests"])), (Some(1), Some(0)));
        assert_eq!(ring.metrics.errors.get(), 1);
        rng.reset();
    }
}

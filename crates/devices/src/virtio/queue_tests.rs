// SPDX-License-Identifier: Apache-2.0
//! Each way to break a queue.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{BUFFERS, NEXT, Ring, Signals, WRITE, memory};

const INDIRECT: u16 = 4;

fn queue(ring: &Ring) -> (VirtQueue, Arc<Signals>) {
    let signals = Arc::new(Signals::default());
    (VirtQueue::new(ring.active(0), ring.memory.clone(), signals.clone()), signals)
}

fn pop_one(write: impl FnOnce(&Ring)) -> Result<Chain, QueueError> {
    let mut ring = Ring::new(&memory(), 0, 8);
    write(&ring);
    ring.offer(0);
    let mut chain = Chain::default();
    queue(&ring).0.pop(&mut chain).map(|there| {
        assert!(there);
        chain
    })
}

#[test]
fn a_good_chain_is_copied_without_its_empty_buffers() {
    let chain = pop_one(|ring| {
        ring.write_desc(ring.desc, 0, 0x100, 16, NEXT, 5);
        ring.write_desc(ring.desc, 5, 0x200, 0, NEXT, 2);
        ring.write_desc(ring.desc, 2, 0x300, 512, NEXT | WRITE, 1);
        ring.write_desc(ring.desc, 1, 0x400, 1, WRITE, 0);
    })
    .unwrap();
    let segment = |addr, len| Segment { addr: GuestAddress(addr), len };
    assert_eq!(chain.readable, [segment(0x100, 16)]);
    assert_eq!(chain.writable, [segment(0x300, 512), segment(0x400, 1)]);
}

#[test]
fn malformed_chains_are_errors() {
    let loops = pop_one(|ring| ring.write_desc(ring.desc, 0, 0x100, 16, NEXT, 0));
    assert!(matches!(loops, Err(QueueError::BrokenChain(0))), "{loops:?}");
    let dangling = pop_one(|ring| ring.write_desc(ring.desc, 0, 0x100, 16, NEXT, 8));
    assert!(matches!(dangling, Err(QueueError::BrokenChain(0))), "{dangling:?}");
    let order = pop_one(|ring| {
        ring.write_desc(ring.desc, 0, 0x100, 16, NEXT | WRITE, 1);
        ring.write_desc(ring.desc, 1, 0x200, 16, 0, 0);
    });
    assert!(matches!(order, Err(QueueError::Order(0))), "{order:?}");
    let too_many_bytes = pop_one(|ring| {
        ring.write_desc(ring.desc, 0, 0x100, u32::MAX, NEXT, 1);
        ring.write_desc(ring.desc, 1, 0x100, 2, 0, 0);
    });
    assert!(matches!(too_many_bytes, Err(QueueError::BrokenChain(0))), "{too_many_bytes:?}");
}

#[test]
fn malformed_indirect_tables_are_errors() {
    let table = BUFFERS;
    let with = |len: u32, fill: &dyn Fn(&Ring)| {
        pop_one(|ring| {
            ring.write_desc(ring.desc, 0, table, len, INDIRECT, 0);
            fill(ring);
        })
    };
    let nested = with(32, &|ring| ring.write_desc(table, 0, table, 32, INDIRECT, 0));
    assert!(matches!(nested, Err(QueueError::BrokenChain(0))), "{nested:?}");
    for len in [0, 8, 17, 16 * 0x1_0000] {
        let misshapen = with(len, &|_| ());
        assert!(matches!(misshapen, Err(QueueError::BrokenChain(0))), "{len}: {misshapen:?}");
    }
    let unreachable = pop_one(|ring| ring.write_desc(ring.desc, 0, u64::MAX - 8, 32, INDIRECT, 0));
    assert!(matches!(unreachable, Err(QueueError::BrokenChain(0))), "{unreachable:?}");
    let fill = |ring: &Ring, count: u16| {
        for i in 0..count {
            ring.write_desc(table, i, 0x100, 1, if i + 1 == count { 0 } else { NEXT }, i + 1);
        }
    };
    assert_eq!(with(8 * 16, &|ring| fill(ring, 8)).unwrap().readable.len(), 8);
    let long = with(9 * 16, &|ring| fill(ring, 9));
    assert!(matches!(long, Err(QueueError::ChainTooLong { head: 0, limit: 8 })), "{long:?}");
}

#[test]
fn heads_and_indexes_out_of_range_are_errors() {
    let mut ring = Ring::new(&memory(), 0, 8);
    ring.offer(8);
    let mut chain = Chain::default();
    assert!(matches!(queue(&ring).0.pop(&mut chain), Err(QueueError::BrokenChain(8))));
    for (jump, good) in [(8, true), (9, false), (0x8000, false), (0xffff, false)] {
        ring.write_desc(ring.desc, 0, 0x100, 16, 0, 0);
        ring.memory.write_slice(&[0; 16], GuestAddress(ring.avail + 4)).unwrap();
        ring.set_avail_idx(jump);
        let popped = queue(&ring).0.pop(&mut chain);
        assert_eq!(popped.is_ok(), good, "{jump}");
    }
}

#[test]
fn one_head_offered_forever_does_not_grow_what_is_in_flight() {
    let mut ring = Ring::new(&memory(), 0, 8);
    ring.write_desc(ring.desc, 0, 0x100, 16, 0, 0);
    let (mut queue, _) = queue(&ring);
    let mut chain = Chain::default();
    for _ in 0..8 {
        ring.offer(0);
        assert!(queue.pop(&mut chain).unwrap());
    }
    ring.offer(0);
    assert!(matches!(queue.pop(&mut chain), Err(QueueError::TooManyInFlight(8))));
}

#[test]
fn interrupts_are_suppressed_as_the_driver_asks() {
    let mut ring = Ring::new(&memory(), 0, 8);
    ring.write_desc(ring.desc, 0, 0x100, 16, 0, 0);
    let (mut queue, signals) = queue(&ring);
    let count = || signals.counts.lock().unwrap().get(&0).copied().unwrap_or(0);
    let mut chain = Chain::default();
    ring.offer(0);
    queue.serve(&mut chain, |_, _| Ok(Some(0)));
    assert_eq!(count(), 1);
    ring.memory.write_obj(1_u16, GuestAddress(ring.avail)).unwrap();
    ring.offer(0);
    queue.serve(&mut chain, |_, _| Ok(Some(0)));
    assert_eq!(count(), 1, "VIRTQ_AVAIL_F_NO_INTERRUPT");
}

#[test]
fn a_turn_is_one_queue_of_chains_and_the_rest_gets_another() {
    let mut ring = Ring::new(&memory(), 0, 8);
    ring.write_desc(ring.desc, 0, 0x100, 16, 0, 0);
    let (mut queue, _) = queue(&ring);
    for _ in 0..8 {
        ring.offer(0);
    }
    let mut served = 0;
    // A driver that offers a new chain for every one served.
    queue.serve(&mut Chain::default(), |_, _| {
        ring.offer(0);
        served += 1;
        Ok(Some(0))
    });
    assert_eq!(served, 8);
    assert_eq!(ring.kick.read().unwrap(), 1, "rung from this side");
}

#[test]
fn what_is_completed_is_seen_all_at_once() {
    let mut ring = Ring::new(&memory(), 0, 8);
    ring.write_desc(ring.desc, 0, 0x100, 16, WRITE, 0);
    let (mut queue, signals) = queue(&ring);
    let mut chain = Chain::default();
    for _ in 0..3 {
        ring.offer(0);
        assert!(queue.pop(&mut chain).unwrap());
        queue.complete(chain.head, 1).unwrap();
        assert_eq!(ring.poll(), None, "not published");
    }
    queue.publish().unwrap();
    assert_eq!(
        [ring.poll(), ring.poll(), ring.poll(), ring.poll()],
        [Some((0, 1)), Some((0, 1)), Some((0, 1)), None]
    );
    queue.publish().unwrap();
    assert_eq!(signals.counts.lock().unwrap().get(&0), Some(&1), "nothing new is not a reason to interrupt");
}

#[test]
fn event_indexes_count_from_what_was_published_last() {
    let mut ring = Ring::new(&memory(), 0, 8);
    ring.event_idx = true;
    ring.write_desc(ring.desc, 0, 0x100, 16, WRITE, 0);
    let (mut queue, signals) = queue(&ring);
    let mut chain = Chain::default();
    let mut interrupted = |completed: u16, event: u16| {
        ring.memory.write_obj(event, GuestAddress(ring.avail + 4 + 2 * 8)).unwrap();
        for _ in 0..completed {
            ring.offer(0);
            assert!(queue.pop(&mut chain).unwrap());
            queue.complete(chain.head, 0).unwrap();
        }
        queue.publish().unwrap();
        signals.counts.lock().unwrap().remove(&0).is_some()
    };
    // (used index before, after): 0 to 3, 3 to 4, 4 to 6, 6 to 14, 14 to 15.
    assert!(interrupted(3, 0) && !interrupted(1, 2) && interrupted(2, 5) && !interrupted(8, 14));
    assert!(interrupted(1, 14));
}

#[test]
fn rings_that_become_private_break_the_queue_and_leave_nothing() {
    use std::ops::Range;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::memory::SharedPages;

    /// All shared but one page.
    #[derive(Debug, Default)]
    struct Pages {
        private: AtomicU64,
        withdrawals: AtomicU64,
        settled: Mutex<Vec<u64>>,
    }
    impl SharedPages for Pages {
        fn is_shared(&self, gpa: u64, len: u64) -> bool {
            let page = self.private.load(Ordering::SeqCst);
            gpa + len <= page || gpa >= page + 4096
        }
        fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
            let page = self.private.load(Ordering::SeqCst);
            [0..page, page + 4096..1 << 40].into_iter().find(|run| run.contains(&gpa))
        }
        fn withdrawals(&self) -> u64 {
            self.withdrawals.load(Ordering::SeqCst)
        }
        fn settle(&self, gpa: u64, _: u64) {
            self.settled.lock().unwrap().push(gpa);
        }
    }

    for part in 0..3 {
        let pages = Arc::new(Pages { private: AtomicU64::new(1 << 40), ..Pages::default() });
        let ram = vm_memory::GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let memory = DeviceMemory::guarded(Arc::new(ram), pages.clone());
        let mut ring = Ring::new(&memory, 0, 8);
        ring.write_desc(ring.desc, 0, 0x100, 16, WRITE, 0);
        let (mut queue, signals) = queue(&ring);
        let parts = [ring.desc, ring.avail, ring.used];
        ring.offer(0);
        queue.serve(&mut Chain::default(), |_, _| Ok(Some(0)));
        assert!(!queue.is_broken());
        // During a turn: what the turn wrote is settled.
        ring.offer(0);
        queue.serve(&mut Chain::default(), |_, _| {
            pages.settled.lock().unwrap().clear();
            pages.private.store(parts[part], Ordering::SeqCst);
            pages.withdrawals.fetch_add(1, Ordering::SeqCst);
            Ok(Some(0))
        });
        assert!(queue.is_broken() && signals.reset_asked());
        assert_eq!(*pages.settled.lock().unwrap(), parts, "{part}");
        assert!(Rings::find(&ring.active(0).queue, &memory).is_none(), "nor is it set up again");
    }
}

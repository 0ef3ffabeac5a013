// SPDX-License-Identifier: Apache-2.0
//! The transport as a driver and a hostile guest see it.

use std::sync::Mutex;

use cvmm_metrics::{Value, View, counters};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::common::*;
use super::layout::*;
use super::*;
use crate::host::MsiMessage;
use crate::virtio::ActivateError;
use crate::virtio::queue::{Chain, VirtQueue};
use crate::virtio::testing::{BUFFERS, Host, RAM_LEN, Ring, SharedHost, memory, wait_for};

const DEVICE_FEATURE: u64 = 1 << 5;
const NONE: [u16; 0] = [];
const NOWHERE: [u64; 0] = [];
const BAR: u64 = 0x10_0000_0000;

counters! {
    /// Of the devices of these tests.
    struct TestMetrics {
        /// Events, of which there are none.
        events,
    }
}

/// What the test device was told.
#[derive(Debug, Default)]
struct Log {
    activations: Vec<Activation>,
    resets: u32,
    written: Vec<(u64, Vec<u8>)>,
}

/// A device that records, with two queues of 16.
#[derive(Debug, Default, Clone)]
struct Dummy {
    log: Arc<Mutex<Log>>,
    refuse: bool,
}

impl VirtioDevice for Dummy {
    fn device_id(&self) -> u32 {
        2
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16, 16]
    }
    fn features(&self) -> u64 {
        DEVICE_FEATURE
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = if at < 8 { at as u8 + 1 } else { 0 };
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.log.lock().unwrap().written.push((offset, data.to_vec()));
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.log.lock().unwrap().activations.push(activation);
        if self.refuse { Err(ActivateError::QueueNotReady(1)) } else { Ok(()) }
    }
    fn reset(&mut self) {
        let mut log = self.log.lock().unwrap();
        log.activations.clear();
        log.resets += 1;
    }
    fn metrics(&self) -> Arc<dyn Inspect> {
        Arc::new(TestMetrics::default())
    }
}

struct Guest {
    pci: VirtioPci,
    host: Arc<Host>,
    log: Arc<Mutex<Log>>,
    memory: DeviceMemory,
}

impl Guest {
    fn new() -> Self {
        Self::with(Dummy::default())
    }

    fn with(device: Dummy) -> Self {
        let (host, memory, log) = (Arc::new(Host::default()), memory(), device.log.clone());
        let shared = SharedHost(host.clone());
        let pci =
            VirtioPci::new(Box::new(device), memory.clone(), &shared, Arc::new(shared.clone())).unwrap();
        Self { pci, host, log, memory }
    }

    fn config(&mut self, offset: u8) -> u32 {
        let mut data = [0; 4];
        self.pci.config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set_config(&mut self, offset: u8, value: u32) {
        self.pci.config_write(offset, &value.to_le_bytes());
    }

    fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xcc; N];
        self.pci.bar_read(offset, &mut data);
        data
    }

    fn write32(&mut self, offset: u64, value: u32) {
        self.pci.bar_write(offset, &value.to_le_bytes());
    }

    fn write16(&mut self, offset: u64, value: u16) {
        self.pci.bar_write(offset, &value.to_le_bytes());
    }

    fn status(&mut self) -> u8 {
        self.read::<1>(0x14)[0]
    }

    fn set_status(&mut self, status: u8) -> u8 {
        self.pci.bar_write(0x14, &[status]);
        self.status()
    }

    fn offered(&mut self) -> u64 {
        let mut features = 0;
        for select in 0..2 {
            self.write32(0x00, select);
            features |= u64::from(u32::from_le_bytes(self.read(0x04))) << (32 * select);
        }
        features
    }

    fn accept(&mut self, features: u64) {
        for select in 0..2 {
            self.write32(0x08, select);
            self.write32(0x0c, (features >> (32 * select)) as u32);
        }
    }

    /// Up to and including FEATURES_OK.
    fn negotiate(&mut self, features: u64) -> u8 {
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.accept(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    }

    fn enable_queue(&mut self, index: u16, ring: &Ring) -> u16 {
        self.write16(0x16, index);
        self.write16(0x18, ring.size);
        for (at, addr) in [(0x20, ring.desc), (0x28, ring.avail), (0x30, ring.used)] {
            self.write32(at, addr as u32);
            self.write32(at + 4, (addr >> 32) as u32);
        }
        self.write16(0x1a, index + 1);
        self.write16(0x1c, 1);
        u16::from_le_bytes(self.read(0x1c))
    }

    fn start(&mut self) -> Vec<Ring> {
        assert_eq!(self.negotiate(REQUIRED | F_EVENT_IDX), 0xb);
        let rings = vec![Ring::new(&self.memory, 0, 16), Ring::new(&self.memory, 1, 8)];
        for (index, ring) in (0..).zip(&rings) {
            assert_eq!(self.enable_queue(index, ring), 1);
        }
        assert_eq!(self.set_status(0xf), 0xf);
        rings
    }

    fn place_bar(&mut self, base: u64) {
        self.set_config(0x10, base as u32);
        self.set_config(0x14, (base >> 32) as u32);
        self.set_config(0x04, 6);
    }

    fn msix(&self) -> u8 {
        self.pci.capabilities.msix
    }

    fn msix_control(&mut self, control: u16) {
        let at = self.msix() + 2;
        self.pci.config_write(at, &control.to_le_bytes());
    }

    fn entry(&mut self, vector: u64, message: MsiMessage, masked: bool) {
        let at = MSIX_TABLE + 16 * vector;
        self.write32(at, message.address as u32);
        self.write32(at + 4, (message.address >> 32) as u32);
        self.write32(at + 8, message.data);
        self.write32(at + 12, masked.into());
    }

    fn triggered(&self) -> Vec<u16> {
        std::mem::take(&mut self.host.triggered.lock().unwrap())
    }
}

#[test]
fn identity_and_capabilities() {
    let mut guest = Guest::new();
    assert_eq!(guest.config(0), 0x1042_1af4);
    assert_eq!(guest.config(8), 0x0180_0001);
    assert_eq!(guest.config(0x3c) >> 8 & 0xff, 0, "interrupt pin");
    assert_eq!(guest.config(0x10) & 0xf, 0xc);
    let mut found = Vec::new();
    let mut at = guest.config(0x34) as u8;
    while at != 0 {
        let head = guest.config(at).to_le_bytes();
        let [_, _, len, kind] = head;
        match head[0] {
            9 => found.push((kind, len, guest.config(at + 8), guest.config(at + 12))),
            0x11 => {
                assert_eq!(guest.config(at) >> 16 & 0x7ff, 2, "three vectors");
                assert_eq!(guest.config(at + 4), MSIX_TABLE as u32);
                assert_eq!(guest.config(at + 8), MSIX_PBA as u32);
            }
            other => panic!("capability {other:#x}"),
        }
        at = head[1];
    }
    assert_eq!(
        found,
        [
            (1, 16, 0, 0x38),
            (2, 20, NOTIFY as u32, 8),
            (3, 16, ISR as u32, 1),
            (4, 16, DEVICE as u32, 0x1000),
            (5, 20, 0, 0)
        ]
    );
}

#[test]
fn a_driver_starts_and_resets_the_device() {
    let mut guest = Guest::new();
    assert_eq!(guest.offered(), OFFERED | DEVICE_FEATURE);
    assert_eq!(guest.read::<2>(0x12), [2, 0]);
    let rings = guest.start();
    {
        let log = guest.log.lock().unwrap();
        let [activation] = &log.activations[..] else { panic!("{log:?}") };
        assert_eq!(activation.features, REQUIRED | F_EVENT_IDX);
        for (index, queue) in (0..).zip(&activation.queues) {
            use virtio_queue::QueueT;
            assert_eq!(queue.index, index);
            let ring = &rings[usize::from(index)];
            assert_eq!(queue.queue.size(), ring.size);
            assert_eq!(queue.queue.used_ring(), ring.used);
            assert!(queue.queue.event_idx_enabled());
        }
    }
    assert_eq!(guest.read::<8>(0x20), rings[1].desc.to_le_bytes());
    assert_eq!(guest.set_status(0), 0);
    assert_eq!(guest.log.lock().unwrap().resets, 1);
    guest.write16(0x16, 1);
    assert_eq!(guest.read::<2>(0x18), [16, 0], "size after reset");
    assert_eq!(guest.read::<2>(0x1a), [0xff, 0xff]);
    assert_eq!(guest.read::<2>(0x1c), [0, 0]);
    guest.start();
}

#[test]
fn features_must_be_offered_and_complete() {
    for (features, accepted) in [
        (REQUIRED, true),
        (OFFERED | DEVICE_FEATURE, true),
        (F_VERSION_1, false),
        (F_ACCESS_PLATFORM, false),
        (0, false),
        (REQUIRED | 1 << 6, false),
        (REQUIRED | 1 << 40, false),
    ] {
        let mut guest = Guest::new();
        let status = guest.negotiate(features);
        assert_eq!(status, if accepted { 0xb } else { 0x3 }, "{features:#x}");
        if accepted {
            // Frozen.
            guest.accept(0);
            assert_eq!(guest.pci.common.features(), features);
        } else {
            assert_eq!(guest.set_status(0xf), 0x3, "{features:#x}: DRIVER_OK after refusal");
            // A driver may try again with others.
            guest.accept(REQUIRED);
            assert_eq!(guest.set_status(0xb), 0xb);
        }
    }
}

#[test]
fn status_only_grows_and_in_order() {
    let mut guest = Guest::new();
    assert_eq!(guest.set_status(DRIVER), 0);
    assert_eq!(guest.set_status(DRIVER_OK), 0);
    assert_eq!(guest.set_status(0x20), 0);
    assert_eq!(guest.set_status(DEVICE_NEEDS_RESET), 0);
    assert_eq!(guest.set_status(ACKNOWLEDGE), 1);
    assert_eq!(guest.set_status(ACKNOWLEDGE | FEATURES_OK), 1);
    assert_eq!(guest.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK), 1);
    assert_eq!(guest.set_status(ACKNOWLEDGE | DRIVER), 3);
    assert_eq!(guest.set_status(ACKNOWLEDGE), 3, "a bit was taken back");
    assert_eq!(guest.set_status(ACKNOWLEDGE | DRIVER | FAILED), 0x83);
    guest.accept(REQUIRED);
    assert_eq!(guest.set_status(0x8f), 0x8b, "a failed driver does not start");
    assert!(guest.log.lock().unwrap().activations.is_empty());
    assert_eq!(guest.set_status(0), 0);
}

#[test]
fn queues_with_bad_rings_stay_off() {
    let mut guest = Guest::new();
    guest.negotiate(REQUIRED);
    let good = || Ring::new(&memory(), 0, 16);
    let bad = [
        Ring { desc: 0x1008, ..good() },
        Ring { avail: 0x2001, ..good() },
        Ring { used: 0x3002, ..good() },
        Ring { desc: RAM_LEN, ..good() },
        Ring { used: RAM_LEN - 8, ..good() },
        Ring { avail: u64::MAX - 1, ..good() },
        Ring { used: !0 << 12, ..good() },
    ];
    for ring in &bad {
        assert_eq!(guest.enable_queue(0, ring), 0, "{ring:x?}");
    }
    guest.write16(0x18, 3);
    guest.write16(0x18, 0);
    guest.write16(0x18, 32);
    assert_eq!(guest.read::<2>(0x18), [16, 0], "sizes that cannot be");
    assert_eq!(guest.enable_queue(0, &good()), 1);
    guest.write32(0x20, 0x7000);
    assert_eq!(guest.read::<4>(0x20), 0x1000_u32.to_le_bytes(), "frozen once enabled");
    // A queue that is not there.
    guest.write16(0x16, 2);
    guest.write16(0x1c, 1);
    assert_eq!(guest.read::<32>(0x18), [0; 32]);
}

#[test]
fn a_device_that_cannot_start_asks_for_a_reset() {
    let mut guest = Guest::with(Dummy { refuse: true, ..Dummy::default() });
    guest.negotiate(REQUIRED);
    assert_eq!(guest.set_status(0xf), 0xf | DEVICE_NEEDS_RESET);
    assert_eq!(guest.read::<1>(ISR), [2]);
    assert_eq!(guest.set_status(0), 0);
    let view = View::of(&*guest.pci.metrics());
    let counts =
        ["activations", "errors", "resets", "trapped_kicks"].map(|name| view.count(&[name]).unwrap());
    assert_eq!(counts, [1, 1, 1, 0]);
    assert_eq!(view.get(&["running"]), Some(&Value::Flag(false)));
}

#[test]
fn a_broken_queue_is_seen_by_the_driver() {
    let mut guest = Guest::new();
    let mut rings = guest.start();
    guest.msix_control(1 << 15);
    guest.write16(0x10, 0);
    guest.entry(0, MsiMessage { address: 0xfee0_0000, data: 1 }, false);
    let activation = guest.log.lock().unwrap().activations.pop().unwrap();
    let generation = guest.read::<1>(0x15);
    let active = activation.queues.into_iter().next().unwrap();
    let mut queue = VirtQueue::new(active, activation.memory, activation.interrupt);
    rings[0].write_desc(rings[0].desc, 0, BUFFERS, 16, 1, 0);
    rings[0].offer(0);
    queue.serve(&mut Chain::default(), |_, _| panic!("a loop was served"));
    assert!(queue.is_broken());
    assert_eq!(guest.status(), 0xf | DEVICE_NEEDS_RESET);
    assert_eq!(guest.triggered(), [0]);
    assert_ne!(guest.read::<1>(0x15), generation);
    // Said once.
    queue.serve(&mut Chain::default(), |_, _| panic!("a broken queue was served"));
    assert_eq!(guest.triggered(), NONE);
    let view = View::of(&*guest.pci.metrics());
    assert_eq!((view.count(&["activations"]), view.count(&["queue0", "errors"])), (Some(1), Some(1)));
    assert_eq!(view.get(&["needs_reset"]), Some(&Value::Flag(true)));
}

#[test]
fn isr_is_cleared_by_reading() {
    let mut guest = Guest::new();
    guest.pci.interrupt.signal_queue(0);
    guest.pci.interrupt.signal_config();
    assert_eq!(guest.read::<1>(ISR), [3]);
    assert_eq!(guest.read::<1>(ISR), [0]);
    assert_eq!(guest.triggered(), NONE, "no vector, no interrupt");
}

#[test]
fn msix_masks_keep_interrupts_pending() {
    let mut guest = Guest::new();
    guest.start();
    let message = |data| MsiMessage { address: 0xfee0_1000, data };
    guest.pci.interrupt.signal_queue(0);
    assert_eq!(guest.triggered(), NONE, "MSI-X is off");

    guest.msix_control(1 << 15);
    guest.entry(1, message(0x41), true);
    guest.entry(2, message(0x42), false);
    assert_eq!(guest.host.programmed.lock().unwrap().get(&1), None, "masked: not programmed");
    assert_eq!(guest.host.programmed.lock().unwrap()[&2], Some(message(0x42)));
    guest.pci.interrupt.signal_queue(0);
    guest.pci.interrupt.signal_queue(1);
    assert_eq!(guest.triggered(), [2]);
    assert_eq!(guest.read::<8>(MSIX_PBA), 2_u64.to_le_bytes());
    guest.write32(MSIX_TABLE + 16 + 12, 0);
    assert_eq!(guest.triggered(), [1], "delivered when unmasked, once");
    assert_eq!(guest.read::<8>(MSIX_PBA), [0; 8]);
    assert_eq!(guest.host.programmed.lock().unwrap()[&1], Some(message(0x41)));

    // The function mask does the same to all.
    guest.msix_control(3 << 14);
    guest.pci.interrupt.signal_queue(0);
    guest.pci.interrupt.signal_queue(0);
    guest.pci.interrupt.signal_queue(1);
    assert_eq!(guest.triggered(), NONE);
    assert_eq!(guest.read::<1>(MSIX_PBA), [6]);
    let calls = *guest.host.program_calls.lock().unwrap();
    guest.msix_control(1 << 15);
    assert_eq!(guest.triggered(), [1, 2]);
    assert_eq!(*guest.host.program_calls.lock().unwrap(), calls, "masking is not a routing change");

    // A new message is programmed when unmasked; off means off.
    guest.entry(1, message(0x51), false);
    assert_eq!(guest.host.programmed.lock().unwrap()[&1], Some(message(0x51)));
    guest.msix_control(0);
    assert_eq!(guest.host.programmed.lock().unwrap()[&1], None);
    guest.pci.interrupt.signal_queue(0);
    assert_eq!(guest.triggered(), NONE);
}

#[test]
fn msix_table_reads_back_and_ignores_odd_accesses() {
    let mut guest = Guest::new();
    guest.entry(2, MsiMessage { address: 0x1234_5678_9abc_def3, data: 0xaabb_ccdd }, false);
    assert_eq!(guest.read::<8>(MSIX_TABLE + 32), 0x1234_5678_9abc_def0_u64.to_le_bytes());
    assert_eq!(guest.read::<8>(MSIX_TABLE + 40), 0xaabb_ccdd_u64.to_le_bytes());
    let before = guest.read::<16>(MSIX_TABLE + 32);
    guest.pci.bar_write(MSIX_TABLE + 32, &[0xff]);
    guest.pci.bar_write(MSIX_TABLE + 34, &[0xff; 4]);
    guest.pci.bar_write(MSIX_TABLE + 36, &[0xff; 8]);
    guest.pci.bar_write(MSIX_TABLE + 48, &[0xff; 8]);
    assert_eq!(guest.read::<16>(MSIX_TABLE + 32), before);
    assert_eq!(guest.read::<16>(MSIX_TABLE + 48), [0; 16], "past the table");
    // 64-bit accesses are fine.
    guest.pci.bar_write(MSIX_TABLE + 40, &(1_u64 << 32 | 7).to_le_bytes());
    assert_eq!(guest.read::<8>(MSIX_TABLE + 40), (1_u64 << 32 | 7).to_le_bytes());
    // A vector that does not exist cannot be assigned.
    guest.write16(0x10, 3);
    assert_eq!(guest.read::<2>(0x10), [0xff, 0xff]);
}

#[test]
fn doorbells_follow_the_bar() {
    let mut guest = Guest::new();
    let doorbells = |guest: &Guest| guest.host.doorbells.lock().unwrap().clone();
    assert_eq!(doorbells(&guest), NOWHERE);
    guest.place_bar(BAR);
    assert_eq!(guest.pci.decoded(), Some((BAR, BAR_LEN)));
    assert_eq!(doorbells(&guest), [BAR + NOTIFY, BAR + NOTIFY + 4]);
    guest.set_config(0x04, 4);
    assert_eq!(doorbells(&guest), NOWHERE, "memory decoding off");
    guest.place_bar(BAR + 0x10_0000);
    assert_eq!(doorbells(&guest), [BAR + 0x10_3000, BAR + 0x10_3004]);
    guest.set_config(0x14, 0x20);
    assert_eq!(doorbells(&guest), [0x20_0010_3000, 0x20_0010_3004], "moved while decoding");
    let host = guest.host.clone();
    drop(guest);
    assert_eq!(*host.doorbells.lock().unwrap(), NOWHERE);
}

#[test]
fn a_doorbell_write_that_arrives_kicks_its_queue() {
    let mut guest = Guest::new();
    guest.start();
    guest.write16(NOTIFY + 4, 1);
    assert_eq!(guest.pci.kicks[1].read().unwrap(), 1);
    assert!(guest.pci.kicks[0].read().is_err());
    guest.write16(NOTIFY + 8, 1);
    // What was rung before a reset is forgotten.
    guest.write16(NOTIFY, 0);
    guest.set_status(0);
    assert!(guest.pci.kicks[0].read().is_err());
}

#[test]
fn device_configuration_is_the_devices() {
    let mut guest = Guest::new();
    assert_eq!(guest.read::<4>(DEVICE + 2), [3, 4, 5, 6]);
    guest.write16(DEVICE + 6, 0x1122);
    assert_eq!(guest.log.lock().unwrap().written, [(6, vec![0x22, 0x11])]);
}

#[test]
fn configuration_access_capability_reaches_the_bar() {
    let mut guest = Guest::new();
    let cap = guest.pci.capabilities.window;
    assert_eq!(guest.config(cap + 16), 0, "no window set");
    guest.set_config(cap + 8, DEVICE as u32 + 4);
    guest.set_config(cap + 12, 4);
    assert_eq!(guest.config(cap + 16), 0x0807_0605);
    guest.set_config(cap + 8, 0x14);
    guest.set_config(cap + 12, 1);
    guest.set_config(cap + 16, ACKNOWLEDGE.into());
    assert_eq!(guest.status(), ACKNOWLEDGE);
    assert_eq!(guest.config(cap + 16) & 0xff, 1);
    // Another BAR, a wrong length, unaligned, outside: nothing happens.
    for (bar, offset, len) in [(1, 0x14, 1), (0, 0x14, 3), (0, 0x12, 4), (0, 0xffff_fffc, 4), (0, 0x8000, 4)]
    {
        guest.pci.config_write(cap + 4, &[bar]);
        guest.set_config(cap + 8, offset);
        guest.set_config(cap + 12, len);
        guest.set_config(cap + 16, 0);
        assert_eq!(guest.status(), ACKNOWLEDGE, "{bar} {offset:#x} {len}");
    }
}

#[test]
fn devices_that_break_the_rules_are_refused() {
    struct Odd(u32, Vec<u16>);
    impl VirtioDevice for Odd {
        fn metrics(&self) -> Arc<dyn Inspect> {
            Arc::new(TestMetrics::default())
        }
        fn device_id(&self) -> u32 {
            self.0
        }
        fn queue_sizes(&self) -> &[u16] {
            &self.1
        }
        fn features(&self) -> u64 {
            0
        }
        fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
        fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
            Ok(())
        }
        fn reset(&mut self) {}
    }
    let build = |id, sizes: &[u16]| {
        let host = SharedHost(Arc::default());
        VirtioPci::new(Box::new(Odd(id, sizes.to_vec())), memory(), &host, Arc::new(host.clone()))
    };
    assert!(matches!(build(0, &[16]), Err(TransportError::DeviceId(0))));
    assert!(matches!(build(64, &[16]), Err(TransportError::DeviceId(64))));
    assert!(matches!(build(4, &[]), Err(TransportError::QueueCount { .. })));
    assert!(matches!(build(4, &[16; 65]), Err(TransportError::QueueCount { .. })));
    assert!(matches!(build(4, &[16, 12]), Err(TransportError::QueueSize { index: 1, .. })));
    assert!(matches!(build(4, &[2048]), Err(TransportError::QueueSize { .. })));
    assert!(build(4, &[1; 64]).is_ok());
}

/// The whole path with a real device: transport, worker, interrupt.
#[test]
fn entropy_through_the_transport() {
    let host = Arc::new(Host::default());
    let memory = memory();
    let shared = SharedHost(host.clone());
    let device = Box::new(crate::virtio::rng::Rng::new());
    let pci = VirtioPci::new(device, memory.clone(), &shared, Arc::new(shared.clone())).unwrap();
    let mut guest = Guest { pci, host, log: Arc::default(), memory };
    assert_eq!(guest.config(0) >> 16, 0x1044);
    guest.place_bar(BAR);
    for _ in 0..3 {
        guest.msix_control(1 << 15);
        guest.entry(1, MsiMessage { address: 0xfee0_0000, data: 9 }, false);
        guest.negotiate(REQUIRED | F_EVENT_IDX | F_INDIRECT_DESC);
        guest.memory.write_slice(&[0; 0x8000], GuestAddress(0x1000)).unwrap();
        let mut ring = Ring::new(&guest.memory, 0, 64);
        assert_eq!(guest.enable_queue(0, &ring), 1);
        guest.set_status(0xf);
        ring.add(&[(BUFFERS, 64, true)]);
        guest.write16(NOTIFY, 0);
        assert_eq!(ring.wait(), (0, 64));
        assert!(wait_for(|| guest.triggered() == [1]));
        guest.set_status(0);
    }
}

/// An access a guest may make to the BAR or to configuration space.
fn access() -> impl Strategy<Value = (bool, u64, Vec<u8>)> {
    let offset = prop_oneof![
        6 => 0..0x40_u64,
        1 => 0x1000..0x1004_u64,
        1 => 0x2000..0x2010_u64,
        1 => 0x3000..0x3010_u64,
        2 => 0x4000..0x4040_u64,
        1 => 0x5000..0x5010_u64,
        1 => 0..BAR_LEN,
        1 => any::<u64>(),
    ];
    let byte = prop_oneof![any::<u8>(), 0..16_u8];
    let data = prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)]
        .prop_flat_map(move |len| proptest::collection::vec(byte.clone(), len));
    (prop::bool::weighted(0.3), offset, data)
}

proptest! {
    #[test]
    fn any_access_does_no_harm(accesses in proptest::collection::vec(access(), 0..200)) {
        let mut guest = Guest::new();
        guest.place_bar(BAR);
        for (config, offset, data) in accesses {
            let mut back = data.clone();
            if config {
                let offset = offset as u8;
                // An access does not cross a double word.
                let len = data.len().min(4 - usize::from(offset % 4));
                guest.pci.config_write(offset, &data[..len]);
                guest.pci.config_read(offset, &mut back[..len]);
            } else {
                guest.pci.bar_write(offset, &data);
                guest.pci.bar_read(offset, &mut back);
            }
            let status = guest.status() & 0xf;
            prop_assert!([0, 1, 3, 0xb, 0xf].contains(&status), "{status:#x}");
            let running = !guest.log.lock().unwrap().activations.is_empty();
            prop_assert_eq!(running, status == 0xf);
            if status & FEATURES_OK != 0 {
                prop_assert_eq!(guest.pci.common.features() & REQUIRED, REQUIRED);
            }
            let want = guest.pci.decoded().map(|(base, _)| vec![base + NOTIFY, base + NOTIFY + 4]);
            prop_assert_eq!(guest.host.doorbells.lock().unwrap().clone(), want.unwrap_or_default());
        }
    }
}

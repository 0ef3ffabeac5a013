// SPDX-License-Identifier: Apache-2.0
//! Tests of the bus as a guest sees it: by ports, by ECAM and through BARs.

use cvmm_metrics::counters;
use proptest::prelude::*;

use super::*;
use crate::bus::BusDevice;
use crate::pci::config_space::{ConfigSpace, Identity};
use crate::pci::{ConfigPorts, Ecam, EcamWindow, HostBridge, LpcBridge};

const ECAM: u64 = 0xe000_0000;
const ECAM_FREE: std::ops::Range<u64> = 0x8000_0000..0xf000_0000;

const LOW: Window = Window { base: 0x8000_0000, len: 0x6000_0000 };
const HIGH: Window = Window { base: 0x10_0000_0000, len: 0x10_0000_0000 };

counters! {
    /// Of the devices of these tests.
    struct TestMetrics {
        /// Events, of which there are none.
        events,
    }
}

/// A function with a 4 KiB BAR that answers `tag` and checks what it is promised.
struct Dummy {
    config: ConfigSpace,
    tag: u8,
    writes: Vec<(u64, Vec<u8>)>,
}

impl Dummy {
    fn new(tag: u8) -> Arc<Mutex<Self>> {
        let identity = Identity { vendor: 0x1af4, device: 0x1040 + u16::from(tag), ..Identity::default() };
        let mut config = ConfigSpace::new(identity);
        config.set_bar64(0x1000, true).unwrap();
        Arc::new(Mutex::new(Self { config, tag, writes: Vec::new() }))
    }
}

impl PciFunction for Dummy {
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4) && usize::from(offset) % data.len() == 0);
        self.config.read(offset, data);
    }
    fn config_write(&mut self, offset: u8, data: &[u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4) && usize::from(offset) % data.len() == 0);
        self.config.write(offset, data);
    }
    fn decoded(&self) -> Option<(u64, u64)> {
        self.config.bar()
    }
    fn bar_read(&mut self, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= 0x1000);
        data.fill(self.tag);
    }
    fn bar_write(&mut self, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= 0x1000);
        self.writes.push((offset, data.to_vec()));
    }
    fn metrics(&self) -> Arc<dyn Inspect> {
        Arc::new(TestMetrics::default())
    }
}

/// Remembers the last byte written to 0xcf9.
struct Reset(Arc<Mutex<Option<u8>>>);

impl BusDevice for Reset {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        assert_eq!((offset, data.len()), (0, 1));
        data.fill(0x42);
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        assert_eq!((offset, data.len()), (0, 1));
        *self.0.lock().unwrap() = Some(data[0]);
    }
    fn metrics(&self) -> Arc<dyn Inspect> {
        Arc::new(TestMetrics::default())
    }
}

struct Machine {
    root: Arc<PciRoot>,
    ports: ConfigPorts,
    ecam: Ecam,
    reset: Arc<Mutex<Option<u8>>>,
    dummies: Vec<Arc<Mutex<Dummy>>>,
}

fn machine() -> Machine {
    let mut root = PciRoot::new(&[LOW, HIGH]);
    let window = EcamWindow::new(ECAM, ECAM_FREE);
    let bridge = Arc::new(Mutex::new(HostBridge::new(Arc::clone(&window))));
    root.add(0, "host bridge", Visibility::Everywhere, bridge).unwrap();
    root.add(31, "lpc", Visibility::Everywhere, Arc::new(Mutex::new(LpcBridge::new(false)))).unwrap();
    let dummies = vec![Dummy::new(1), Dummy::new(2)];
    root.add(1, "hidden", Visibility::Cf8Only, dummies[0].clone()).unwrap();
    root.add(2, "shown", Visibility::Everywhere, dummies[1].clone()).unwrap();
    let root = Arc::new(root);
    let reset = Arc::new(Mutex::new(None));
    let ports = ConfigPorts::new(root.clone(), Box::new(Reset(reset.clone())));
    Machine { ports, ecam: Ecam::new(root.clone(), window), root, reset, dummies }
}

impl Machine {
    fn select(&mut self, device: u32, register: u32) {
        self.ports.write(0, &(1 << 31 | device << 11 | register).to_le_bytes());
    }
    fn cf8(&mut self, device: u32, register: u32) -> u32 {
        self.select(device, register);
        let mut data = [0; 4];
        self.ports.read(4, &mut data);
        u32::from_le_bytes(data)
    }
    fn set_cf8(&mut self, device: u32, register: u32, value: u32) {
        self.select(device, register);
        self.ports.write(4, &value.to_le_bytes());
    }
    fn ecam(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        assert_eq!(self.ecam.read(ECAM + offset, &mut data), Access::Claimed("pci ecam"));
        u32::from_le_bytes(data)
    }
    fn place_bar(&mut self, device: u32, base: u64) {
        self.set_cf8(device, 0x10, base as u32);
        self.set_cf8(device, 0x14, (base >> 32) as u32);
        self.set_cf8(device, 0x04, 0x6);
    }
}

#[test]
fn ports_answer_by_lane() {
    let mut m = machine();
    assert_eq!(m.cf8(0, 0), 0x29c0_8086);
    for (lane, expected) in [0x86, 0x80, 0xc0, 0x29].into_iter().enumerate() {
        let mut byte = [0];
        m.ports.read(4 + lane as u64, &mut byte);
        assert_eq!(byte[0], expected, "lane {lane}");
    }
    let mut word = [0; 2];
    m.ports.read(6, &mut word);
    assert_eq!(u16::from_le_bytes(word), 0x29c0);
    // Word write to the upper lanes of PCIEXBAR's first dword.
    m.set_cf8(0, 0x60, 0x1111_1111);
    m.ports.write(6, &0xe000_u16.to_le_bytes());
    assert_eq!(m.cf8(0, 0x60), 0xe000_1111);
}

#[test]
fn linux_probe_of_mechanism_1_succeeds() {
    let mut m = machine();
    m.select(2, 0x40);
    m.ports.write(3, &[0x01]);
    m.ports.write(0, &0x8000_0000_u32.to_le_bytes());
    let mut data = [0; 4];
    m.ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_0000);
}

#[test]
fn reset_register_and_config_address_share_a_port() {
    let mut m = machine();
    m.select(0, 0);
    // The dword covers 0xcf9 and must not reset; the byte must, and leaves the address alone.
    assert_eq!(*m.reset.lock().unwrap(), None);
    m.ports.write(1, &[0x06]);
    assert_eq!(*m.reset.lock().unwrap(), Some(0x06));
    let mut data = [0; 4];
    m.ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_0000);
    m.ports.read(1, &mut data[..1]);
    assert_eq!(data[0], 0x42);
    // Words and other bytes go nowhere.
    m.ports.write(0, &[0x06]);
    m.ports.write(0, &[0x06, 0x06]);
    m.ports.read(0, &mut data[..2]);
    assert_eq!(data[..2], [0xff; 2]);
}

#[test]
fn what_does_not_exist_reads_as_all_ones() {
    let mut m = machine();
    assert_eq!(m.cf8(3, 0), u32::MAX, "empty slot");
    m.ports.write(0, &0x0000_0000_u32.to_le_bytes());
    assert_eq!(
        {
            let mut d = [0; 4];
            m.ports.read(4, &mut d);
            d
        },
        [0xff; 4],
        "mechanism disabled"
    );
    for extra in [1 << 8, 1 << 16, 1 << 24, 1 << 30] {
        m.ports.write(0, &(0x8000_0000_u32 | extra).to_le_bytes());
        let mut data = [0; 4];
        m.ports.read(4, &mut data);
        assert_eq!(data, [0xff; 4], "function, bus, extended register or reserved bit {extra:#x}");
    }
    assert_eq!(m.ecam(0), 0x29c0_8086);
    assert_eq!(m.ecam(0x100), u32::MAX, "extended space");
    assert_eq!(m.ecam(0x1000), u32::MAX, "function 1");
    assert_eq!(m.ecam(1 << 20), u32::MAX, "bus 1");
    assert_eq!(m.ecam.read(ECAM + (1 << 28), &mut [0; 4]), Access::Unclaimed, "past the window");
}

/// OVMF of before 2023 has it at 0xb0000000; it looks there for the PM timer's port, and would poll another
/// one for good.
#[test]
fn the_ecam_window_is_where_firmware_puts_it() {
    let mut m = machine();
    assert_eq!((m.cf8(0, 0x60), m.cf8(0, 0x64)), (0xe000_0001, 0));
    m.set_cf8(0, 0x64, 0);
    m.set_cf8(0, 0x60, 0xb000_0001);
    let mut data = [0; 4];
    assert_eq!(m.ecam.read(ECAM, &mut data), Access::Unclaimed);
    assert_eq!(m.ecam.read(0xb000_0000 + (31 << 15) + 0x40, &mut data), Access::Claimed("pci ecam"));
    assert_eq!(u32::from_le_bytes(data), 0x601);
    // Back, through the window itself.
    m.ecam.write(0xb000_0060, &0xe000_0001_u32.to_le_bytes());
    assert_eq!(m.ecam(0), 0x29c0_8086);
    // Where it must not be, and off.
    for nowhere in [0x1000_0001_u32, 0xf000_0001, 0xe000_0000] {
        m.set_cf8(0, 0x60, nowhere);
        assert_eq!(m.ecam.read(ECAM, &mut data), Access::Unclaimed, "{nowhere:#x}");
        assert_eq!(m.ecam.read(u64::from(nowhere & !1), &mut data), Access::Unclaimed, "{nowhere:#x}");
    }
    m.set_cf8(0, 0x60, 0xe000_0001);
    assert_eq!(m.ecam(0), 0x29c0_8086);
}

#[test]
fn cf8_only_functions_hide_from_ecam() {
    let mut m = machine();
    assert_eq!(m.cf8(1, 0), 0x1041_1af4);
    assert_eq!(m.ecam(1 << 15), u32::MAX);
    m.ecam.write(ECAM + (1 << 15 | 0x3c), &[0x55]);
    assert_eq!(m.cf8(1, 0x3c) & 0xff, 0);
    assert_eq!(m.ecam(2 << 15), 0x1042_1af4);
    let mut wide = [0; 8];
    m.ecam.read(ECAM + (2 << 15), &mut wide);
    assert_eq!(wide[..4], 0x1042_1af4_u32.to_le_bytes());
}

#[test]
fn lpc_is_hidden_but_its_power_registers_answer() {
    let mut m = machine();
    assert_eq!(m.cf8(31, 0), u32::MAX);
    m.set_cf8(31, 0x40, 0xffff_ffff);
    m.set_cf8(31, 0x44, 0);
    assert_eq!(m.cf8(31, 0x40), 0x601);
    assert_eq!(m.ecam(31 << 15 | 0x44), 0x80);
    m.set_cf8(31, 0x60, 0x0b0a_0b0a);
    assert_eq!(m.cf8(31, 0x60), 0x0b0a_0b0a);
    let mut id = [0; 4];
    LpcBridge::new(true).config_read(0, &mut id);
    assert_eq!(u32::from_le_bytes(id), 0x2918_8086);
}

#[test]
fn bars_are_sized_placed_and_reached() {
    let mut m = machine();
    m.set_cf8(2, 0x10, u32::MAX);
    m.set_cf8(2, 0x14, u32::MAX);
    let mask = u64::from(m.cf8(2, 0x14)) << 32 | u64::from(m.cf8(2, 0x10) & !0xf);
    assert_eq!(!mask + 1, 0x1000);
    let base = HIGH.base + 0x5000;
    m.place_bar(2, base);
    let mut data = [0; 4];
    assert_eq!(m.root.bar_read(base + 0xffc, &mut data), Access::Claimed("shown"));
    assert_eq!(data, [2; 4]);
    assert_eq!(m.root.bar_write(base + 8, &[9; 8]), Access::Claimed("shown"));
    assert_eq!(m.dummies[1].lock().unwrap().writes, [(8, vec![9; 8])]);
    assert_eq!(m.root.bar_read(base + 0xffe, &mut data), Access::Unclaimed, "crosses the end");
    assert_eq!(data, [0xff; 4]);
    m.set_cf8(2, 0x04, 0);
    assert_eq!(m.root.bar_read(base, &mut data), Access::Unclaimed, "decoding switched off");
}

#[test]
fn bars_outside_the_windows_decode_nothing() {
    let mut m = machine();
    let end = HIGH.base + HIGH.len;
    for base in [0, 0x1000, 0xe000_0000, 0xfee0_0000, 0xffff_f000, end, !0xfff, LOW.base - 0x1000] {
        m.place_bar(2, base);
        assert_eq!(m.root.bar_read(base, &mut [0; 4]), Access::Unclaimed, "{base:#x}");
    }
    m.place_bar(2, end - 0x1000);
    assert_eq!(m.root.bar_read(end - 1, &mut [0]), Access::Claimed("shown"));
}

#[test]
fn a_bar_that_only_begins_in_a_window_decodes_nothing() {
    let mut root = PciRoot::new(&[Window { base: LOW.base, len: 0x1800 }]);
    root.add(2, "shown", Visibility::Everywhere, Dummy::new(2)).unwrap();
    let at = |offset| ConfigAddress { bus: 0, device: 2, function: 0, offset };
    root.config_write(Mechanism::Ports, at(4), &[0x06, 0]);
    for (base, expected) in [(LOW.base, Access::Claimed("shown")), (LOW.base + 0x1000, Access::Unclaimed)] {
        root.config_write(Mechanism::Ecam, at(0x10), &(base as u32).to_le_bytes());
        assert_eq!(root.bar_read(base, &mut [0; 4]), expected);
    }
}

#[test]
fn overlapping_bars_go_to_the_lowest_device() {
    let mut m = machine();
    m.place_bar(2, LOW.base);
    m.place_bar(1, LOW.base);
    assert_eq!(m.root.bar_read(LOW.base, &mut [0]), Access::Claimed("hidden"));
    m.set_cf8(1, 0x04, 0);
    assert_eq!(m.root.bar_read(LOW.base, &mut [0]), Access::Claimed("shown"));
}

#[test]
fn slots_are_checked() {
    let mut root = PciRoot::new(&[]);
    root.add(3, "a", Visibility::Everywhere, Dummy::new(1)).unwrap();
    let taken = root.add(3, "b", Visibility::Everywhere, Dummy::new(1)).unwrap_err();
    assert_eq!(taken, PciError::Taken { new: "b".into(), old: "a".into(), device: 3 });
    assert!(matches!(
        root.add(32, "c", Visibility::Everywhere, Dummy::new(1)),
        Err(PciError::DeviceNumber { .. })
    ));
}

#[derive(Clone, Debug)]
enum Op {
    Port(u64, Vec<u8>),
    Select(u32),
    Ecam(u64, Vec<u8>),
    Bar(u64, Vec<u8>),
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)]
        .prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len))
}

fn op() -> impl Strategy<Value = Op> {
    let near_windows = prop_oneof![
        Just(0_u64),
        Just(LOW.base),
        Just(LOW.base + LOW.len - 4),
        Just(HIGH.base),
        Just(HIGH.base + HIGH.len - 4),
        Just(u64::MAX),
        any::<u64>(),
    ];
    prop_oneof![
        (0_u64..8, data()).prop_map(|(offset, data)| Op::Port(offset, data)),
        (0_u32..4, 0_u32..0x40).prop_map(|(d, r)| Op::Select(1 << 31 | d << 11 | r << 2)),
        any::<u32>().prop_map(Op::Select),
        (0_u64..Ecam::LEN, data()).prop_map(|(offset, data)| Op::Ecam(offset, data)),
        (0_u64..4, 0_u64..0x100, data()).prop_map(|(d, r, data)| Op::Ecam(d << 15 | r, data)),
        (near_windows, data()).prop_map(|(gpa, data)| Op::Bar(gpa, data)),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_panics_or_changes_an_identity(ops in proptest::collection::vec(op(), 0..200)) {
        let mut m = machine();
        for op in ops {
            match op {
                Op::Port(offset, mut data) => {
                    m.ports.write(offset, &data);
                    m.ports.read(offset, &mut data);
                }
                Op::Select(address) => m.ports.write(0, &address.to_le_bytes()),
                Op::Ecam(offset, mut data) => {
                    m.ecam.write(ECAM + offset, &data);
                    m.ecam.read(ECAM + offset, &mut data);
                }
                Op::Bar(gpa, mut data) => {
                    let wrote = m.root.bar_write(gpa, &data);
                    prop_assert_eq!(wrote, m.root.bar_read(gpa, &mut data));
                    let inside = LOW.holds(gpa, data.len() as u64) || HIGH.holds(gpa, data.len() as u64);
                    prop_assert!(inside || wrote == Access::Unclaimed);
                }
            }
        }
        prop_assert_eq!(m.cf8(0, 0), 0x29c0_8086);
        prop_assert_eq!(m.cf8(1, 0), 0x1041_1af4);
        prop_assert_eq!(m.cf8(31, 0x40), 0x601);
    }

    #[test]
    fn pieces_are_aligned_and_cover_the_access(start in 0_u16..4096, len in 0_usize..17) {
        let mut at = 0;
        for (offset, range) in aligned_pieces(start, len) {
            prop_assert_eq!(range.start, at);
            prop_assert_eq!(offset, usize::from(start) + at);
            prop_assert!(matches!(range.len(), 1 | 2 | 4) && offset % range.len() == 0);
            at = range.end;
        }
        prop_assert_eq!(at, len);
    }
}

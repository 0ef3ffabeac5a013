// SPDX-License-Identifier: Apache-2.0
//! All fixed devices on one port bus and one MMIO bus, put together from the public API as the VMM does it
//! and as fuzz targets will: any guest access is answered, in bounded time, by the device that owns the
//! address.

#![expect(clippy::unwrap_used, reason = "a test's set-up; the lint exempts only the test functions")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use cvmm_devices::bus::{Access, Bus, BusDevice};
use cvmm_devices::chipset::{KeyboardReset, PmTimer, ResetControl, Rtc, Serial, SleepControl, SleepStatus};
use cvmm_devices::fw_cfg::{self, FwCfg};
use cvmm_devices::host::{PowerEvent, PowerSink};
use cvmm_devices::memory::DeviceMemory;
use cvmm_devices::pci::{ConfigPorts, Ecam, EcamWindow, HostBridge, LpcBridge, PciRoot, Visibility, Window};
use cvmm_metrics::View;
use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const ECAM: u64 = 0xe000_0000;

#[derive(Default)]
struct Counter {
    off: AtomicU32,
    reset: AtomicU32,
}

impl PowerSink for Counter {
    fn request(&self, event: PowerEvent, _source: &'static str) {
        let counter = if event == PowerEvent::PowerOff { &self.off } else { &self.reset };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn shared<T: BusDevice + 'static>(device: T) -> Arc<Mutex<dyn BusDevice>> {
    Arc::new(Mutex::new(device))
}

fn machine() -> (Bus, Ecam, Arc<PciRoot>, Arc<Counter>) {
    let power = Arc::new(Counter::default());
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let memory = DeviceMemory::new(Arc::new(ram));
    let mut root = PciRoot::new(&[Window { base: 0x8000_0000, len: 0x6000_0000 }]);
    let window = EcamWindow::new(ECAM, 0x8000_0000..0xf000_0000);
    let bridge = Arc::new(Mutex::new(HostBridge::new(Arc::clone(&window))));
    root.add(0, "host bridge", Visibility::Everywhere, bridge).unwrap();
    root.add(31, "lpc", Visibility::Everywhere, Arc::new(Mutex::new(LpcBridge::new(false)))).unwrap();
    let root = Arc::new(root);
    let fw_cfg_device = FwCfg::builder().vcpus(1).file("etc/e820", vec![1; 20]).build(memory).unwrap();
    let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
    let serial = Serial::new(interrupt, None, Box::new(std::io::sink())).unwrap();

    let mut ports = Bus::new();
    ports.add(0x64, 1, "keyboard reset", shared(KeyboardReset::new(power.clone()))).unwrap();
    ports.add(0x70, 2, "rtc", shared(Rtc::new())).unwrap();
    ports.add(0x3f8, 8, "serial", shared(serial)).unwrap();
    ports.add(fw_cfg::BASE, fw_cfg::LEN, "fw_cfg", shared(fw_cfg_device)).unwrap();
    ports.add(0x601, 1, "sleep status", shared(SleepStatus::default())).unwrap();
    ports.add(0x604, 2, "sleep control", shared(SleepControl::new(power.clone()))).unwrap();
    ports.add(0x608, 4, "pm timer", shared(PmTimer::new())).unwrap();
    let reset = Box::new(ResetControl::new(power.clone()));
    let config = ConfigPorts::new(root.clone(), reset);
    ports.add(ConfigPorts::BASE, ConfigPorts::LEN, "pci config", shared(config)).unwrap();
    let ecam = Ecam::new(root.clone(), window);
    (ports, ecam, root, power)
}

#[test]
fn firmware_finds_its_way() {
    let (ports, ecam, _, power) = machine();
    let mut data = [0; 4];
    assert_eq!(ecam.read(ECAM, &mut data), Access::Claimed("pci ecam"));
    assert_eq!(u32::from_le_bytes(data), 0x29c0_8086);
    ports.write(0x510, &0_u16.to_le_bytes());
    assert_eq!(ports.read_string(0x511, 1, &mut data), Access::Claimed("fw_cfg"));
    assert_eq!(&data, b"QEMU");
    ports.write(0xcf8, &0x0606_0606_u32.to_le_bytes());
    ports.write(0x604, &1_u16.to_le_bytes());
    assert_eq!((power.off.load(Ordering::Relaxed), power.reset.load(Ordering::Relaxed)), (0, 0));
    ports.write(0xcf9, &[0x06]);
    ports.write(0x64, &[0xfe]);
    ports.write(0x605, &[0x20]);
    ports.write(0x604, &0x2001_u16.to_le_bytes());
    assert_eq!((power.off.load(Ordering::Relaxed), power.reset.load(Ordering::Relaxed)), (2, 2));
}

#[test]
fn every_device_can_be_looked_at_while_it_works() {
    let (ports, ecam, root, _) = machine();
    let mut data = [0; 4];
    ecam.read(ECAM, &mut data);
    ports.write(0xcf8, &(1_u32 << 31).to_le_bytes());
    ports.read(0xcfc, &mut data);
    ports.write(0x3f8, b"x");
    ports.write(0xcf9, &[0x06]);
    ports.write(0x604, &[0]);
    let view = View::of(&ports);
    let names: Vec<_> = view.iter().map(|(name, _)| name).collect();
    let all = ["keyboard reset", "rtc", "serial", "fw_cfg", "sleep status", "sleep control", "pm timer"];
    assert_eq!(names, [&all[..], &["pci config"]].concat());
    let count = |path: &[&str]| view.count(path).unwrap_or_else(|| panic!("{path:?}"));
    assert_eq!((count(&["serial", "writes"]), count(&["serial", "bytes_out"])), (1, 1));
    assert_eq!(count(&["pci config", "reset", "requests"]), 1);
    assert_eq!((count(&["sleep control", "writes"]), count(&["sleep control", "requests"])), (1, 0));
    let view = View::of(&*root);
    assert_eq!(view.count(&["host bridge", "config_reads"]), Some(2));
    assert_eq!(view.count(&["host bridge", "pciexbar"]), Some(ECAM | 1));
    assert_eq!(view.count(&["lpc", "config_reads"]), Some(0));
}

fn port() -> impl Strategy<Value = u64> {
    let known = [0x64, 0x70, 0x71, 0x3f8, 0x3fc, 0x510, 0x514, 0x518, 0x601, 0x604, 0x608, 0xcf8, 0xcfc];
    prop_oneof![
        3 => (proptest::sample::select(known.to_vec()), 0_u64..4).prop_map(|(port, lane)| port + lane),
        1 => 0_u64..0x1_0000,
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(1_usize), Just(2), Just(4), Just(8)]
        .prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_sequence_of_accesses_is_answered(
        accesses in proptest::collection::vec((0_u8..5, port(), any::<u64>(), value()), 0..200)
    ) {
        let (ports, ecam, root, _) = machine();
        for (kind, port, gpa, mut data) in accesses {
            match kind {
                0 => { ports.write(port, &data); }
                1 => {
                    if ports.read(port, &mut data) == Access::Unclaimed {
                        prop_assert!(data.iter().all(|byte| *byte == 0xff));
                    }
                }
                2 => { ports.write_string(port, 1, &data); }
                3 => {
                    let at = ECAM + gpa % Ecam::LEN;
                    ecam.write(at, &data);
                    ecam.read(at, &mut data);
                }
                _ => {
                    prop_assert_eq!(root.bar_write(gpa, &data), Access::Unclaimed);
                    prop_assert_eq!(root.bar_read(gpa, &mut data), Access::Unclaimed);
                    prop_assert!(data.iter().all(|byte| *byte == 0xff));
                }
            }
        }
        let mut id = [0; 4];
        ports.write(0xcf8, &(1_u32 << 31).to_le_bytes());
        ports.read(0xcfc, &mut id);
        prop_assert_eq!(u32::from_le_bytes(id), 0x29c0_8086);
    }
}

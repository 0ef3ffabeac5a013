// SPDX-License-Identifier: Apache-2.0
//! PCI configuration by ports and ECAM, and memory accesses to wherever the guest has put its BARs: host
//! bridge, LPC bridge and two virtio functions.
#![no_main]

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use cvmm_devices::bus::{Access, Bus, BusDevice};
use cvmm_devices::chipset::ResetControl;
use cvmm_devices::pci::{ConfigPorts, Ecam, EcamWindow, HostBridge, LpcBridge, PciRoot, Visibility, Window};
use cvmm_devices::virtio::pci::VirtioPci;
use cvmm_fuzz::Input;
use cvmm_fuzz::input::width;
use cvmm_fuzz::machine::{Power, Probe, Running, SharedHost, memory};
use libfuzzer_sys::fuzz_target;

const ECAM: u64 = 0xe000_0000;
const WINDOW: Window = Window { base: 0x8000_0000, len: 0x6000_0000 };
const HIGH: Window = Window { base: 1 << 36, len: 1 << 36 };
const STEPS: usize = 128;

fn shared<T: BusDevice + 'static>(device: T) -> Arc<Mutex<dyn BusDevice>> {
    Arc::new(Mutex::new(device))
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let power = Arc::new(Power::default());
    let host = SharedHost::default();
    let mut root = PciRoot::new(&[WINDOW, HIGH]);
    let place = EcamWindow::new(ECAM, 0x8000_0000..0xf000_0000);
    let bridge = Arc::new(Mutex::new(HostBridge::new(Arc::clone(&place))));
    root.add(0, "host bridge", Visibility::Everywhere, bridge).expect("free");
    root.add(31, "lpc", Visibility::Everywhere, Arc::new(Mutex::new(LpcBridge::new(input.u8() & 1 != 0))))
        .expect("free");
    let memory = memory(0x10000);
    for (slot, visibility) in [(2, Visibility::Everywhere), (3, Visibility::Cf8Only)] {
        let probe = Probe { running: Running::default(), fail: false };
        let function = VirtioPci::new(Box::new(probe), memory.clone(), &host, Arc::new(host.clone()));
        let function = Arc::new(Mutex::new(function.expect("a good device")));
        root.add(slot, "probe", visibility, function).expect("free");
    }
    let root = Arc::new(root);
    let mut ports = Bus::new();
    let reset = Box::new(ResetControl::new(power.clone()));
    let config = shared(ConfigPorts::new(root.clone(), reset));
    ports.add(ConfigPorts::BASE, ConfigPorts::LEN, "pci config", config).expect("free");
    let mmio = Ecam::new(root.clone(), place);

    for _ in 0..STEPS {
        if !input.more() {
            break;
        }
        let op = input.u8();
        let selector = op >> 4;
        match op & 0xf {
            // A register of one of the functions that exist, by the ports as a driver does it.
            0..=3 => {
                let device = [0_u32, 2, 3, 31][usize::from(op & 3)];
                let register = input.u8();
                ports.write(0xcf8, &(1 << 31 | device << 11 | u32::from(register & 0xfc)).to_le_bytes());
                let lane = u64::from(register & 3);
                if selector & 4 == 0 {
                    ports.write(0xcfc + lane, &input.access(selector));
                } else {
                    ports.read(0xcfc + lane, &mut [0; 8][..width(selector)]);
                }
            }
            4 => {
                let port = 0xcf8 + u64::from(input.u8() % 8);
                let data = input.access(selector);
                ports.write(port, &data);
            }
            5 => {
                ports.read(0xcf8 + u64::from(input.u8() % 8), &mut [0; 8][..width(selector)]);
            }
            6 => {
                let at = ECAM + u64::from(input.u32()) % Ecam::LEN;
                let data = input.access(selector);
                mmio.write(at, &data);
            }
            7 => {
                let at = ECAM + u64::from(input.u32()) % Ecam::LEN;
                let mut data = vec![0; width(selector)];
                let there = mmio.read(at, &mut data) != Access::Unclaimed;
                if there && at - ECAM >= 1 << 20 {
                    assert!(data.iter().all(|byte| *byte == 0xff), "there is only bus 0");
                }
            }
            // Like 0 to 3 by ECAM.
            8..=11 => {
                let device = [0_u64, 2, 3, 31][usize::from(op & 3)];
                let at = ECAM + (device << 15) + u64::from(input.u8());
                let mut data = input.access(selector);
                if selector & 4 == 0 {
                    mmio.write(at, &data);
                } else {
                    let there = mmio.read(at, &mut data) != Access::Unclaimed;
                    assert!(
                        !there || device != 3 || data.iter().all(|byte| *byte == 0xff),
                        "it hides from ECAM"
                    );
                }
            }
            op => {
                let base = if op & 1 == 0 { WINDOW.base } else { HIGH.base };
                let gpa = match input.u8() {
                    0xff => input.u64(),
                    0xfe => base.wrapping_add(u64::from(input.u32())),
                    page => base + u64::from(page) * 0x400 + u64::from(input.u8()),
                };
                let mut data = input.access(selector);
                let answer = if op < 14 { root.bar_write(gpa, &data) } else { root.bar_read(gpa, &mut data) };
                let end = gpa.checked_add(data.len() as u64);
                let inside = |w: &Window| gpa >= w.base && end.is_some_and(|end| end <= w.base + w.len);
                if answer != Access::Unclaimed {
                    assert!([WINDOW, HIGH].iter().any(inside), "{gpa:#x} is in no window");
                } else if op >= 14 {
                    assert!(data.iter().all(|byte| *byte == 0xff));
                }
            }
        }
        // Three queues per function, one doorbell each at most.
        assert!(host.0.doorbells() <= 6);
    }
    // Identities are not the guest's to change.
    let mut id = [0; 4];
    for (device, identity) in [(0_u32, 0x29c0_8086), (2, 0x1044_1af4)] {
        ports.write(0xcf8, &(1 << 31 | device << 11).to_le_bytes());
        ports.read(0xcfc, &mut id);
        assert_eq!(u32::from_le_bytes(id), identity);
    }
    assert!(power.0.load(Ordering::Relaxed) as usize <= STEPS);
    drop((ports, mmio));
    drop(root);
    assert_eq!(host.0.doorbells(), 0, "doorbells outlive their function");
});

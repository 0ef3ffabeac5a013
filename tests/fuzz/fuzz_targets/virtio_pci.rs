// SPDX-License-Identifier: Apache-2.0
//! The virtio transport: any access to the whole BAR and to configuration space, with a device that asserts
//! what the transport promises, or with the entropy device and its worker thread.
#![no_main]

use std::sync::Arc;

use cvmm_devices::pci::PciFunction;
use cvmm_devices::virtio::VirtioDevice;
use cvmm_devices::virtio::pci::VirtioPci;
use cvmm_devices::virtio::rng::Rng;
use cvmm_fuzz::Input;
use cvmm_fuzz::input::width;
use cvmm_fuzz::machine::{Probe, REQUIRED_FEATURES, Running, SharedHost, memory};
use cvmm_fuzz::ring::{RAM, Ring};
use libfuzzer_sys::fuzz_target;

const BAR_LEN: u64 = 0x8000;
const STEPS: usize = 128;
/// The pages that hold something.
const PAGES: [u64; 8] = [0x0000, 0x0000, 0x0000, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000];

struct Rig {
    function: VirtioPci,
    queues: u16,
}

impl Rig {
    fn read(&mut self, offset: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.bar_read(offset, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }

    fn status(&mut self) -> u8 {
        self.read(0x14, 1) as u8
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let before = self.status();
        self.function.bar_write(offset, data);
        if offset == 0x14 && data.len() == 1 {
            let after = self.status();
            if data[0] == 0 {
                assert_eq!(after, 0, "reset");
            } else {
                assert_eq!(before & !after, 0, "only a reset clears status bits");
                let added = after & !before & !0x40;
                assert_eq!(added & !data[0], 0, "a status bit that was not written");
            }
        }
    }

    /// What holds after every step.
    fn check(&mut self) {
        let status = self.status();
        let steps = [0, 1, 3, 0xb, 0xf];
        assert!(steps.contains(&(status & !0xc0)), "{status:#x}");
        assert_eq!(self.read(0x12, 2), u64::from(self.queues));
        assert!(self.read(0x1c, 2) <= 1);
    }

    /// Brings the device up as a driver does, up to a step.
    fn handshake(&mut self, input: &mut Input<'_>) {
        self.write(0x14, &[0]);
        self.write(0x14, &[1]);
        self.write(0x14, &[3]);
        let features = REQUIRED_FEATURES ^ input.u32() as u64;
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(0x08, &select.to_le_bytes());
            self.write(0x0c, &half.to_le_bytes());
        }
        self.write(0x14, &[0xb]);
        for queue in 0..self.queues {
            let size = 1_u16 << (input.u8() % 9);
            self.write(0x16, &queue.to_le_bytes());
            self.write(0x18, &size.to_le_bytes());
            self.write(0x1a, &queue.to_le_bytes());
            let base = u64::from(input.u8()) << 4;
            for (register, address) in [(0x20, base), (0x28, 0x1000 + base), (0x30, 0x2000 + base)] {
                self.write(register, &address.to_le_bytes());
            }
            self.write(0x1c, &1_u16.to_le_bytes());
        }
        self.write(0x14, &[0xf]);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let mode = input.u8();
    let memory = memory(RAM as usize);
    let host = SharedHost::default();
    let running = Running::default();
    let device: Box<dyn VirtioDevice> = match mode & 7 {
        0 => Box::new(Rng::new()),
        kind => Box::new(Probe { running: running.clone(), fail: kind == 1 }),
    };
    let queues = device.queue_sizes().len() as u16;
    let mut ring = Ring::new(&memory, mode >> 4);
    let function = VirtioPci::new(device, memory, &host, Arc::new(host.clone())).expect("a good device");
    let mut rig = Rig { function, queues };
    // Starting the entropy device takes a thread: a few times are enough.
    let mut starts = 0;

    for _ in 0..STEPS {
        if !input.more() || starts > 4 {
            break;
        }
        let op = input.u8();
        let selector = op >> 4;
        match op & 0xf {
            0..=3 => {
                let len = width(selector);
                let at = PAGES[usize::from(selector >> 2 | (op & 1) << 2)] + u64::from(input.u8());
                rig.read(at, len.min((BAR_LEN - at) as usize));
            }
            4..=7 => {
                let at = PAGES[usize::from(selector >> 2 | (op & 1) << 2)] + u64::from(input.u8());
                let data = input.access(selector);
                rig.write(at, &data);
            }
            8 => {
                let at = u64::from(input.u16()) % (BAR_LEN - 7);
                let data = input.access(selector);
                if selector & 4 == 0 {
                    rig.write(at, &data);
                } else {
                    rig.read(at, data.len());
                }
            }
            9 | 10 => {
                // As PciRoot gives them: naturally aligned, at most a dword.
                let len = width(selector).min(4);
                let at = input.u8() & !(len as u8 - 1);
                let mut data = input.access(selector)[..len].to_vec();
                if selector & 4 == 0 {
                    rig.function.config_write(at, &data);
                } else {
                    rig.function.config_read(at, &mut data);
                }
            }
            11 => {
                rig.handshake(&mut input);
                starts += 1;
            }
            12 | 13 => {
                let step = input.u8();
                ring.step(step, &mut input);
            }
            14 => {
                // Kick, and let the probe work.
                rig.write(0x3000 + 4 * u64::from(input.u8() % 4), &0_u16.to_le_bytes());
                running.work();
            }
            _ => running.signal(selector & 1 != 0),
        }
        rig.check();
        assert!(host.0.doorbells() <= usize::from(queues));
    }
    rig.write(0x14, &[0]);
    assert!(!running.active(), "a reset device still runs");
    drop(rig);
    assert_eq!(host.0.doorbells(), 0, "doorbells outlive their function");
});

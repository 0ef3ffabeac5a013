// SPDX-License-Identifier: Apache-2.0
//! The UART: register accesses of any width and input from the terminal.
#![no_main]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use cvmm_devices::bus::BusDevice;
use cvmm_devices::chipset::Serial;
use cvmm_fuzz::Input;
use cvmm_fuzz::input::width;
use cvmm_fuzz::machine::lock;
use libfuzzer_sys::fuzz_target;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const STEPS: usize = 256;

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let event = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let (interrupt, screen) = (event(), Screen::default());
    let line = interrupt.try_clone().expect("an eventfd");
    let mut serial = Serial::new(line, Some(event()), Box::new(screen.clone())).expect("a thread");
    let (mut written, mut loopback) = (0, false);

    for _ in 0..STEPS {
        if !input.more() {
            break;
        }
        let op = input.u8();
        let (kind, selector, offset) = (op >> 6, op >> 4, op & 0xf);
        match kind {
            0 => {
                let mut data = vec![0; width(selector)];
                serial.read(offset.into(), &mut data);
                for (at, byte) in (usize::from(offset)..).zip(data) {
                    assert!(at < 8 || byte == 0xff, "register {at} does not exist");
                }
            }
            1 | 2 => {
                let data = input.access(selector);
                serial.write(offset.into(), &data);
                if offset <= 4 && usize::from(offset) + data.len() > 4 {
                    loopback = data[usize::from(4 - offset)] & 0x10 != 0;
                }
                written += usize::from(offset == 0);
            }
            _ => {
                let typed = input.bytes((op & 0x3f).into());
                let room = serial.input_capacity();
                let taken = serial.enqueue(typed);
                assert!(taken <= typed.len() && taken <= room);
                assert!(!loopback || taken == 0, "loopback keeps the terminal out");
                assert!(loopback || taken == typed.len().min(room), "{taken} of {} for {room}", typed.len());
            }
        }
        assert!(serial.input_capacity() <= 64);
    }
    assert_eq!(serial.dropped(), 0, "the screen takes everything");
    drop(serial);
    assert!(lock(&screen.0).len() <= written, "characters that were not written");
});

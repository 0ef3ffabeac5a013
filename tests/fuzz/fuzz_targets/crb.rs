// SPDX-License-Identifier: Apache-2.0
//! The TPM's command buffer: any accesses to registers, window and page, before a TPM that answers when and
//! what the input says.
#![no_main]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cvmm_devices::bus::BusDevice;
use cvmm_devices::memory::DeviceMemory;
use cvmm_devices::tpm::crb::{BUFFER_LEN, LEN, PAGE};
use cvmm_devices::tpm::{Crb, Progress, TpmExecutor, TpmGone};
use cvmm_fuzz::Input;
use cvmm_fuzz::input::width;
use cvmm_fuzz::machine::lock;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const STEPS: usize = 256;
const START: u64 = 0x4c;
const STATUS: u64 = 0x44;
/// The registers that do something, so that few bytes of input reach them.
const REGISTERS: [u64; 8] = [0x00, 0x08, 0x40, START, 0x48, STATUS, 0x80, 0x84];

#[derive(Default)]
struct State {
    /// What the running command will be answered with, and after how many waits; `None` for a TPM that is
    /// gone.
    running: Option<(u8, Option<Vec<u8>>)>,
    next: (u8, Option<Vec<u8>>),
    submitted: u64,
}

#[derive(Clone, Default)]
struct Tpm(Arc<Mutex<State>>);

impl TpmExecutor for Tpm {
    fn submit(&mut self, command: &[u8]) -> Result<(), TpmGone> {
        let mut state = lock(&self.0);
        assert!(state.running.is_none(), "two commands at once");
        assert!((10..=BUFFER_LEN).contains(&command.len()));
        assert_eq!(command[2..6], (command.len() as u32).to_be_bytes(), "checked and used are not the same");
        state.submitted += 1;
        let next = state.next.clone();
        if next.1.is_none() && next.0 == 0 {
            return Err(TpmGone);
        }
        state.running = Some(next);
        Ok(())
    }

    fn wait(&mut self, limit: Duration) -> Result<Progress, TpmGone> {
        assert!(limit <= Duration::from_millis(1), "a vcpu would be kept");
        let mut state = lock(&self.0);
        match state.running.take().expect("nothing runs") {
            (0, Some(response)) => Ok(Progress::Done(response.into())),
            (0, None) => Err(TpmGone),
            (waits, response) => {
                state.running = Some((waits - 1, response));
                Ok(Progress::Pending)
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let tpm = Tpm::default();
    lock(&tpm.0).next = (0, Some(vec![0; 10]));
    let mut crb = Crb::new(Box::new(tpm.clone()));
    let page = GuestMemoryMmap::from_ranges(&[(GuestAddress(PAGE), LEN as usize)]).expect("a page");
    let page = DeviceMemory::new(Arc::new(page));
    if input.u8() & 1 != 0 {
        crb = crb.with_page(page.clone());
    }
    let register = |crb: &mut Crb, at| {
        let mut data = [0; 4];
        crb.read(at, &mut data);
        u32::from_le_bytes(data)
    };
    let mut failed = false;
    for _ in 0..STEPS {
        if !input.more() {
            break;
        }
        let op = input.u8();
        let at = match op & 0xf {
            known @ 0..8 => REGISTERS[usize::from(known)],
            high => (u64::from(high & 7) << 8 | u64::from(input.u8())) * 2,
        };
        match op >> 6 {
            0 => crb.read(at, &mut vec![0; width(op >> 4)]),
            1 | 2 => crb.write(at, &input.access(op >> 4)),
            _ if op & 0x20 != 0 => {
                let bytes = input.bytes(usize::from(op & 0x1f));
                let _ = page.write_slice(bytes, GuestAddress(PAGE));
            }
            _ => {
                let (waits, kind) = (input.u8() & 3, input.u8());
                let response = match kind {
                    0 => None,
                    1 => Some(vec![0xee; BUFFER_LEN + 1]),
                    2 => Some(vec![0xee; BUFFER_LEN]),
                    len => Some(vec![0xee; len.into()]),
                };
                lock(&tpm.0).next = (waits, response);
            }
        }
        assert!(!failed || crb.has_failed(), "a failure stays");
        failed = crb.has_failed();
    }
    for _ in 0..4 {
        register(&mut crb, START);
    }
    assert_eq!(register(&mut crb, START), 0, "every command ends");
    assert_eq!(register(&mut crb, STATUS) & 1 != 0, crb.has_failed());
    assert!(crb.counters().commands.get() >= lock(&tpm.0).submitted);
});

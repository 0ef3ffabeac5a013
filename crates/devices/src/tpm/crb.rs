// SPDX-License-Identifier: Apache-2.0
//! The Command Response Buffer interface (TCG PC Client Platform TPM Profile 1.05, 6.5.3) of one locality.
//!
//! | offset | register |
//! |---|---|
//! | 0x00 | LOC_STATE: established, assigned, valid |
//! | 0x08 | LOC_CTRL: request, relinquish (write only) |
//! | 0x0c | LOC_STS: granted |
//! | 0x30 | INTF_ID, VID, DID |
//! | 0x40 | CTRL_REQ: cmdReady, goIdle; clear themselves |
//! | 0x44 | CTRL_STS: fatal error, idle |
//! | 0x48 | CTRL_CANCEL |
//! | 0x4c | CTRL_START: set by the guest, cleared when the response is there |
//! | 0x50, 0x54 | interrupts: none |
//! | 0x58 .. 0x6f | size and address of the command and response buffers, read only |
//! | 0x80 .. 0xfff | the buffer ("window") |
//!
//! A command: the guest requests the locality, writes cmdReady, fills the buffer, sets START and polls it. On
//! START the command is copied once and only then looked at, because another vCPU may write to the buffer all
//! the time. The device waits up to `INLINE_WAIT` for the response, so that the first poll finds it (Linux
//! sleeps 1 ms after a poll that does not); longer commands end while the guest polls. A command cannot be
//! cancelled: CANCEL is remembered and the guest waits for the end, as the specification allows.
//!
//! Bytes of the window leave the guest one by one. Linux takes the buffer's address from the registers, so
//! the device can also have a page of ordinary memory for it ([`Crb::with_page`]), which costs no exits.
//! Firmware does not read the registers and uses the window. So the command is where the guest has written
//! since the last one: in the window, or else in the page. The response goes to both.
//!
//! IdleBypass is announced (the guest may leave out goIdle between commands): that saves firmware two
//! accesses for each command. There is one locality and no DRTM: other localities do not answer, nothing can
//! be seized or re-established.
//!
//! When the TPM fails, the guest reads TPM_RC_FAILURE and the error bit until its next reset; the VMM lives
//! on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cvmm_metrics::Inspect;
use vm_memory::{Bytes, GuestAddress};
use zeroize::{Zeroize, Zeroizing};

use super::metrics::CrbMetrics;
use super::{Progress, TpmExecutor, TpmGone};
use crate::bus::BusDevice;
use crate::memory::DeviceMemory;

/// Where PC software looks for locality 0.
pub const BASE: u64 = 0xfed4_0000;
/// Length of the registers and the window.
pub const LEN: u64 = 0x1000;
/// Where the page lies if there is one: next to the registers, so that one ACPI resource has both.
pub const PAGE: u64 = BASE + LEN;
/// Address of the control area, which the ACPI table names.
pub const CONTROL_AREA: u64 = BASE + CTRL_REQ;
/// Offset of the window.
pub const WINDOW: u64 = 0x80;
/// The longest command and the longest response, and the size of the buffer in the window as in the page.
pub const BUFFER_LEN: usize = 0xf80;
/// How long a START holds its vCPU.
pub(crate) const INLINE_WAIT: Duration = Duration::from_millis(1);

/// Tag, size and code: what a command and a response have at least.
const HEADER_LEN: usize = 10;
/// TPM_ST_NO_SESSIONS.
const NO_SESSIONS: u16 = 0x8001;
/// TPM_RC_FAILURE.
const RC_FAILURE: u32 = 0x101;
/// TPM_RC_COMMAND_SIZE.
const RC_COMMAND_SIZE: u32 = 0x142;

const LOC_STATE: u64 = 0x00;
const LOC_CTRL: u64 = 0x08;
const LOC_STS: u64 = 0x0c;
const INTF_ID: u64 = 0x30;
const VENDOR: u64 = 0x34;
const CTRL_REQ: u64 = 0x40;
const CTRL_STS: u64 = 0x44;
const CTRL_CANCEL: u64 = 0x48;
const CTRL_START: u64 = 0x4c;
const CMD_SIZE: u64 = 0x58;
const CMD_LOW: u64 = 0x5c;
const RSP_SIZE: u64 = 0x64;
const RSP_LOW: u64 = 0x68;

/// tpmEstablished, inverted as in TPM_ACCESS: there was no DRTM.
const LOC_STATE_NOT_ESTABLISHED: u32 = 1 << 0;
const LOC_STATE_ASSIGNED: u32 = 1 << 1;
const LOC_STATE_VALID: u32 = 1 << 7;
const LOC_CTRL_REQUEST: u32 = 1 << 0;
const LOC_CTRL_RELINQUISH: u32 = 1 << 1;
const LOC_STS_GRANTED: u32 = 1 << 0;
const REQ_READY: u32 = 1 << 0;
const REQ_IDLE: u32 = 1 << 1;
const STS_ERROR: u32 = 1 << 0;
const STS_IDLE: u32 = 1 << 1;

/// Type CRB, version 1, one locality, IdleBypass, transfers of 64 bytes, CRB only, CRB selected.
const INTERFACE: u32 = 1 | 1 << 4 | 1 << 9 | 3 << 11 | 1 << 14 | 1 << 17;
/// VID of the vendor whose TPM this is in the end (the maker of libtpms), DID 1.
const VENDOR_AND_DEVICE: u32 = 0x0001_1014;

/// The device.
pub struct Crb {
    tpm: Box<dyn TpmExecutor>,
    page: Option<DeviceMemory>,
    window: Zeroizing<[u8; BUFFER_LEN]>,
    /// The window has been written to since the last command or cmdReady.
    written: bool,
    assigned: bool,
    idle: bool,
    /// A command runs.
    busy: bool,
    cancel: bool,
    failed: bool,
    metrics: Arc<CrbMetrics>,
}

impl fmt::Debug for Crb {
    /// Without the buffer, which may contain secrets of the guest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crb")
            .field("page", &self.page.is_some())
            .field("assigned", &self.assigned)
            .field("idle", &self.idle)
            .field("busy", &self.busy)
            .field("failed", &self.failed)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

impl Crb {
    /// A device in front of `tpm`, which has just been powered on.
    pub fn new(tpm: Box<dyn TpmExecutor>) -> Self {
        Self {
            tpm,
            page: None,
            window: Zeroizing::new([0; BUFFER_LEN]),
            written: false,
            assigned: false,
            idle: true,
            busy: false,
            cancel: false,
            failed: false,
            metrics: Arc::default(),
        }
    }

    /// The same with a buffer in `memory`, which must have the page at [`PAGE`].
    #[must_use]
    pub fn with_page(mut self, memory: DeviceMemory) -> Self {
        self.page = Some(memory);
        self
    }

    /// What it has done.
    pub fn counters(&self) -> &Arc<CrbMetrics> {
        &self.metrics
    }

    /// Whether the guest has been told that its TPM failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    fn register(&self, offset: u64) -> u32 {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        match offset {
            LOC_STATE => {
                LOC_STATE_NOT_ESTABLISHED | LOC_STATE_VALID | flag(self.assigned, LOC_STATE_ASSIGNED)
            }
            LOC_STS => flag(self.assigned, LOC_STS_GRANTED),
            INTF_ID => INTERFACE,
            VENDOR => VENDOR_AND_DEVICE,
            CTRL_STS => flag(self.failed, STS_ERROR) | flag(self.idle, STS_IDLE),
            CTRL_CANCEL => flag(self.cancel, 1),
            CTRL_START => flag(self.busy, 1),
            CMD_SIZE | RSP_SIZE => BUFFER_LEN as u32,
            // Below 4 GiB, so the upper halves are zero.
            CMD_LOW | RSP_LOW => (if self.page.is_some() { PAGE } else { BASE + WINDOW }) as u32,
            _ => 0,
        }
    }

    /// Bytes that were not written count as zero, which does nothing in any register.
    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            LOC_CTRL if value & LOC_CTRL_RELINQUISH != 0 => self.assigned = false,
            LOC_CTRL if value & LOC_CTRL_REQUEST != 0 => self.assigned = true,
            CTRL_REQ if self.accepts_requests() => match value & (REQ_READY | REQ_IDLE) {
                REQ_READY => {
                    self.idle = false;
                    self.written = false;
                    self.window.zeroize();
                }
                REQ_IDLE => self.idle = true,
                _ => {}
            },
            CTRL_CANCEL => self.cancel = value & 1 != 0,
            CTRL_START if value & 1 != 0 && self.accepts_commands() => self.start(),
            _ => {}
        }
    }

    fn accepts_requests(&self) -> bool {
        self.assigned && !self.busy
    }

    fn accepts_commands(&self) -> bool {
        self.accepts_requests() && !self.idle
    }

    /// Takes the command out of the guest's reach, then looks at it.
    fn start(&mut self) {
        let mut buffer = Zeroizing::new([0; BUFFER_LEN]);
        let in_window = std::mem::take(&mut self.written);
        match &self.page {
            Some(memory) if !in_window => {
                // Cannot fail: the page is there as long as the machine. Zeros are not a valid command.
                let _ = memory.read_slice(&mut buffer[..], GuestAddress(PAGE));
                self.metrics.from_page.increment();
            }
            _ => buffer.copy_from_slice(&self.window[..]),
        }
        self.metrics.commands.increment();
        if self.failed {
            return self.refuse(RC_FAILURE);
        }
        let [_, _, size @ .., _, _, _, _] = first(&buffer);
        let len = usize::try_from(u32::from_be_bytes(size)).unwrap_or(usize::MAX);
        let Some(command) = buffer.get(..len).filter(|command| command.len() >= HEADER_LEN) else {
            return self.refuse(RC_COMMAND_SIZE);
        };
        self.metrics.bytes_in.add(len as u64);
        match self.tpm.submit(command) {
            Ok(()) => {
                self.busy = true;
                self.collect(INLINE_WAIT);
                self.metrics.slow.add(u64::from(self.busy));
            }
            Err(TpmGone) => self.fail(),
        }
    }

    /// Takes the response of the command that runs, if it comes within `limit`.
    fn collect(&mut self, limit: Duration) {
        match self.tpm.wait(limit) {
            Ok(Progress::Pending) => {}
            Ok(Progress::Done(response)) if (HEADER_LEN..=BUFFER_LEN).contains(&response.len()) => {
                self.respond(&response);
            }
            // A response that is missing or longer than the buffer is not valid.
            Ok(Progress::Done(_)) | Err(TpmGone) => self.fail(),
        }
    }

    /// First the response, then START: who sees it cleared finds the response. `response` fits into the
    /// buffer.
    fn respond(&mut self, response: &[u8]) {
        if let Some(memory) = &self.page {
            let _ = memory.write_slice(response, GuestAddress(PAGE));
        }
        if let Some(to) = self.window.get_mut(..response.len()) {
            to.copy_from_slice(response);
        }
        self.metrics.bytes_out.add(response.len() as u64);
        self.busy = false;
    }

    fn fail(&mut self) {
        if !self.failed {
            cvmm_log_limit::error!(
                "the guest's tpm has failed: the guest is told so and has no tpm until its next reset"
            );
        }
        self.failed = true;
        self.refuse(RC_FAILURE);
    }

    fn refuse(&mut self, code: u32) {
        self.metrics.errors.increment();
        self.respond(&error(code));
    }
}

/// The first bytes of a buffer, which is longer.
fn first(buffer: &[u8; BUFFER_LEN]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(&buffer[..HEADER_LEN]);
    header
}

/// A response that is only a code.
fn error(code: u32) -> [u8; HEADER_LEN] {
    let mut response = [0; HEADER_LEN];
    response[..2].copy_from_slice(&NO_SESSIONS.to_be_bytes());
    response[2..6].copy_from_slice(&(HEADER_LEN as u32).to_be_bytes());
    response[6..].copy_from_slice(&code.to_be_bytes());
    response
}

impl BusDevice for Crb {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.metrics.accesses.increment();
        if self.busy {
            self.collect(Duration::ZERO);
        }
        for (at, byte) in (offset..).zip(data) {
            *byte = match at.checked_sub(WINDOW) {
                Some(at) => {
                    usize::try_from(at).ok().and_then(|at| self.window.get(at)).copied().unwrap_or(0xff)
                }
                None => self.register(at & !3).to_le_bytes()[(at & 3) as usize],
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.metrics.accesses.increment();
        if self.busy {
            self.collect(Duration::ZERO);
        }
        let mut at = offset;
        let mut rest = data;
        while let Some((byte, others)) = rest.split_first() {
            if let Some(place) = at.checked_sub(WINDOW) {
                let place = usize::try_from(place).ok().filter(|_| self.accepts_commands());
                if let Some(to) = place.and_then(|place| self.window.get_mut(place)) {
                    *to = *byte;
                    self.written = true;
                }
                (at, rest) = (at + 1, others);
                continue;
            }
            // As much of the access as falls into this register.
            let lane = (at & 3) as usize;
            let (here, others) = rest.split_at(rest.len().min(4 - lane));
            let mut lanes = [0; 4];
            lanes[lane..lane + here.len()].copy_from_slice(here);
            self.write_register(at & !3, u32::from_le_bytes(lanes));
            (at, rest) = (at + here.len() as u64, others);
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

#[cfg(test)]
#[path = "crb_tests.rs"]
mod tests;

// SPDX-License-Identifier: Apache-2.0
//! Instructions without a Rust equivalent.

use core::arch::asm;

use cvmm_first_stage::stop::{REASON_SET, Stop};

const GHCB_MSR: u32 = 0xc001_0130;
/// Requests of the MSR protocol (GHCB specification, 2.3.1).
const REGISTER: u64 = 0x012;
const REGISTERED: u64 = 0x013;
const PAGE_STATE: u64 = 0x014;
const PAGE_STATE_DONE: u64 = 0x015;
const TERMINATE: u64 = 0x100;

/// State of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Private = 1,
    Shared = 2,
}

fn write_ghcb_msr(value: u64) {
    // SAFETY: the MSR belongs to the guest; it names a page or carries a request, and changes no memory of
    // this program.
    unsafe {
        asm!("wrmsr", in("ecx") GHCB_MSR, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

fn read_ghcb_msr() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register.
    unsafe {
        asm!("rdmsr", in("ecx") GHCB_MSR, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Gives control to the host until it resumes the guest. It may have changed shared memory.
pub fn vmgexit() {
    // SAFETY: the host sees and changes nothing but shared memory and the GHCB MSR. `rep vmmcall` is VMGEXIT.
    unsafe { asm!("rep", "vmmcall", options(nostack, preserves_flags)) };
}

/// A request by the MSR protocol, and its answer.
fn msr_call(request: u64) -> u64 {
    write_ghcb_msr(request);
    vmgexit();
    read_ghcb_msr()
}

/// Ends the guest. If the host resumes it nevertheless, the request is repeated.
pub fn terminate(stop: Stop) -> ! {
    loop {
        msr_call(TERMINATE | u64::from(REASON_SET) << 12 | u64::from(stop as u8) << 16);
        // SAFETY: halts with interrupts off; no memory is touched.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Tells the host where the GHCB is.
pub fn register_ghcb(address: u64) -> Result<(), Stop> {
    if msr_call(address | REGISTER) != address | REGISTERED {
        return Err(Stop::Ghcb);
    }
    write_ghcb_msr(address);
    Ok(())
}

/// Selects the GHCB for the next [`vmgexit`].
pub fn use_ghcb(address: u64) {
    write_ghcb_msr(address);
}

/// Asks the host to change the state of the page at `address`.
pub fn page_state(address: u64, state: State) -> Result<(), Stop> {
    let answer = msr_call(PAGE_STATE | address | (state as u64) << 52);
    if answer & 0xfff != PAGE_STATE_DONE || answer >> 32 != 0 { Err(Stop::PageState) } else { Ok(()) }
}

/// Accepts the private page at `address`, which must not be validated yet.
pub fn validate(address: u64) -> Result<(), Stop> {
    let (status, unchanged): (u64, u8);
    // SAFETY: PVALIDATE (F2 0F 01 FF) changes the page's entry in the RMP; the page is not used before.
    unsafe {
        asm!(".byte 0xf2, 0x0f, 0x01, 0xff", "setc {unchanged}", unchanged = out(reg_byte) unchanged,
            inlateout("rax") address => status, in("ecx") 0, in("edx") 1, options(nostack));
    }
    // Unchanged: the page was validated before, so it is not the page that the host was asked for.
    if status != 0 || unchanged != 0 { Err(Stop::Validate) } else { Ok(()) }
}

/// Fills `bytes` from RDRAND.
pub fn random(bytes: &mut [u8]) -> Result<(), Stop> {
    for part in bytes.chunks_mut(8) {
        let word = (0..32).find_map(|_| random_word()).ok_or(Stop::Random)?;
        part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
    }
    Ok(())
}

fn random_word() -> Option<u64> {
    let (word, good): (u64, u8);
    // SAFETY: writes registers and flags.
    unsafe {
        asm!("rdrand {word}", "setc {good}", word = out(reg) word, good = out(reg_byte) good, options(nomem, nostack));
    }
    // Some processors have returned only all-ones values.
    (good != 0 && word != 0 && word != u64::MAX).then_some(word)
}

/// The time stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

// SPDX-License-Identifier: Apache-2.0
//! Exceptions. The only one that is handled is #VC for CPUID: the libraries query instruction set extensions,
//! and the values are in the CPUID page, which the security processor has checked. Everything else ends the
//! guest.

use core::arch::asm;
use core::ptr::addr_of_mut;

use cvmm_first_stage::layout::PAGE;
use cvmm_first_stage::stop::Stop;

use crate::{cpu, memory};

const VC: u64 = 29;
/// SVM_EXIT_CPUID.
const CPUID: u64 = 0x72;
/// The exit code of an access to an assigned page that the guest has not validated.
const NOT_VALIDATED: u64 = 0x404;
/// Bytes of a CPUID instruction.
const CPUID_LEN: u64 = 2;
/// Size of an entry of the CPUID page (firmware ABI, "CPUID_FUNCTION Structure").
const ENTRY: usize = 48;
const FIRST: usize = 16;
const MAX_ENTRIES: usize = 64;

/// The frame that `exception` in entry.s pushes, lowest address first.
#[repr(C)]
struct Frame {
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
    more: [u64; 8],
    vector: u64,
    code: u64,
    rip: u64,
}

static mut IDT: [[u64; 2]; 32] = [[0; 2]; 32];
static mut CPUID_PAGE: u64 = 0;

unsafe extern "C" {
    static stubs: u8;
}

/// Routes exceptions to `stage_exception`. `page` is the CPUID page.
pub fn install(page: u64) {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    // SAFETY: there is one processor and no exception yet; the table has 32 gates, as there are stubs, 16
    // bytes apart.
    unsafe {
        CPUID_PAGE = page;
        let first = &raw const stubs as u64;
        for vector in 0..32 {
            let target = first + 16 * vector as u64;
            // An interrupt gate of the 64-bit code segment (8), present.
            let low = target & 0xffff | 8 << 16 | 0x8e00 << 32 | (target >> 16 & 0xffff) << 48;
            (*addr_of_mut!(IDT))[vector] = [low, target >> 32];
        }
        let pointer = Pointer { limit: 32 * 16 - 1, base: addr_of_mut!(IDT) as u64 };
        asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags));
    }
}

#[unsafe(no_mangle)]
extern "C" fn stage_exception(frame: &mut Frame) {
    if frame.vector != VC {
        cpu::terminate(Stop::Exception);
    }
    match frame.code {
        CPUID => {}
        NOT_VALIDATED => cpu::terminate(Stop::Page),
        _ => cpu::terminate(Stop::Intercept),
    }
    let (leaf, subleaf) = (frame.rax as u32, frame.rcx as u32);
    // SAFETY: set once before the first exception.
    let page = unsafe { CPUID_PAGE };
    // SAFETY: a measured page that is never written.
    let page = unsafe { memory::private(page, PAGE as usize) };
    let [eax, ebx, ecx, edx] = lookup(page, leaf, subleaf);
    (frame.rax, frame.rbx, frame.rcx, frame.rdx) = (eax.into(), ebx.into(), ecx.into(), edx.into());
    frame.rip += CPUID_LEN;
}

/// The values of a leaf. Missing leaves are zero, as in Linux: no feature.
fn lookup(page: &[u8], leaf: u32, subleaf: u32) -> [u32; 4] {
    let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let count = (word(0) as usize).min(MAX_ENTRIES);
    let indexed = matches!(leaf, 4 | 7 | 0xb | 0xd);
    let found = (0..count)
        .map(|index| FIRST + ENTRY * index)
        .find(|at| word(*at) == leaf && (!indexed || word(*at + 4) == subleaf));
    let Some(at) = found else { return [0; 4] };
    let [eax, ebx, mut ecx, edx] = [word(at + 24), word(at + 28), word(at + 32), word(at + 36)];
    if leaf == 1 {
        // XSAVE, OSXSAVE, AVX: this program does not enable them.
        ecx &= !(1 << 26 | 1 << 27 | 1 << 28);
    }
    [eax, ebx, ecx, edx]
}

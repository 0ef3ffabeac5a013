// SPDX-License-Identifier: Apache-2.0
//! The jump into the kernel.

use core::arch::asm;
use core::convert::Infallible;

/// Descriptors of the boot protocol: code at selector 0x10, data at 0x18.
static SEGMENTS: [u64; 4] = [0, 0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff];

#[repr(C, packed)]
struct TableRegister {
    limit: u16,
    base: u64,
}

/// Enters the kernel at `entry` with the zero page at `page`.
pub fn enter(entry: u64, page: u64) -> Result<Infallible, crate::firmware::Stop> {
    let register = TableRegister { limit: 31, base: SEGMENTS.as_ptr() as u64 };
    // SAFETY: interrupts are off. The kernel is complete at its address, which the firmware's page tables map
    // to itself; nothing of this program is used afterwards.
    unsafe {
        asm!(
            "lgdt [{register}]",
            "push 0x10",
            "lea rax, [rip + 2f]",
            "push rax",
            "retfq",
            "2:",
            "mov eax, 0x18",
            "mov ds, eax",
            "mov es, eax",
            "mov ss, eax",
            "xor ebp, ebp",
            "xor edi, edi",
            "jmp rdx",
            register = in(reg) &register,
            in("rdx") entry,
            in("rsi") page,
            options(noreturn),
        )
    }
}

/// Halts: there is no firmware to return to.
pub fn stop() -> ! {
    loop {
        // SAFETY: halts with interrupts off; no memory is touched.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

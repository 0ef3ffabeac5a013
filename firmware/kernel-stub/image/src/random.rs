// SPDX-License-Identifier: Apache-2.0
//! Random numbers: for the kernel's place, and for the kernel's own generator.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, _rdtsc};
use core::ptr;

use uefi_raw::protocol::rng::RngProtocol;
use uefi_raw::table::boot::MemoryType;
use uefi_raw::{Guid, guid};

use crate::firmware::{Firmware, Stop};

/// Linux' table with a seed for its generator (`LINUX_EFI_RANDOM_SEED_TABLE_GUID`): length, bytes. The kernel
/// wipes it.
static SEED: Guid = guid!("1ce1e5bc-7ceb-42f2-81e5-8aadf180f57b");
const SEED_LEN: usize = 32;

/// Fills `bytes` by the firmware's generator, if it has one.
fn from_firmware(firmware: &Firmware, bytes: &mut [u8]) -> bool {
    let Some(protocol) = firmware.protocol::<RngProtocol>(&RngProtocol::GUID) else { return false };
    let status = firmware.with_protocol(protocol, |protocol| {
        // SAFETY: the firmware's protocol, and a place for as many bytes as it is told.
        unsafe { ((*protocol).get_rng)(protocol, ptr::null(), bytes.len(), bytes.as_mut_ptr()) }
    });
    status.is_success()
}

/// Gives the kernel a seed of the firmware's generator, if it has one.
pub fn seed(firmware: &Firmware) -> Result<(), Stop> {
    let table = firmware.allocate(MemoryType::ACPI_RECLAIM, 4 + SEED_LEN)?;
    table[..4].copy_from_slice(&(SEED_LEN as u32).to_le_bytes());
    if from_firmware(firmware, &mut table[4..4 + SEED_LEN]) { firmware.install(&SEED, table) } else { Ok(()) }
}

/// Two numbers, from the firmware's generator, the processor's, and the time: the kernel's own decompressor
/// uses the last two.
pub fn numbers(firmware: &Firmware) -> [u64; 2] {
    let mut bytes = [0; 16];
    // Without one the other two sources remain.
    from_firmware(firmware, &mut bytes);
    // CPUID.1:ECX, RDRAND.
    let has_generator = __cpuid(1).ecx & 1 << 30 != 0;
    let numbers = u128::from_le_bytes(bytes);
    [numbers as u64, (numbers >> 64) as u64].map(|number| {
        // SAFETY: reads a register.
        let mut time = unsafe { _rdtsc() };
        // A 64-bit finaliser, because the time's upper bits hardly change.
        time = (time ^ time >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        time = (time ^ time >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (time ^ time >> 31) ^ if has_generator { generate() } else { 0 }
    })
}

/// A number of the processor's generator; 0 if it has none for now.
fn generate() -> u64 {
    for _ in 0..10 {
        let (number, valid): (u64, u8);
        // SAFETY: CPUID has the instruction; it changes a register and flags.
        unsafe {
            asm!("rdrand {number}", "setc {valid}", number = out(reg) number, valid = out(reg_byte) valid,
                options(nomem, nostack));
        }
        if valid != 0 {
            return number;
        }
    }
    0
}

// SPDX-License-Identifier: Apache-2.0
//! What the kernel learns from the firmware's tables and variables.

use cvmm_kernel_stub::zero_page::{SecureBoot, ZeroPage};
use uefi_raw::{Guid, guid};

use crate::firmware::{Firmware, Stop};

const ACPI_2: Guid = guid!("8868e871-e4f1-11d3-bc22-0080c73c8881");
/// Where an SNP guest's secrets and CPUID pages are (Linux `EFI_CC_BLOB_GUID`).
const CC_BLOB: Guid = guid!("067b1f5f-cf26-44c5-8554-93d777912d42");
/// Linux' table of unaccepted memory.
pub static UNACCEPTED_MEMORY: Guid = guid!("d5d1de3c-105c-44f9-9ea9-bcef98120031");

/// "SecureBoot" and "SetupMode" in UTF-16, with a zero.
const SECURE_BOOT: [u16; 11] = utf16(b"SecureBoot\0");
const SETUP_MODE: [u16; 10] = utf16(b"SetupMode\0");

/// The text in UTF-16.
pub const fn utf16<const LEN: usize>(text: &[u8; LEN]) -> [u16; LEN] {
    let mut wide = [0; LEN];
    let mut at = 0;
    while at < LEN {
        wide[at] = text[at] as u16;
        at += 1;
    }
    wide
}

/// Puts ACPI, the SNP guest's pages and the state of secure boot into the zero page.
pub fn describe(firmware: &Firmware, page: &mut ZeroPage<'_>) -> Result<(), Stop> {
    if let Some(rsdp) = firmware.configuration(&ACPI_2) {
        page.set_rsdp(rsdp as u64);
    }
    if let Some(blob) = firmware.configuration(&CC_BLOB) {
        // Without it an SNP guest's kernel would not know its CPUID page.
        let at = u32::try_from(blob as u64).map_err(|_| Stop::of("the firmware's CC blob is above 4 GiB"))?;
        page.set_cc_blob(at);
    }
    page.set_secure_boot(match (firmware.global_byte(&SECURE_BOOT), firmware.global_byte(&SETUP_MODE)) {
        (None, _) => SecureBoot::Unknown,
        (Some(1), Some(0) | None) => SecureBoot::Enabled,
        _ => SecureBoot::Disabled,
    });
    Ok(())
}

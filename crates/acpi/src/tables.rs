// SPDX-License-Identifier: Apache-2.0
//! The tables without AML: FADT, MADT, TPM2, XSDT and RSDP.
//!
//! Pointers hold the offset within the tables blob and checksums are zero: the firmware adds the address and
//! computes the sums.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

pub(crate) const OEM_ID: [u8; 6] = *b"CVMM  ";
pub(crate) const OEM_TABLE_ID: [u8; 8] = *b"CVMMACPI";
/// Raised when the tables change in a way that a guest may depend on.
pub(crate) const OEM_REVISION: u32 = 2;

/// Offset of a table's checksum (ACPI 6.5, 5.2.6).
pub(crate) const CHECKSUM: u32 = 9;
/// Offset of X_DSDT in the FADT (ACPI 6.5, 5.2.9).
pub(crate) const FADT_X_DSDT: u32 = 140;
/// Offset of the first entry of the XSDT (ACPI 6.5, 5.2.8).
pub(crate) const XSDT_ENTRIES: u32 = 36;
/// Offsets in the RSDP (ACPI 6.5, 5.2.5.3).
pub(crate) const RSDP_CHECKSUM: u32 = 8;
pub(crate) const RSDP_XSDT: u32 = 24;
pub(crate) const RSDP_EXTENDED_CHECKSUM: u32 = 32;
/// The part of the RSDP that the first checksum covers.
pub(crate) const RSDP_V1_LENGTH: u32 = 20;

const RESET_PORT: u16 = 0xcf9;
/// Full reset: RST_CPU and SYS_RST of the chipset's reset control register.
const RESET_VALUE: u8 = 6;
const SLEEP_CONTROL_PORT: u16 = 0x605;
const SLEEP_STATUS_PORT: u16 = 0x601;
/// IAPC_BOOT_ARCH bit 2: do not probe for a VGA. The 8042 and legacy-device bits stay clear.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// IAPC_BOOT_ARCH bit 5: no CMOS RTC. Firmware uses the one at 0x70 without asking; an operating system has
/// the firmware's time services and KVM's clock, and its driver would fail on a clock without alarm and
/// interrupt.
const BOOT_ARCH_NO_RTC: u16 = 1 << 5;
/// FADT 6.5, that of ACPI 6.5.
const FADT_MINOR: u8 = 5;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Goes with [`FADT_MINOR`].
const MADT_REVISION: u8 = 6;
/// The largest APIC ID of a local APIC entry; 255 is the broadcast ID and larger ones do not fit.
const MAX_XAPIC_ID: u32 = 254;

/// The FADT with the DSDT at `dsdt` in the tables blob.
pub(crate) fn fadt(dsdt: u32) -> Vec<u8> {
    let port =
        |address: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(address));
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(u64::from(dsdt))
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        // Set means: no fixed-hardware button. The power button is a device in the DSDT.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::HwReducedAcpi);
    fadt.fadt_minor_version = FADT_MINOR;
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_RTC).into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    without_checksum(&fadt.finalize())
}

/// The MADT: flags 0, because there is no 8259.
pub(crate) fn madt(vcpus: u32) -> Vec<u8> {
    let mut entries = Vec::new();
    for id in 0..vcpus {
        match u8::try_from(id) {
            Ok(small) if id <= MAX_XAPIC_ID => {
                ProcessorLocalApic::new(small, small, EnabledStatus::Enabled).to_aml_bytes(&mut entries);
            }
            _ => x2apic(id, &mut entries),
        }
    }
    IoApic::new(0, IO_APIC, 0).to_aml_bytes(&mut entries);
    let mut madt = Sdt::new(*b"APIC", 36, MADT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append_slice(&LOCAL_APIC.to_le_bytes());
    madt.append_slice(&0_u32.to_le_bytes());
    madt.append_slice(&entries);
    without_checksum(&madt)
}

/// A processor local x2APIC structure (ACPI 6.5, 5.2.12.12).
fn x2apic(id: u32, entries: &mut dyn AmlSink) {
    const ENABLED: u32 = 1;
    entries.vec(&[9, 16, 0, 0]);
    entries.dword(id);
    entries.dword(ENABLED);
    entries.dword(id);
}

/// The TPM2 table (TCG ACPI Specification 1.4, 7.3), with all its fields. The length and address of the log
/// area are zero: firmware hands its event log over by EFI, and Linux looks there when the table names no
/// area. An area that the firmware does not fill would be taken for an empty log.
pub(crate) fn tpm2(control_area: u64) -> Vec<u8> {
    const REVISION: u8 = 4;
    const CLIENT: u16 = 0;
    const START_METHOD_CRB: u32 = 7;
    /// Reserved for this start method.
    const PARAMETERS: [u8; 12] = [0; 12];
    const LOG_AREA_MINIMUM_LENGTH: u32 = 0;
    const LOG_AREA_START_ADDRESS: u64 = 0;
    let mut tpm2 = Sdt::new(*b"TPM2", 36, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    tpm2.append_slice(&CLIENT.to_le_bytes());
    tpm2.append_slice(&0_u16.to_le_bytes());
    tpm2.append_slice(&control_area.to_le_bytes());
    tpm2.append_slice(&START_METHOD_CRB.to_le_bytes());
    tpm2.append_slice(&PARAMETERS);
    tpm2.append_slice(&LOG_AREA_MINIMUM_LENGTH.to_le_bytes());
    tpm2.append_slice(&LOG_AREA_START_ADDRESS.to_le_bytes());
    without_checksum(&tpm2)
}

/// The XSDT with tables at these offsets in the tables blob.
pub(crate) fn xsdt(entries: &[u32]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for entry in entries {
        xsdt.add_entry(u64::from(*entry));
    }
    without_checksum(&xsdt)
}

/// The RSDP with the XSDT at `xsdt` in the tables blob.
pub(crate) fn rsdp(xsdt: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Rsdp::new(OEM_ID, u64::from(xsdt)).to_aml_bytes(&mut bytes);
    for at in [RSDP_CHECKSUM, RSDP_EXTENDED_CHECKSUM] {
        clear(&mut bytes, at);
    }
    bytes
}

/// The table's bytes with checksum zero, as the loader's ADD_CHECKSUM needs it.
pub(crate) fn without_checksum(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    clear(&mut bytes, CHECKSUM);
    bytes
}

fn clear(bytes: &mut [u8], at: u32) {
    if let Some(byte) = bytes.get_mut(at as usize) {
        *byte = 0;
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The ACPI tables of the machine, and the commands by which the firmware puts them in place.
//!
//! Hardware-reduced ACPI (ACPI 6.5, 4.1): no PM1 registers, no SCI, no GPEs. What is left is small and
//! constant per configuration:
//!
//! - FADT: reset register 0xcf9, sleep register 0x605, all legacy devices absent;
//! - MADT: one local APIC per vCPU and the IOAPIC, no overrides;
//! - DSDT: processors, the PCI host bridge, the serial port, the power button, the VM generation ID and the
//!   TPM;
//! - TPM2, when there is a TPM: where its control area is;
//! - XSDT and RSDP, which OVMF replaces by its own but whose pointers lead it to the other tables.
//!
//! There is no MCFG on purpose: Linux would scan every bus it names. Tables reach the guest as fw_cfg files,
//! and the firmware relocates them by the table-loader commands (`loader`), because only it knows where
//! memory is free.

#![forbid(unsafe_code)]

mod config;
mod dsdt;
mod loader;
mod tables;

pub use config::{AcpiConfig, POWER_BUTTON_GSI, SERIAL_GSI, TpmRegion};
use loader::{Loader, Zone};

/// fw_cfg file name of [`AcpiBlobs::tables`].
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// fw_cfg file name of [`AcpiBlobs::rsdp`].
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// fw_cfg file name of [`AcpiBlobs::loader`].
pub const LOADER_FILE: &str = "etc/table-loader";
/// fw_cfg file name of [`AcpiBlobs::vmgenid`].
pub const VMGENID_FILE: &str = "etc/vmgenid_guid";

/// The fw_cfg files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiBlobs {
    /// [`TABLES_FILE`]: all tables, pointers relative to the file, checksums zero.
    pub tables: Vec<u8>,
    /// [`RSDP_FILE`].
    pub rsdp: Vec<u8>,
    /// [`LOADER_FILE`].
    pub loader: Vec<u8>,
    /// [`VMGENID_FILE`]: one page with the ID at `dsdt::VMGENID_OFFSET`.
    pub vmgenid: Vec<u8>,
}

/// Tables start at multiples of this many bytes; the firmware allocates the blob with the same alignment.
const TABLE_ALIGN: u32 = 64;
/// The VM generation ID has its page to itself: the guest may not map it with other attributes than its
/// neighbours.
const VMGENID_PAGE: u32 = 4096;

/// Builds the fw_cfg files for a machine. They depend on `config` alone: the same description gives the same
/// bytes.
#[must_use]
pub fn build(config: &AcpiConfig) -> AcpiBlobs {
    let mut loader = Loader::default();
    loader.allocate(TABLES_FILE, TABLE_ALIGN, Zone::High);
    loader.allocate(VMGENID_FILE, VMGENID_PAGE, Zone::High);
    loader.allocate(RSDP_FILE, 16, Zone::FSegment);

    let mut tables = Vec::new();
    let (dsdt, vmgenid_pointer) = dsdt::dsdt(config);
    let dsdt_at = place(&mut tables, &dsdt);
    loader.add_pointer((TABLES_FILE, dsdt_at + vmgenid_pointer, 8), VMGENID_FILE);
    loader.add_checksum(TABLES_FILE, dsdt_at + tables::CHECKSUM, dsdt_at, length(&dsdt));

    let fadt = tables::fadt(dsdt_at);
    let fadt_at = place(&mut tables, &fadt);
    loader.add_pointer((TABLES_FILE, fadt_at + tables::FADT_X_DSDT, 8), TABLES_FILE);
    loader.add_checksum(TABLES_FILE, fadt_at + tables::CHECKSUM, fadt_at, length(&fadt));

    let madt = tables::madt(config.vcpus);
    let madt_at = place(&mut tables, &madt);
    loader.add_checksum(TABLES_FILE, madt_at + tables::CHECKSUM, madt_at, length(&madt));

    let mut entries = vec![fadt_at, madt_at];
    if let Some(tpm) = &config.tpm {
        let tpm2 = tables::tpm2(tpm.control_area);
        let tpm2_at = place(&mut tables, &tpm2);
        loader.add_checksum(TABLES_FILE, tpm2_at + tables::CHECKSUM, tpm2_at, length(&tpm2));
        entries.push(tpm2_at);
    }
    let xsdt = tables::xsdt(&entries);
    let xsdt_at = place(&mut tables, &xsdt);
    for entry in (0..).step_by(8).take(entries.len()) {
        loader.add_pointer((TABLES_FILE, xsdt_at + tables::XSDT_ENTRIES + entry, 8), TABLES_FILE);
    }
    loader.add_checksum(TABLES_FILE, xsdt_at + tables::CHECKSUM, xsdt_at, length(&xsdt));

    let rsdp = tables::rsdp(xsdt_at);
    loader.add_pointer((RSDP_FILE, tables::RSDP_XSDT, 8), TABLES_FILE);
    // The first sum covers the ACPI 1.0 part only and must be in place before the second one, which covers
    // all.
    loader.add_checksum(RSDP_FILE, tables::RSDP_CHECKSUM, 0, tables::RSDP_V1_LENGTH);
    loader.add_checksum(RSDP_FILE, tables::RSDP_EXTENDED_CHECKSUM, 0, length(&rsdp));

    AcpiBlobs { tables, rsdp, loader: loader.into_bytes(), vmgenid: vmgenid(config.vm_generation_id) }
}

/// Appends a table at the next aligned offset, which it returns.
fn place(tables: &mut Vec<u8>, table: &[u8]) -> u32 {
    tables.resize(tables.len().next_multiple_of(TABLE_ALIGN as usize), 0);
    let at = length(tables);
    tables.extend_from_slice(table);
    at
}

/// The length of a blob. A few KiB with the 64 vCPUs that `vm.toml` allows; it saturates rather than wraps.
fn length(blob: &[u8]) -> u32 {
    u32::try_from(blob.len()).unwrap_or(u32::MAX)
}

fn vmgenid(id: [u8; 16]) -> Vec<u8> {
    let mut page = vec![0; VMGENID_PAGE as usize];
    let start = dsdt::VMGENID_OFFSET as usize;
    page[start..start + id.len()].copy_from_slice(&id);
    page
}

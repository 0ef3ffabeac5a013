// SPDX-License-Identifier: Apache-2.0
//! The DSDT: what an operating system cannot find out by itself.
//!
//! - `PCI0`, the host bridge with its windows; no interrupt routing, because devices have MSI-X only;
//! - `COM1`, when there is a serial port;
//! - `GED0`, the generic event device (ACPI 6.5, 5.6.9), whose edge on GSI 9 presses the power button `PWRB`;
//! - `VGEN`, the VM generation ID: `ADDR` gives the guest the address of 16 bytes that change when the VM is cloned;
//! - `TPM_`, when there is a TPM: where its registers and its buffers are. No interrupt: software polls. No physical
//!   presence interface either: it is a way for the host to ask firmware to clear the guest's TPM, and nothing needs it;
//! - `_S5`, soft off.
//!
//! The processors are in the MADT alone: Linux needs processor objects only for hotplug and power states.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Add, AddressSpace, AddressSpaceCacheable, And, Arg, Device, EISAName, Equal, IO, If, Index, Interrupt,
    Local, Memory32Fixed, Method, Name, Notify, Package, PackageBuilder, Path, ResourceTemplate, Return,
    Scope, ShiftRight, Store, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::tables::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, without_checksum};
use super::{AcpiConfig, POWER_BUTTON_GSI, SERIAL_GSI, TpmRegion};

/// Offset of the generation ID in its page: the firmware looks for an ACPI table where a loader pointer leads and
/// would take the page away if it found one; 40 bytes of zero before the ID show it that there is none.
pub(super) const VMGENID_OFFSET: u32 = 40;

/// Revision 2 makes integers 64 bits wide.
const REVISION: u8 = 2;
/// Stands for the address of the generation ID until its place in the table is known. The bytes occur nowhere else in the
/// table, and the value needs the 8-byte encoding.
const VMGENID_MARK: u64 = 0xd1a6_05c3_9e7b_42f8;
const POWER_BUTTON_PRESSED: u8 = 0x80;

/// The DSDT without checksum, and the offset of the 8-byte pointer to the generation ID's page in it.
pub(super) fn dsdt(config: &AcpiConfig) -> (Vec<u8>, u32) {
    let mut aml = Vec::new();
    host_bridge(config, &mut aml);
    if config.com1 {
        serial(&mut aml);
    }
    power_button(&mut aml);
    vm_generation_id(&mut aml);
    if let Some(tpm) = &config.tpm {
        self::tpm(tpm, &mut aml);
    }
    let body = Scope::raw(Path::new("_SB_"), aml);
    let soft_off = Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO]);
    let mut dsdt = Sdt::new(*b"DSDT", 36, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&body);
    Name::new(Path::new("_S5_"), &soft_off).to_aml_bytes(&mut dsdt);
    let mut bytes = without_checksum(&dsdt);
    let mark = VMGENID_MARK.to_le_bytes();
    // `vm_generation_id` has just put the mark there; a test checks that it is found, once.
    let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap_or_default();
    if let Some(pointer) = bytes.get_mut(at..at + mark.len()) {
        pointer.fill(0);
    }
    (bytes, u32::try_from(at).unwrap_or_default())
}

fn host_bridge(config: &AcpiConfig, aml: &mut Vec<u8>) {
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports = AddressSpace::new_io(0x6000_u16, 0xffff, None);
    let uncached = AddressSpaceCacheable::NotCacheable;
    let mem32 = (!config.mem32.is_empty())
        .then(|| AddressSpace::new_memory(uncached, true, config.mem32.start, config.mem32.end - 1, None));
    let mem64 = (!config.mem64.is_empty())
        .then(|| AddressSpace::new_memory(uncached, true, config.mem64.start, config.mem64.end - 1, None));
    let mut windows: Vec<&dyn Aml> = vec![&bus, &config_ports, &ports];
    windows.extend(mem32.as_ref().map(|window| window as &dyn Aml));
    windows.extend(mem64.as_ref().map(|window| window as &dyn Aml));
    Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(windows)),
        ],
    )
    .to_aml_bytes(aml);
}

fn serial(aml: &mut Vec<u8>) {
    let ports = IO::new(0x3f8, 0x3f8, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, SERIAL_GSI);
    Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    )
    .to_aml_bytes(aml);
}

fn power_button(aml: &mut Vec<u8>) {
    Device::new(
        Path::new("PWRB"),
        vec![&Name::new(Path::new("_HID"), &EISAName::new("PNP0C0C")), &Name::new(Path::new("_UID"), &ZERO)],
    )
    .to_aml_bytes(aml);
    let interrupt = Interrupt::new(true, true, false, false, POWER_BUTTON_GSI);
    let button = Path::new("\\_SB_.PWRB");
    let press = Notify::new(&button, &POWER_BUTTON_PRESSED);
    let is_button = Equal::new(&Arg(0), &POWER_BUTTON_GSI);
    let on_event = If::new(&is_button, vec![&press]);
    Device::new(
        Path::new("GED0"),
        vec![
            &Name::new(Path::new("_HID"), &"ACPI0013"),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&interrupt])),
            &Method::new(Path::new("_EVT"), 1, true, vec![&on_event]),
        ],
    )
    .to_aml_bytes(aml);
}

fn tpm(region: &TpmRegion, aml: &mut Vec<u8>) {
    const PRESENT_AND_WORKING: u8 = 0xf;
    let memory = Memory32Fixed::new(true, region.base, region.len);
    Device::new(
        Path::new("TPM_"),
        vec![
            // A string: the ID is no EISA ID.
            &Name::new(Path::new("_HID"), &"MSFT0101"),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_STA"), &PRESENT_AND_WORKING),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&memory])),
        ],
    )
    .to_aml_bytes(aml);
}

/// "Virtual Machine Generation ID" (Microsoft, 2012): `ADDR` returns the low and high half of the address.
fn vm_generation_id(aml: &mut Vec<u8>) {
    let mut halves = PackageBuilder::new();
    halves.add_element(&ZERO);
    halves.add_element(&ZERO);
    let (result, address) = (Local(0), Local(1));
    let page = Path::new("VGIA");
    let find = Add::new(&address, &page, &VMGENID_OFFSET);
    let (low_place, high_place) = (Index::new(&ZERO, &result, &0_u8), Index::new(&ZERO, &result, &1_u8));
    let low = And::new(&low_place, &address, &u32::MAX);
    let high = ShiftRight::new(&high_place, &address, &32_u8);
    Device::new(
        Path::new("VGEN"),
        vec![
            // The ID that conforms to ACPI; the one of the original paper is too long and stays as compatible ID.
            &Name::new(Path::new("_HID"), &"VMGENCTR"),
            &Name::new(Path::new("_CID"), &"VM_Gen_Counter"),
            &Name::new(Path::new("_DDN"), &"VM_Gen_Counter"),
            &Name::new(Path::new("VGIA"), &VMGENID_MARK),
            &Method::new(
                Path::new("ADDR"),
                0,
                true,
                vec![&Store::new(&result, &halves), &find, &low, &high, &Return::new(&result)],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

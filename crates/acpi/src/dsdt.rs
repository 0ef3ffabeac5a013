// SPDX-License-Identifier: Apache-2.0
//! The DSDT: what an operating system cannot find out by itself.
//!
//! - `PCI0`, the host bridge with its windows; no interrupt routing, because devices have MSI-X only;
//! - `COM1`, when there is a serial port;
//! - `GED0`, the generic event device (ACPI 6.5, 5.6.9), whose edge on GSI 9 presses the power button `PWRB`;
//! - `VGEN`, the VM generation ID: `ADDR` gives the guest the address of 16 bytes that change when the VM is
//!   cloned;
//! - `TPM_`, when there is a TPM: where its registers and its buffers are. No interrupt: software polls. No
//!   physical presence interface either: it is a way for the host to ask firmware to clear the guest's TPM,
//!   and nothing needs it;
//! - `_S5`, soft off.
//!
//! - `C000` and so on, the processors: their `_UID` is that of the MADT's entry.

use acpi_tables::aml::{
    Add, AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO,
    If, Index, Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, Notify, ONE, Or, Package,
    PackageBuilder, Path, ResourceTemplate, Return, Scope, ShiftRight, Store, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use crate::config::{AcpiConfig, POWER_BUTTON_GSI, SERIAL_GSI, TpmRegion};
use crate::tables::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, without_checksum};

/// Offset of the generation ID in its page: the firmware looks for an ACPI table where a loader pointer leads
/// and would take the page away if it found one; 40 bytes of zero before the ID show it that there is none.
pub(crate) const VMGENID_OFFSET: u32 = 40;

/// Revision 2 makes integers 64 bits wide.
const REVISION: u8 = 2;
/// Stands for the address of the generation ID until its place in the table is known. The bytes occur nowhere
/// else in the table, and the value needs the 8-byte encoding.
const VMGENID_MARK: u64 = 0xd1a6_05c3_9e7b_42f8;
const POWER_BUTTON_PRESSED: u8 = 0x80;

/// The DSDT without checksum, and the offset of the 8-byte pointer to the generation ID's page in it.
pub(crate) fn dsdt(config: &AcpiConfig) -> (Vec<u8>, u32) {
    let mut aml = Vec::new();
    processors(config.vcpus, &mut aml);
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

/// A processor device (ACPI 6.5, 8.4) per vCPU.
fn processors(vcpus: u32, aml: &mut Vec<u8>) {
    for uid in 0..vcpus {
        // Three digits are enough for 4,096 vCPUs, which are more than KVM has.
        let name = format!("C{:03X}", uid & 0xfff);
        Device::new(
            Path::new(&name),
            vec![&Name::new(Path::new("_HID"), &"ACPI0007"), &Name::new(Path::new("_UID"), &uid)],
        )
        .to_aml_bytes(aml);
    }
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
            &PciCapabilities,
        ],
    )
    .to_aml_bytes(aml);
}

/// `_OSC` of a PCI Express host bridge (PCI Firmware Specification 3.3, 4.5.1): no function here has one of
/// the features that an operating system could take over, so it gets none.
struct PciCapabilities;

impl Aml for PciCapabilities {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        // Bits of the first dword: what was wrong with the request.
        const UNKNOWN_UUID: u8 = 1 << 2;
        const UNKNOWN_REVISION: u8 = 1 << 3;
        const MASKED: u8 = 1 << 4;
        let (uuid, revision, buffer) = (Arg(0), Arg(1), Arg(3));
        let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
        let host_bridge = Uuid::new("33db4d5b-1ff7-401c-9657-7441c03dd766");
        let add_revision = Or::new(&status, &status, &UNKNOWN_REVISION);
        let add_uuid = Or::new(&status, &status, &UNKNOWN_UUID);
        let add_masked = Or::new(&status, &status, &MASKED);
        Method::new(
            Path::new("_OSC"),
            4,
            true,
            vec![
                &CreateDWordField::new(&status, &buffer, &ZERO),
                &If::new(
                    &Equal::new(&uuid, &host_bridge),
                    vec![
                        &CreateDWordField::new(&control, &buffer, &8_u8),
                        &If::new(&NotEqual::new(&revision, &ONE), vec![&add_revision]),
                        &If::new(&NotEqual::new(&control, &ZERO), vec![&add_masked]),
                        &Store::new(&control, &ZERO),
                    ],
                ),
                &Else::new(vec![&add_uuid]),
                &Return::new(&buffer),
            ],
        )
        .to_aml_bytes(sink);
    }
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
            // A string: the ID is not an EISA ID.
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
            // Any ID of the vendor; drivers look for the compatible ones: Linux (from 6.1) and Hyper-V's
            // guests for the first, which fits into ACPI's eight characters, others for that of the
            // specification.
            &Name::new(Path::new("_HID"), &"CVMM0001"),
            &Name::new(Path::new("_CID"), &Package::new(vec![&"VMGENCTR", &"VM_Gen_Counter"])),
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

// SPDX-License-Identifier: Apache-2.0
//! Names of the header types, for messages.

use igvm_defs::IgvmVariableHeaderType as Kind;

/// Names of the header types, as in the specification.
pub(crate) fn name(kind: u32) -> Option<&'static str> {
    Some(match Kind(kind) {
        Kind::IGVM_VHT_SUPPORTED_PLATFORM => "supported platform",
        Kind::IGVM_VHT_GUEST_POLICY => "guest policy",
        Kind::IGVM_VHT_RELOCATABLE_REGION => "relocatable region",
        Kind::IGVM_VHT_PAGE_TABLE_RELOCATION_REGION => "page table relocation",
        Kind(0x104) => "CoRIM document",
        Kind(0x105) => "CoRIM signature",
        Kind::IGVM_VHT_CCA_POLICY => "Arm CCA policy",
        Kind::IGVM_VHT_VERSION_STRING => "version string",
        Kind::IGVM_VHT_PARAMETER_AREA => "parameter area",
        Kind::IGVM_VHT_PAGE_DATA => "page data",
        Kind::IGVM_VHT_PARAMETER_INSERT => "parameter insert",
        Kind::IGVM_VHT_VP_CONTEXT => "VP context",
        Kind::IGVM_VHT_REQUIRED_MEMORY => "required memory",
        Kind::IGVM_VHT_VP_COUNT_PARAMETER => "VP count",
        Kind::IGVM_VHT_SRAT => "ACPI SRAT",
        Kind::IGVM_VHT_MADT => "ACPI MADT",
        Kind::IGVM_VHT_MMIO_RANGES => "MMIO ranges",
        Kind::IGVM_VHT_SNP_ID_BLOCK => "SNP ID block",
        Kind::IGVM_VHT_MEMORY_MAP => "memory map",
        Kind::IGVM_VHT_ERROR_RANGE => "error range",
        Kind::IGVM_VHT_COMMAND_LINE => "command line",
        Kind::IGVM_VHT_SLIT => "ACPI SLIT",
        Kind::IGVM_VHT_PPTT => "ACPI PPTT",
        Kind::IGVM_VHT_VBS_MEASUREMENT => "VBS measurement",
        Kind::IGVM_VHT_DEVICE_TREE => "device tree",
        Kind::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER => "environment info",
        _ => return None,
    })
}

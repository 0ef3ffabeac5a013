// SPDX-License-Identifier: Apache-2.0
//! What the tables describe.

use std::ops::Range;

/// GSI of the power button's generic event device; rising edge.
pub const POWER_BUTTON_GSI: u32 = 9;
/// GSI of the serial port; rising edge.
pub const SERIAL_GSI: u32 = 4;

/// What the tables describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Number of vCPUs; their APIC IDs are 0 to `vcpus - 1`.
    pub vcpus: u32,
    /// 32-bit PCI window, end exclusive; left out when empty.
    pub mem32: Range<u32>,
    /// 64-bit PCI window, end exclusive; left out when empty.
    pub mem64: Range<u64>,
    /// Whether there is a serial port at 0x3f8.
    pub com1: bool,
    /// The TPM, if there is one.
    pub tpm: Option<TpmRegion>,
    /// The VM generation ID in the byte order of memory: new whenever the guest's state is duplicated or
    /// restored.
    pub vm_generation_id: [u8; 16],
}

/// Where the TPM's Command Response Buffer interface lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TpmRegion {
    /// First address of its registers.
    pub base: u32,
    /// Bytes of registers and buffers.
    pub len: u32,
    /// Address of the control area.
    pub control_area: u64,
}

// SPDX-License-Identifier: Apache-2.0
//! Where things are: the BAR, and the capabilities that tell a driver so (virtio 1.2, 4.1.4).
//!
//! One 64-bit memory BAR of 32 KiB holds every structure, each on its own page. The doorbells are 4 bytes
//! apart, so that the hypervisor can tell them apart by address alone.

use crate::pci::config_space::{ConfigError, ConfigSpace};

/// Length of the BAR in bytes.
pub(super) const BAR_LEN: u64 = 0x8000;
/// Common configuration.
pub(super) const COMMON: u64 = 0x0000;
/// Its length: all of `virtio_pci_common_cfg` as virtio 1.0 has it; the features behind the later fields
/// (notification data, queue reset) are not offered.
pub(super) const COMMON_LEN: u64 = 0x38;
/// Interrupt status byte.
pub(super) const ISR: u64 = 0x1000;
/// Device configuration.
pub(super) const DEVICE: u64 = 0x2000;
/// Its length; what a device does not use reads 0.
pub(super) const DEVICE_LEN: u64 = 0x1000;
/// Doorbells.
pub(super) const NOTIFY: u64 = 0x3000;
/// Distance of two doorbells.
pub(super) const NOTIFY_STRIDE: u64 = 4;
/// MSI-X table, 16 bytes per vector.
pub(super) const MSIX_TABLE: u64 = 0x4000;
/// Length reserved for it.
pub(super) const MSIX_TABLE_LEN: u64 = 0x1000;
/// MSI-X pending bits.
pub(super) const MSIX_PBA: u64 = 0x5000;
/// Length reserved for them.
pub(super) const MSIX_PBA_LEN: u64 = 0x1000;

/// Capability ID "vendor specific".
const CAP_VENDOR: u8 = 0x09;
/// Capability ID "MSI-X".
const CAP_MSIX: u8 = 0x11;
/// `cfg_type` values (4.1.4).
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Offsets in configuration space that the transport reacts to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// The MSI-X capability.
    pub msix: u8,
    /// The configuration access capability.
    pub window: u8,
}

/// A `virtio_pci_cap` without its first two bytes.
fn vendor_body(cfg_type: u8, offset: u64, len: u64, extra: &[u8]) -> Vec<u8> {
    let cap_len = 16 + extra.len() as u8;
    let mut body = vec![cap_len, cfg_type, 0, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&(len as u32).to_le_bytes());
    body.extend_from_slice(extra);
    body
}

/// Adds the capabilities of a device with `queues` queues and `vectors` MSI-X vectors.
pub(super) fn add_capabilities(
    space: &mut ConfigSpace,
    queues: u16,
    vectors: u16,
) -> Result<Capabilities, ConfigError> {
    let notify_len = u64::from(queues) * NOTIFY_STRIDE;
    let stride = (NOTIFY_STRIDE as u32).to_le_bytes();
    for body in [
        vendor_body(COMMON_CFG, COMMON, COMMON_LEN, &[]),
        vendor_body(NOTIFY_CFG, NOTIFY, notify_len, &stride),
        vendor_body(ISR_CFG, ISR, 1, &[]),
        vendor_body(DEVICE_CFG, DEVICE, DEVICE_LEN, &[]),
    ] {
        space.add_capability(CAP_VENDOR, &body, &vec![0; body.len()])?;
    }
    // The driver writes bar, offset, length and data of the window; the rest stays.
    let body = vendor_body(PCI_CFG, 0, 0, &[0; 4]);
    let mut mask = vec![0; body.len()];
    mask[2] = 0xff;
    mask[6..].fill(0xff);
    let window = space.add_capability(CAP_VENDOR, &body, &mask)?;

    let mut body = (vectors - 1).to_le_bytes().to_vec();
    body.extend_from_slice(&(MSIX_TABLE as u32).to_le_bytes());
    body.extend_from_slice(&(MSIX_PBA as u32).to_le_bytes());
    let mut mask = vec![0; body.len()];
    mask[1] = 0xc0;
    let msix = space.add_capability(CAP_MSIX, &body, &mask)?;
    Ok(Capabilities { msix, window })
}

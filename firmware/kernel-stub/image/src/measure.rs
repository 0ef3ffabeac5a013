// SPDX-License-Identifier: Apache-2.0
//! Measures the image's sections into the TPM, as the UAPI group's specification of unified kernel images
//! says: for each section its name with a NUL, then its content, into PCR 11.

use core::ffi::c_void;

use cvmm_kernel_stub::sections::{self, MEASURED};
use uefi_raw::protocol::tcg::EventType;
use uefi_raw::protocol::tcg::v2::{Tcg2EventHeader, Tcg2HashLogExtendEventFlags, Tcg2Protocol};
use uefi_raw::{Guid, Status, guid};

use crate::firmware::{Firmware, Stop};
use crate::tables::utf16;

/// Vendor of the variables of boot loaders that systemd reads.
const LOADER: Guid = guid!("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
/// Where the image was measured to: by this systemd knows that it was.
const PCR_VARIABLE: [u16; 19] = utf16(b"StubPcrKernelImage\0");
const PCR_TEXT: [u16; 3] = utf16(b"11\0");

const PCR: u32 = 11;
/// Longest name of a section in UTF-16 with a zero.
const NAME: usize = 18;

#[repr(C, packed)]
struct Event {
    size: u32,
    header: Tcg2EventHeader,
    /// The section's name.
    name: [u8; NAME],
}

/// Measures the sections of `image`, if there is a TPM. Without the measurement secrets that are sealed to
/// PCR 11 would not be safe, so a failure ends the boot.
pub fn sections(firmware: &Firmware, image: &[u8]) -> Result<(), Stop> {
    let Some(protocol) = firmware.protocol::<Tcg2Protocol>(&Tcg2Protocol::GUID) else { return Ok(()) };
    for name in MEASURED {
        let Some(content) = sections::find(image, name) else { continue };
        let short = sections::short(name);
        let mut with_nul = [0; 9];
        with_nul[..short.len()].copy_from_slice(short);
        extend(firmware, protocol, short, &with_nul[..=short.len()])?;
        extend(firmware, protocol, short, content)?;
    }
    if firmware.set_variable(&LOADER, &PCR_VARIABLE, &PCR_TEXT).is_success() {
        Ok(())
    } else {
        Err(Stop::of("the firmware takes no variables"))
    }
}

fn extend(firmware: &Firmware, protocol: *mut Tcg2Protocol, name: &[u8], data: &[u8]) -> Result<(), Stop> {
    let mut wide = [0; NAME];
    for (to, byte) in wide.chunks_exact_mut(2).zip(name) {
        to[0] = *byte;
    }
    let event_len = (name.len() + 1) * 2;
    let event = Event {
        size: (size_of::<Event>() - NAME + event_len) as u32,
        header: Tcg2EventHeader {
            header_size: size_of::<Tcg2EventHeader>() as u32,
            header_version: 1,
            pcr_index: PCR,
            event_type: EventType::IPL,
        },
        name: wide,
    };
    let status = firmware.with_protocol(protocol, |protocol| {
        let event: *const Event = &event;
        let flags = Tcg2HashLogExtendEventFlags::empty();
        // SAFETY: the firmware's protocol; data and event are readable for the lengths that are given.
        unsafe {
            ((*protocol).hash_log_extend_event)(
                protocol,
                flags,
                data.as_ptr() as u64,
                data.len() as u64,
                event.cast::<c_void>(),
            )
        }
    });
    match status {
        Status::SUCCESS => Ok(()),
        // The TPM has the measurement, its log does not.
        Status::VOLUME_FULL => Ok(()),
        _ => Err(Stop::of("the TPM does not take the measurement of the image")),
    }
}

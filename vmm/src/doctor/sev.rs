// SPDX-License-Identifier: Apache-2.0
//! SNP_PLATFORM_STATUS: the security processor's account of itself, asked through /dev/sev.
//!
//! Sources: Linux include/uapi/linux/psp-sev.h (`sev_issue_cmd`, `sev_user_data_snp_status`); firmware ABI (AMD document
//! 56860), "SNP_PLATFORM_STATUS".
#![expect(unsafe_code, reason = "hands the address of a buffer to the kernel")]

use std::fs::File;
use std::io;

use cvmm_snp::status::SevError;
use cvmm_snp::tcb::TcbVersion;
use serde::{Serialize, Serializer};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::reading::{Host, Reading, Unread, Why};

/// Index of the command among those of SEV_ISSUE_CMD.
const SNP_PLATFORM_STATUS: u32 = 9;

/// `sev_issue_cmd`, which is packed.
#[repr(C, packed)]
struct IssueCommand {
    command: u32,
    data: u64,
    error: u32,
}

ioctl_iowr_nr!(SEV_ISSUE_CMD, 0x53, 0, IssueCommand);

/// SNP_PLATFORM_STATUS, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// Version of the firmware's interface, before the point.
    pub api_major: u8,
    /// Version of the firmware's interface, after the point.
    pub api_minor: u8,
    /// Build of the firmware.
    pub build: u32,
    /// Whether SNP is initialised.
    pub initialized: bool,
    /// Whether the RMP is.
    pub rmp_initialized: bool,
    /// Number of SNP guests the firmware has now, running or not.
    pub guests: u32,
    /// Reports do not tell the chip's identifier.
    pub chip_id_masked: bool,
    /// Reports are not signed with a key of the chip.
    pub chip_key_masked: bool,
    /// A VLEK is loaded.
    pub vlek: bool,
    /// Power measurement is off.
    pub rapl_disabled: bool,
    /// The processor can hide ciphertext from the host.
    pub ciphertext_hiding_capable: bool,
    /// And it does.
    pub ciphertext_hiding: bool,
    /// Firmware that runs.
    #[serde(serialize_with = "hex")]
    pub current_tcb: TcbVersion,
    /// Firmware that reports name.
    #[serde(serialize_with = "hex")]
    pub reported_tcb: TcbVersion,
}

fn hex<S: Serializer>(tcb: &TcbVersion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{:#018x}", u64::from_le_bytes(tcb.0)))
}

/// The firmware's answer as it lies in memory.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Raw {
    api_major: u8,
    api_minor: u8,
    state: u8,
    rmp: u8,
    build: U32,
    flags: U32,
    guests: U32,
    current_tcb: TcbVersion,
    reported_tcb: TcbVersion,
}

const _: () = assert!(size_of::<Raw>() == 32 && size_of::<IssueCommand>() == 16);

impl Platform {
    /// Decodes the firmware's 32 bytes. Any bytes are an answer; flags this program does not know are ignored.
    pub fn decode(bytes: [u8; 32]) -> Self {
        let raw: Raw = zerocopy::transmute!(bytes);
        let flag = |bit: u32| raw.flags.get() >> bit & 1 == 1;
        Self {
            api_major: raw.api_major,
            api_minor: raw.api_minor,
            build: raw.build.get(),
            initialized: raw.state == 1,
            rmp_initialized: raw.rmp & 1 == 1,
            guests: raw.guests.get(),
            chip_id_masked: flag(0),
            chip_key_masked: flag(1),
            vlek: flag(2),
            rapl_disabled: flag(4),
            ciphertext_hiding_capable: flag(5),
            ciphertext_hiding: flag(6),
            current_tcb: raw.current_tcb,
            reported_tcb: raw.reported_tcb,
        }
    }
}

/// Opens the device as a launch does, and asks. The first answer is whether it can be opened.
pub fn read(host: Host<'_>, path: &str) -> (Reading<()>, Reading<Platform>) {
    match File::open(host.locate(path)) {
        Ok(device) => (Ok(()), ask(&device)),
        Err(error) => {
            let unread = Unread::new(path, &error);
            (Err(unread.clone()), Err(unread))
        }
    }
}

fn ask(device: &File) -> Reading<Platform> {
    let mut status = [0_u8; 32];
    // SAFETY: the command writes 32 bytes to its data (the driver checks no length).
    let (error, firmware) = match unsafe { issue(device, SNP_PLATFORM_STATUS, &mut status) } {
        Ok(()) => return Ok(Platform::decode(status)),
        Err(failure) => failure,
    };
    let text = match firmware {
        Some(firmware) => format!("{error}, firmware status {firmware}"),
        None => error.to_string(),
    };
    let why = Why::Failed { errno: error.raw_os_error().unwrap_or(0), text };
    Err(Unread { what: "SNP_PLATFORM_STATUS (/dev/sev)".to_owned(), why })
}

/// Issues a command of /dev/sev.
///
/// # Safety
/// `data` is what `command` reads and writes, pointers in it included.
unsafe fn issue<T>(device: &File, command: u32, data: &mut T) -> Result<(), (io::Error, Option<SevError>)> {
    let mut issue = IssueCommand {
        command,
        data: std::ptr::from_mut(data) as u64,
        // No firmware call, until the driver says otherwise.
        error: u32::MAX,
    };
    // SAFETY: the caller vouches for `data`; it and `issue` outlive the call. Another file than the driver's would not know
    // the number.
    let result = unsafe { ioctl_with_mut_ref(device, SEV_ISSUE_CMD(), &mut issue) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err((error, SevError::from_code(issue.error).filter(|error| *error != SevError::NoCall)))
}

/// SNP_PLATFORM_STATUS of an open device, as it is.
pub fn status_bytes(device: &File) -> io::Result<[u8; 32]> {
    let mut status = [0_u8; 32];
    // SAFETY: as in `ask`.
    unsafe { issue(device, SNP_PLATFORM_STATUS, &mut status) }.map_err(|(error, _)| error)?;
    Ok(status)
}

/// SNP_PLATFORM_STATUS of an open device.
pub fn status(device: &File) -> io::Result<Platform> {
    status_bytes(device).map(Platform::decode)
}

/// `sev_user_data_get_id2`, which is packed.
#[repr(C, packed)]
struct GetId2 {
    address: u64,
    length: u32,
}

/// Index of GET_ID2 among the commands of SEV_ISSUE_CMD.
const GET_ID2: u32 = 8;

/// Identifier of the chip (of the first socket): CHIP_ID of reports, unless it is masked there.
pub fn chip_id(device: &File) -> io::Result<[u8; 64]> {
    // Two sockets at most.
    let mut ids = [0_u8; 128];
    let mut request = GetId2 { address: ids.as_mut_ptr() as u64, length: ids.len() as u32 };
    // SAFETY: the command writes at most `length` bytes to `address`, which outlives the call.
    unsafe { issue(device, GET_ID2, &mut request) }.map_err(|(error, _)| error)?;
    let mut first = [0; 64];
    first.copy_from_slice(&ids[..64]);
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_kernels() {
        assert_eq!(SEV_ISSUE_CMD(), 0xc010_5300);
    }

    #[test]
    fn an_answer_is_decoded_field_by_field() {
        let mut bytes = [0_u8; 32];
        bytes[..4].copy_from_slice(&[1, 55, 1, 1]);
        bytes[4] = 21;
        bytes[8] = 0b101_0001;
        bytes[12..14].copy_from_slice(&[2, 1]);
        bytes[16..24].copy_from_slice(&[4, 0, 0, 0, 0, 0, 24, 219]);
        bytes[24] = 3;
        let platform = Platform::decode(bytes);
        assert_eq!((platform.api_major, platform.api_minor, platform.build), (1, 55, 21));
        assert!(platform.initialized && platform.rmp_initialized && platform.rapl_disabled);
        assert!(platform.chip_id_masked && !platform.chip_key_masked && !platform.vlek);
        assert!(platform.ciphertext_hiding && !platform.ciphertext_hiding_capable);
        assert_eq!((platform.guests, platform.reported_tcb.0[0]), (258, 3));
        let json = serde_json::to_value(platform).unwrap();
        assert_eq!(json["current_tcb"], "0xdb18000000000004");
        // Another state than 1 is not "initialised".
        bytes[2] = 2;
        assert!(!Platform::decode(bytes).initialized);
    }

    #[test]
    fn a_file_that_is_no_security_processor_answers_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (open, platform) = read(Host(folder.path()), "/dev/sev");
        assert_eq!(open.unwrap_err().why, Why::Absent);
        assert_eq!(platform.unwrap_err().why, Why::Absent);
        std::fs::write(folder.path().join("sev"), "").unwrap();
        let (open, platform) = read(Host(folder.path()), "/sev");
        assert_eq!(open, Ok(()));
        assert!(matches!(platform.unwrap_err().why, Why::Failed { errno: libc::ENOTTY, .. }));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! SEV_ISSUE_CMD. Source: Linux include/uapi/linux/psp-sev.h (`sev_issue_cmd`, `sev_user_data_get_id2`,
//! `sev_user_data_snp_status`).
#![expect(unsafe_code, reason = "hands addresses of buffers to the kernel")]

use std::fs::File;

use cvmm_snp::status::SevError;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::{CHIP_ID_LEN, SevHostError};

const GET_ID2: u32 = 8;
const SNP_PLATFORM_STATUS: u32 = 9;

/// `sev_issue_cmd`, which is packed.
#[repr(C, packed)]
struct IssueCommand {
    command: u32,
    data: u64,
    error: u32,
}

/// `sev_user_data_get_id2`, which is packed.
#[repr(C, packed)]
struct GetId2 {
    address: u64,
    length: u32,
}

const SEV_ISSUE_CMD: Opcode = opcode::read_write::<IssueCommand>(b'S', 0);

const _: () = assert!(size_of::<IssueCommand>() == 16 && size_of::<GetId2>() == 12);

pub(super) fn platform_status(device: &File) -> Result<[u8; 32], SevHostError> {
    let mut status = [0; 32];
    // SAFETY: the command writes 32 bytes to its data; the driver takes no length.
    unsafe { issue(device, SNP_PLATFORM_STATUS, "SNP_PLATFORM_STATUS", &mut status) }?;
    Ok(status)
}

/// Identifiers of the chips in both sockets; zeros if there is only one.
pub(super) fn chip_ids(device: &File) -> Result<[[u8; CHIP_ID_LEN]; 2], SevHostError> {
    let mut ids = [[0; CHIP_ID_LEN]; 2];
    let mut request = GetId2 { address: ids.as_mut_ptr() as u64, length: size_of_val(&ids) as u32 };
    // SAFETY: the command writes at most `length` bytes to `address`, which is that of `ids` and outlives the
    // call.
    unsafe { issue(device, GET_ID2, "GET_ID2", &mut request) }?;
    Ok(ids)
}

/// Issues a command.
///
/// # Safety
/// `data` must be the structure that the command reads and writes, and what it points to must be valid for
/// the command.
unsafe fn issue<T>(
    device: &File,
    command: u32,
    name: &'static str,
    data: &mut T,
) -> Result<(), SevHostError> {
    let mut issue = IssueCommand {
        command,
        data: std::ptr::from_mut(data) as u64,
        // "No firmware call", until the driver says otherwise.
        error: SevError::NoCall.code(),
    };
    // SAFETY: the number is the driver's and `issue` its structure; the caller vouches for `data`, which
    // outlives the call. A file that is not the driver's does not know the number.
    let result = unsafe { ioctl(device, Updater::<SEV_ISSUE_CMD, _>::new(&mut issue)) };
    result.map_err(|errno| SevHostError::Command {
        command: name,
        source: errno.into(),
        firmware: SevError::from_code(issue.error).filter(|status| *status != SevError::NoCall),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_of_the_kernels_header() {
        // _IOWR('S', 0, struct sev_issue_cmd)
        assert_eq!(SEV_ISSUE_CMD, 0xc010_5300);
    }
}

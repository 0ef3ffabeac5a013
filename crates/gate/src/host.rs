// SPDX-License-Identifier: Apache-2.0
//! What this machine's security processor says of itself, through `/dev/sev`: which certificate its reports will need. Only the
//! command that lists what to fetch asks; a gate that serves has no such device.
#![expect(unsafe_code, reason = "two ioctls of the kernel's SEV driver")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use cvmm_attest::claims::Product;

/// The driver's device.
const DEVICE: &str = "/dev/sev";
/// `SEV_ISSUE_CMD`, `_IOWR('S', 0, struct sev_issue_cmd)` of `linux/psp-sev.h`.
const SEV_ISSUE_CMD: libc::c_ulong = 0xc010_5300;
const GET_ID2: u32 = 8;
const SNP_PLATFORM_STATUS: u32 = 9;

/// `struct sev_issue_cmd`, which is packed.
#[repr(C, packed)]
struct IssueCommand {
    command: u32,
    data: u64,
    error: u32,
}

/// `struct sev_user_data_get_id2`, which is packed.
#[repr(C, packed)]
struct GetId2 {
    address: u64,
    length: u32,
}

/// Answers of `/dev/sev`.
#[derive(Clone, Debug)]
pub struct Host {
    /// SNP_PLATFORM_STATUS.
    pub status: [u8; 32],
    /// Identifier of the chip (of the first socket).
    pub chip: [u8; 64],
}

impl Host {
    /// Asks the driver.
    pub fn ask() -> io::Result<Self> {
        let device = File::open(DEVICE)?;
        let mut status = [0_u8; 32];
        // SAFETY: the command writes 32 bytes to its data, which outlives the call.
        unsafe { issue(&device, SNP_PLATFORM_STATUS, &mut status) }?;
        // Two sockets at most.
        let mut ids = [0_u8; 128];
        let mut request = GetId2 { address: ids.as_mut_ptr() as u64, length: ids.len() as u32 };
        // SAFETY: the command writes at most `length` bytes to `address`, which outlives the call.
        unsafe { issue(&device, GET_ID2, &mut request) }?;
        let mut chip = [0; 64];
        chip.copy_from_slice(ids.get(..64).unwrap_or(&[0; 64]));
        Ok(Self { status, chip })
    }
}

/// # Safety
/// `data` is what `command` reads and writes, pointers in it included.
unsafe fn issue<T>(device: &File, command: u32, data: &mut T) -> io::Result<()> {
    let mut issue = IssueCommand { command, data: std::ptr::from_mut(data) as u64, error: 0 };
    // SAFETY: the caller vouches for `data`; it and `issue` outlive the call. Another file than the driver's would not know the
    // number.
    match unsafe { libc::ioctl(device.as_raw_fd(), SEV_ISSUE_CMD, &raw mut issue) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// This machine's product, by its processor's family and model.
pub fn product() -> io::Result<Option<Product>> {
    Ok(product_of(&fs::read_to_string("/proc/cpuinfo")?))
}

fn product_of(cpuinfo: &str) -> Option<Product> {
    let value = |name: &str| {
        let line =
            cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    if value("vendor_id") != Some("AuthenticAMD") {
        return None;
    }
    Product::from_processor(value("cpu family")?.parse().ok()?, value("model")?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_the_processors() {
        let text = |vendor: &str, family: u8, model: u8| {
            format!(
                "processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: x\n"
            )
        };
        assert_eq!(product_of(&text("AuthenticAMD", 25, 1)), Some(Product::Milan));
        assert_eq!(product_of(&text("AuthenticAMD", 25, 17)), Some(Product::Genoa));
        assert_eq!(product_of(&text("AuthenticAMD", 26, 2)), Some(Product::Turin));
        assert_eq!(product_of(&text("AuthenticAMD", 23, 49)), None);
        assert_eq!(product_of(&text("GenuineIntel", 25, 1)), None);
        assert_eq!(product_of(""), None);
    }

    #[test]
    fn the_drivers_number_is_that_of_its_header() {
        // _IOWR('S', 0, 16 bytes)
        assert_eq!(
            SEV_ISSUE_CMD,
            3 << 30 | (size_of::<IssueCommand>() as libc::c_ulong) << 16 | (b'S' as libc::c_ulong) << 8
        );
    }
}

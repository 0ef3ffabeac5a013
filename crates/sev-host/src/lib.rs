// SPDX-License-Identifier: Apache-2.0
//! The security processor's device, `/dev/sev`: the one place in cvmm that opens it.
//!
//! A launch hands the device to KVM ([`SevDevice`] is [`AsFd`]), the gate's evidence and the certificate
//! table need the platform status and the chip identifier, `cvmm doctor` assesses them, and `cvmm-gate certs
//! urls` derives from them which certificates to fetch. All of them are read-only commands. Decoding is
//! `cvmm-snp`'s ([`PlatformStatus`]); what a status means is `cvmm-doctor`'s.
//!
//! # Why not the `sev` crate
//! `sev` 8.0 has both commands with `features = ["snp"]` alone, without the crypto features and `rsa`. It was
//! not used because:
//! - `Firmware::open` opens the fixed path `/dev/sev` for reading *and writing*, and there is no other
//!   constructor. cvmm asks for read permission only, which is what docs and udev rules grant, and no
//!   writable descriptor gets into a VMM: with one, SNP_COMMIT and SNP_SET_CONFIG would be one ioctl away.
//! - `snp_platform_status` decodes by the processor generation of the running CPU and fails on one it does
//!   not know. The gate takes the firmware's 32 bytes as they are, and doctor must report on hosts that are
//!   new or misconfigured.
//! - An error is *either* an errno *or* a firmware status. With a status, or with the driver's -1 for "no
//!   firmware call", the errno is lost, and doctor tells causes apart by it (ENODEV, EINVAL and EFAULT: SNP
//!   is not initialised; EIO: the firmware refused).
//! - GET_ID2 gets a buffer for one socket; the firmware writes an identifier for each of two.
//! - It brings eleven more crates (`dirs`, `uuid`, `bitfield`, `lazy_static`, …) into the VMM for two ioctls.
//!
//! `tests/snp` uses it as an independent client of the same driver, which is worth more there.

mod ioctl;

use std::arch::x86_64::__cpuid;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::platform::PlatformStatus;
use cvmm_snp::status::SevError;
use thiserror::Error;

/// The device.
pub const PATH: &str = "/dev/sev";
/// Bytes of a chip identifier; on Turin the first eight are used and zeros follow.
pub const CHIP_ID_LEN: usize = 64;

/// Why the security processor gave no answer.
#[derive(Debug, Error)]
pub enum SevHostError {
    /// The device cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The driver or the firmware refused a command.
    #[error("{command} failed: {}", reason(source, *firmware))]
    Command {
        /// Name of the command.
        command: &'static str,
        /// The driver's errno.
        #[source]
        source: io::Error,
        /// The firmware's status, if the driver called the firmware.
        firmware: Option<SevError>,
    },
}

impl SevHostError {
    /// The operating system's error.
    pub fn io_error(&self) -> &io::Error {
        let (Self::Open { source, .. } | Self::Command { source, .. }) = self;
        source
    }
}

fn reason(source: &io::Error, firmware: Option<SevError>) -> String {
    match firmware {
        Some(status) => format!("{source}, firmware status {status}"),
        None => source.to_string(),
    }
}

/// The open device. It is open for reading: none of the commands here needs more, and neither does a launch.
#[derive(Debug)]
pub struct SevDevice(File);

impl SevDevice {
    /// Opens [`PATH`].
    pub fn open() -> Result<Self, SevHostError> {
        Self::open_at(Path::new(PATH))
    }

    /// Opens the device at `path`, where a host's file system is mounted elsewhere.
    pub fn open_at(path: &Path) -> Result<Self, SevHostError> {
        match File::open(path) {
            Ok(file) => Ok(Self(file)),
            Err(source) => Err(SevHostError::Open { path: path.to_owned(), source }),
        }
    }

    /// SNP_PLATFORM_STATUS.
    pub fn platform_status(&self) -> Result<PlatformStatus, SevHostError> {
        ioctl::platform_status(&self.0).map(PlatformStatus::from)
    }

    /// GET_ID2: identifier of the chip in the first socket. Reports carry it as CHIP_ID unless it is masked.
    pub fn chip_id(&self) -> Result<[u8; CHIP_ID_LEN], SevHostError> {
        ioctl::chip_ids(&self.0).map(|[first, _]| first)
    }
}

impl AsFd for SevDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Signature of this host's processor; `None` if AMD did not make it.
#[must_use]
pub fn cpu_signature() -> Option<CpuSignature> {
    let vendor = __cpuid(0);
    let is_amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD";
    is_amd.then(|| CpuSignature(__cpuid(1).eax))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_error_names_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sev");
        let error = SevDevice::open_at(&path).unwrap_err();
        assert_eq!(error.io_error().kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with(&format!("cannot open {}: ", path.display())), "{error}");
    }

    #[test]
    fn a_file_that_is_not_the_device_refuses_both_commands() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = SevDevice::open_at(file.path()).unwrap();
        for (error, command) in [
            (device.platform_status().unwrap_err(), "SNP_PLATFORM_STATUS"),
            (device.chip_id().unwrap_err(), "GET_ID2"),
        ] {
            assert!(error.to_string().starts_with(&format!("{command} failed: ")), "{error}");
            assert!(matches!(error, SevHostError::Command { firmware: None, .. }), "{error:?}");
            assert_eq!(error.io_error().raw_os_error(), Some(rustix::io::Errno::NOTTY.raw_os_error()));
        }
    }

    #[test]
    fn an_error_has_errno_and_firmware_status() {
        let error = SevHostError::Command {
            command: "SNP_PLATFORM_STATUS",
            source: io::Error::from_raw_os_error(5),
            firmware: SevError::from_code(0x1a),
        };
        let text = error.to_string();
        assert!(text.contains("(os error 5), firmware status ") && text.contains("0x1a"), "{text}");
    }
}

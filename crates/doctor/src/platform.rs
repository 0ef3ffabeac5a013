// SPDX-License-Identifier: Apache-2.0
//! SNP_PLATFORM_STATUS as doctor reads and prints it.

use cvmm_sev_host::{SevDevice, SevHostError};
use cvmm_snp::platform::PlatformStatus;
use cvmm_snp::tcb::TcbVersion;
use serde::{Serialize, Serializer};

use crate::reading::{Host, Reading, Unread, Why};

/// SNP_PLATFORM_STATUS. The field names are those of the JSON output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// Major version of the firmware's interface.
    pub api_major: u8,
    /// Minor version of the firmware's interface.
    pub api_minor: u8,
    /// Build number of the firmware.
    pub build: u32,
    /// Whether SNP is initialised.
    pub initialized: bool,
    /// Whether the RMP is initialised.
    pub rmp_initialized: bool,
    /// Number of SNP guests that the firmware manages, running or not.
    pub guests: u32,
    /// Whether reports leave out the chip identifier.
    pub chip_id_masked: bool,
    /// Whether reports are not signed.
    pub chip_key_masked: bool,
    /// Whether a VLEK is loaded.
    pub vlek: bool,
    /// Whether power measurement is disabled.
    pub rapl_disabled: bool,
    /// Whether processor and firmware support ciphertext hiding.
    pub ciphertext_hiding_capable: bool,
    /// Whether ciphertext hiding is enabled.
    pub ciphertext_hiding: bool,
    /// TCB of the running firmware.
    #[serde(serialize_with = "hex")]
    pub current_tcb: TcbVersion,
    /// TCB that attestation reports name.
    #[serde(serialize_with = "hex")]
    pub reported_tcb: TcbVersion,
}

fn hex<S: Serializer>(tcb: &TcbVersion, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{:#018x}", u64::from_le_bytes(tcb.0)))
}

impl From<PlatformStatus> for Platform {
    fn from(status: PlatformStatus) -> Self {
        Self {
            api_major: status.api_major,
            api_minor: status.api_minor,
            build: status.build.get(),
            initialized: status.is_initialized(),
            rmp_initialized: status.is_rmp_initialized(),
            guests: status.guests.get(),
            chip_id_masked: status.masks_chip_id(),
            chip_key_masked: status.masks_chip_key(),
            vlek: status.has_vlek(),
            rapl_disabled: status.disables_rapl(),
            ciphertext_hiding_capable: status.supports_ciphertext_hiding(),
            ciphertext_hiding: status.hides_ciphertext(),
            current_tcb: status.current_tcb,
            reported_tcb: status.reported_tcb,
        }
    }
}

/// Opens the device as a launch does, and reads the status. The first result is whether it can be opened.
pub fn read(host: Host<'_>, path: &str) -> (Reading<()>, Reading<Platform>) {
    match SevDevice::open_at(&host.locate(path)) {
        Ok(device) => (Ok(()), device.platform_status().map(Platform::from).map_err(|error| unread(&error))),
        Err(error) => {
            let unread = Unread::new(path, error.io_error());
            (Err(unread.clone()), Err(unread))
        }
    }
}

fn unread(error: &SevHostError) -> Unread {
    let errno = error.io_error().raw_os_error().unwrap_or(0);
    let text = match error {
        SevHostError::Command { source, firmware: Some(firmware), .. } => {
            format!("{source}, firmware status {firmware}")
        }
        _ => error.io_error().to_string(),
    };
    Unread { what: "SNP_PLATFORM_STATUS (/dev/sev)".to_owned(), why: Why::Failed { errno, text } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcb_is_one_hexadecimal_number() {
        let mut bytes = [0; 32];
        bytes[16..24].copy_from_slice(&[4, 0, 0, 0, 0, 0, 24, 219]);
        let json = serde_json::to_value(Platform::from(PlatformStatus::from(bytes))).unwrap();
        assert_eq!(json["current_tcb"], "0xdb18000000000004");
    }

    #[test]
    fn a_file_that_is_not_the_device_gives_no_status() {
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

// SPDX-License-Identifier: Apache-2.0
//! Files that cvmm knows by their digest and finds on the host: its own firmware, and the certificates of
//! presets.
//!
//! Where they are found does not matter, since nothing else has these digests. A file that differs is
//! refused, not skipped: it is an installation of another version.

use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cvmm_launch::blob::{Blob, VerifyError};
use cvmm_secure_boot::preset::PresetFile;
use cvmm_secure_boot::{list, source};
use cvmm_snp::digest::Digest;
use serde::Deserialize;
use thiserror::Error;

/// The variable that names the firmware image.
pub const FIRMWARE_VARIABLE: &str = "CVMM_FIRMWARE";
/// The variable that names the folder of preset certificates.
pub const CERTIFICATES_VARIABLE: &str = "CVMM_CERTIFICATES";

/// The installed folder, and that of Debian's python3-virt-firmware.
const SHARE: &str = "/usr/share/cvmm";
const VIRT_FIRMWARE: &str = "/usr/lib/python3/dist-packages/virt/firmware/certs";

/// The firmware that `firmware = "builtin"` means.
#[derive(Clone, Debug, Deserialize)]
pub struct Pin {
    /// Name of the file.
    pub file: String,
    /// SHA-256, 64 hexadecimal digits.
    pub sha256: String,
    /// SHA-384, 96 hexadecimal digits.
    pub sha384: String,
    /// Length in bytes.
    pub size: u64,
}

/// As pinned in the repository. It is compiled in; the tests show that it can be read.
pub static FIRMWARE: LazyLock<Option<Pin>> =
    LazyLock::new(|| pinned(include_str!("../../firmware/supported.toml")));

fn pinned(text: &str) -> Option<Pin> {
    #[derive(Deserialize)]
    struct Supported {
        firmware: Vec<toml::Value>,
    }
    // The first is ours; the others have fewer keys.
    let Supported { firmware } = toml::from_str(text).ok()?;
    firmware.into_iter().next()?.try_into().ok()
}

/// Why a file that cvmm knows cannot be used.
#[derive(Debug, Error)]
pub enum BuiltinError {
    /// It is nowhere.
    #[error(
        "the built-in firmware {file} is not installed (looked for {}): build it in a clone with firmware/ovmf/build, and \
         install it there or set {FIRMWARE_VARIABLE} to the file, or name other firmware with the key firmware",
        shown(.places)
    )]
    FirmwareMissing {
        /// Its name.
        file: String,
        /// Where it could have been.
        places: Vec<PathBuf>,
    },
    /// It has other content.
    #[error(
        "{path} is not the firmware of this cvmm (SHA-256 {sha256}): {error}; install both in the same version"
    )]
    FirmwareDiffers {
        /// The file.
        path: PathBuf,
        /// What it should have.
        sha256: String,
        /// What is wrong.
        #[source]
        error: VerifyError,
    },
    /// A certificate of a preset is nowhere.
    #[error(
        "the certificate {file} of the preset \"microsoft\" is not installed (looked for {}): install Debian's \
         python3-virt-firmware, or set {CERTIFICATES_VARIABLE} to a folder that has it (scripts/fetch secure-boot-certificates)",
        shown(.places)
    )]
    CertificateMissing {
        /// Its name.
        file: &'static str,
        /// Where it could have been.
        places: Vec<PathBuf>,
    },
    /// It has other content.
    #[error("{path} is not the certificate of the preset \"microsoft\": its content differs")]
    CertificateDiffers {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

impl BuiltinError {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::FirmwareMissing { .. } => "firmware.missing",
            Self::FirmwareDiffers { .. } => "firmware.differs",
            Self::CertificateMissing { .. } => "secure-boot.missing",
            Self::CertificateDiffers { .. } => "secure-boot.differs",
            Self::Read { .. } => "secure-boot.read",
        }
    }
}

fn shown(places: &[PathBuf]) -> String {
    places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Where `file` may be: only where `variable` says, if it is set.
fn places(variable: &str, file: &str, more: &[&str], is_folder: bool) -> Vec<PathBuf> {
    if let Some(given) = env::var_os(variable).filter(|given| !given.is_empty()) {
        let given = PathBuf::from(given);
        return vec![if is_folder { given.join(file) } else { given }];
    }
    // Beside the program: /usr/local/bin and /usr/local/share.
    let beside =
        env::current_exe().ok().and_then(|program| Some(program.parent()?.parent()?.join("share/cvmm")));
    let mut folders: Vec<PathBuf> = beside.into_iter().chain(more.iter().map(PathBuf::from)).collect();
    folders.dedup();
    folders.into_iter().map(|folder| folder.join(file)).collect()
}

/// Opens the firmware of this cvmm. What is read of it later has the digest too.
///
/// # Errors
/// It is not there, or is something else.
pub fn firmware() -> Result<Blob, BuiltinError> {
    let Some(pin) = &*FIRMWARE else {
        return Err(BuiltinError::FirmwareMissing { file: String::new(), places: Vec::new() });
    };
    open_pinned(pin, places(FIRMWARE_VARIABLE, &pin.file, &[SHARE], false))
}

fn open_pinned(pin: &Pin, places: Vec<PathBuf>) -> Result<Blob, BuiltinError> {
    let Some(path) = places.iter().find(|path| path.exists()) else {
        return Err(BuiltinError::FirmwareMissing { file: pin.file.clone(), places });
    };
    let digest: Digest = pin.sha384.parse().unwrap_or(Digest::ZERO);
    Blob::open_verified(path, pin.size, &digest).map_err(|error| BuiltinError::FirmwareDiffers {
        path: path.clone(),
        sha256: pin.sha256.clone(),
        error,
    })
}

/// The signature list of a preset's certificate.
///
/// # Errors
/// It is not there, or is something else.
pub fn certificate(preset: &PresetFile) -> Result<Vec<u8>, BuiltinError> {
    let places = places(CERTIFICATES_VARIABLE, preset.name, &[SHARE, VIRT_FIRMWARE], true);
    let Some(path) = places.iter().find(|path| path.exists()) else {
        return Err(BuiltinError::CertificateMissing { file: preset.name, places });
    };
    let content = read(path).map_err(|source| BuiltinError::Read { path: path.clone(), source })?;
    let lists = source::lists(&content).ok();
    let is_it = |lists: &Vec<u8>| {
        let entries = list::entries(lists).unwrap_or_default();
        matches!(entries.as_slice(), [only] if preset.is(only.data))
    };
    lists.filter(is_it).ok_or_else(|| BuiltinError::CertificateDiffers { path: path.clone() })
}

/// A file of keys: not more than one byte too many is read.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // Longer than MAX_SOURCE is refused.
    File::open(path)?.take(source::MAX_SOURCE as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_pin_of_the_repository_is_complete() {
        let pin = FIRMWARE.as_ref().unwrap();
        assert_eq!((pin.file.as_str(), pin.size), ("OVMF.cvmm.fd", 0x14_0000));
        assert!(pin.sha256.len() == 64 && pin.sha384.parse::<Digest>().is_ok());
    }

    #[test]
    fn every_code_is_listed() {
        let (path, places) = (PathBuf::new(), Vec::new());
        let errors = [
            BuiltinError::FirmwareMissing { file: String::new(), places: places.clone() },
            BuiltinError::CertificateMissing { file: "f", places },
            BuiltinError::CertificateDiffers { path: path.clone() },
            BuiltinError::Read { path, source: io::ErrorKind::Other.into() },
        ];
        assert!(errors.iter().all(|error| cvmm_launch::reasons::FILES.contains(&error.code())));
    }

    #[test]
    fn only_the_pinned_file_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.fd");
        let sha384 = "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7";
        let pin =
            Pin { file: "f.fd".to_owned(), sha256: "ab".repeat(32), sha384: sha384.to_owned(), size: 3 };
        let open = || open_pinned(&pin, vec![folder.path().join("none"), path.clone()]);
        let missing = open().unwrap_err();
        assert_eq!(missing.code(), "firmware.missing");
        assert!(
            missing.to_string().contains("firmware/ovmf/build") && missing.to_string().contains("/f.fd"),
            "{missing}"
        );
        fs::write(&path, "abc").unwrap();
        assert_eq!(open().unwrap().len(), 3);
        for other in ["abd", "abcd", ""] {
            fs::write(&path, other).unwrap();
            let error = open().unwrap_err();
            assert!(error.code() == "firmware.differs" && error.to_string().contains(&pin.sha256), "{error}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(open().unwrap_err().code(), "firmware.differs");
    }
}

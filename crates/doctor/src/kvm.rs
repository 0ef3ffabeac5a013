// SPDX-License-Identifier: Apache-2.0
//! KVM's capabilities, and whether it creates an SNP VM.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use cvmm_kvm_snp::probe::Support;
use kvm_ioctls::Kvm;

use super::reading::{Host, Reading, Unread};

/// KVM's capabilities, and the result of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvmFacts {
    /// Capabilities and attributes.
    pub support: Support,
    /// Whether a VM of type SNP could be created, or the kernel's error.
    pub create: Result<(), String>,
}

pub fn read(host: Host<'_>, path: &str) -> Reading<KvmFacts> {
    let failed = |error: &io::Error| Unread::new(path, error);
    let place = host.locate(path);
    // For reading and writing, as a run opens it. The API version tells KVM from other files.
    File::options().read(true).write(true).open(&place).map_err(|error| failed(&error))?;
    let place = CString::new(place.as_os_str().as_bytes())
        .map_err(|_| Unread::malformed(path, "its path contains a NUL byte"))?;
    let kvm = Kvm::new_with_path(place).map_err(|error| failed(&error.into()))?;
    let version = kvm.get_api_version();
    if version != i32::try_from(kvm_bindings::KVM_API_VERSION).unwrap_or(i32::MAX) {
        return Err(Unread::malformed(path, format!("it has KVM API version {version}, not 12")));
    }
    // Closed at once: a VM that was never initialised for SNP has no ASID yet.
    let create = cvmm_kvm_snp::probe::try_create(&kvm).map_err(|error| error.to_string());
    Ok(KvmFacts { support: Support::ask(&kvm), create })
}

#[cfg(test)]
mod tests {
    use super::super::reading::Why;
    use super::*;

    #[test]
    fn a_file_is_not_kvm() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host(folder.path());
        assert_eq!(read(host, "/kvm").unwrap_err().why, Why::Absent);
        std::fs::write(folder.path().join("kvm"), "").unwrap();
        assert!(matches!(read(host, "/kvm").unwrap_err().why, Why::Malformed(_)));
    }
}

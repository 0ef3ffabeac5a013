// SPDX-License-Identifier: Apache-2.0
//! PEM files of TLS connections, for the gate and its clients: certificates, authorities, and private keys.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cvmm_attest::encoding;
use cvmm_secret_memory::SecretBytes;
use cvmm_secret_memory::private_file::{self, PrivateFileError};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// The longest file in bytes: a chain of certificates.
const MAX_FILE: usize = 64 << 10;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum TlsFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// A private key that cannot be read, or that others can.
    #[error(transparent)]
    Key(#[from] PrivateFileError),
    /// Its content.
    #[error("{path} {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl TlsFileError {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Content { path, .. } => path,
            Self::Key(error) => error.path(),
        }
    }

    fn content(path: &Path, problem: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), problem: problem.into() }
    }
}

/// The certificates in a PEM file as authorities.
///
/// # Errors
/// The file cannot be read, or has a certificate that cannot be an authority's.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            TlsFileError::content(path, format!("has a certificate that is not an authority's: {error}"))
        })?;
    }
    Ok(roots)
}

/// The certificates in a PEM file, at least one.
///
/// # Errors
/// The file cannot be read, or has no certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let failed = |source| TlsFileError::Read { path: path.to_owned(), source };
    // Some keep the key in the same file.
    let bytes = File::open(path).and_then(|file| SecretBytes::read(file, MAX_FILE + 1)).map_err(failed)?;
    if bytes.len() > MAX_FILE {
        return Err(failed(io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&encoding::text(&bytes))
        .collect::<Result<_, _>>()
        .map_err(|_| TlsFileError::content(path, "is not a valid PEM file"))?;
    if certificates.is_empty() {
        return Err(TlsFileError::content(path, "has no certificate"));
    }
    Ok(certificates)
}

/// The private key in a PEM file that only the user of this process may read.
///
/// # Errors
/// The file cannot be read, others may read it, or it has no key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let bytes = private_file::read(path, MAX_FILE)?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| TlsFileError::content(path, "has no unencrypted private key"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pem");
        let key = || private_key(&path).unwrap_err();
        assert!(matches!(certificates(&path), Err(TlsFileError::Read { .. })));
        assert!(matches!(key(), TlsFileError::Key(PrivateFileError::Read { .. })));
        fs::write(&path, "no PEM").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(key(), TlsFileError::Key(PrivateFileError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(key().to_string().ends_with("file.pem has no unencrypted private key"));
        assert_eq!(key().path(), path);
        let problem = || certificates(&path).unwrap_err().to_string();
        assert!(problem().ends_with("file.pem has no certificate"));
        fs::write(&path, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
        assert!(problem().ends_with("is not a valid PEM file"), "{}", problem());
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(roots(&path).unwrap_err().to_string().contains("not an authority's"));
        fs::write(&path, vec![b' '; MAX_FILE + 1]).unwrap();
        assert!(problem().ends_with("it has more than 65536 bytes"));
        assert!(matches!(key(), TlsFileError::Key(PrivateFileError::TooLong { max: MAX_FILE, .. })));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The gate's private keys: files that only the gate's user can read, or keys in a token ([`pkcs11`]).
//!
//! `verdict.pem` signs tickets and the audit log, `id.pem` signs ID blocks, and the optional `author.pem`
//! signs the ID key. All are P-384.

pub mod pkcs11;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_launch::id_block::{IdError, IdSigner, KeyError, SigningKey, public_key_of, signature_of};
use cvmm_secret_memory::private_file::PrivateFileError;
use cvmm_snp::id::{EcPublicKey, EcSignature};
use thiserror::Error;
use zerocopy::FromZeros as _;
use zeroize::Zeroizing;

use self::pkcs11::{TokenError, TokenKey};
use crate::files::{self, FileError, read_private};

/// Why a key cannot be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A private key cannot be read, or other users can read it.
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    /// Not a key.
    #[error("{path} {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: KeyError,
    },
    /// Not a store key.
    #[error("{0} is not a store key: it has to be 32 bytes long")]
    StoreKey(PathBuf),
    /// A key on another curve.
    #[error("{0} is not a P-256 key: RCAR's tokens are signed with ES256")]
    NotP256(PathBuf),
    /// The file exists.
    #[error("{0} exists: a key is never overwritten")]
    Exists(PathBuf),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The random number generator or the signature.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// A P-384 signing key, from a file or in a token. Clones are the same key.
#[derive(Clone)]
pub struct Signer(Backend);

/// Where a key is.
#[derive(Clone)]
enum Backend {
    File(Arc<EcdsaKeyPair>),
    Token(TokenKey),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// Reads a private key that only this process's user can read.
    pub fn load(path: &Path) -> Result<Self, KeysError> {
        let file = read_private(path)?;
        let content = |problem| KeysError::Content { path: path.to_owned(), problem };
        // The launch crate knows the PEM forms of keys: it rejects everything else.
        SigningKey::parse(&file).map_err(content)?;
        let (_, der) = pem_rfc7468::decode_vec(&file).map_err(|_| content(KeyError::Pem))?;
        let der = Zeroizing::new(der);
        EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, &der)
            .map(|pair| Self(Backend::File(Arc::new(pair))))
            .map_err(|_| content(KeyError::Curve))
    }

    /// Signs with ECDSA and SHA-384; returns R and S, 48 bytes each.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 96], KeysError> {
        match &self.0 {
            Backend::File(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| KeysError::Crypto)?;
                signature.as_ref().try_into().map_err(|_| KeysError::Crypto)
            }
            Backend::Token(key) => {
                let signature = key.sign(message)?;
                // The token may have another key under this name, or a fault: what does not verify does not
                // leave the gate.
                let public = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key.point());
                public.verify(message, &signature).map_err(|_| key.wrong_signature())?;
                Ok(signature)
            }
        }
    }

    /// The public key as an uncompressed point.
    pub(crate) fn point(&self) -> &[u8] {
        match &self.0 {
            Backend::File(pair) => pair.public_key().as_ref(),
            Backend::Token(key) => key.point(),
        }
    }

    /// The public key.
    pub fn public(&self) -> Result<VerdictKey, KeysError> {
        VerdictKey::from_point(self.point()).map_err(|_| KeysError::Crypto)
    }
}

impl IdSigner for Signer {
    fn public(&self) -> EcPublicKey {
        // Every key here has such a point; the firmware accepts no key of zeros.
        public_key_of(self.point()).unwrap_or(EcPublicKey::new_zeroed())
    }

    fn sign(&self, message: &[u8]) -> Result<EcSignature, IdError> {
        let signature = Self::sign(self, message).map_err(|error| IdError::Sign(error.to_string()))?;
        signature_of(&signature).ok_or_else(|| IdError::Sign("its length".to_owned()))
    }
}

/// All keys.
#[derive(Debug)]
pub struct Keys {
    /// Signs tickets and the audit log.
    pub verdict: Signer,
    /// Signs ID blocks.
    pub id: Signer,
    /// Signs the ID key.
    pub author: Option<Signer>,
}

impl Keys {
    /// Opens the keys in `token`, or in `folder` without one.
    pub fn open(folder: &Path, token: Option<&pkcs11::Settings>) -> Result<Self, KeysError> {
        let Some(settings) = token else { return Self::load(folder) };
        for name in ["verdict.pem", "id.pem", "author.pem"] {
            let path = folder.join(name);
            if path.exists() {
                tracing::warn!(path = %path.display(), "this key is not used: with [pkcs11] the token's keys sign");
            }
        }
        let mut keys = pkcs11::open(settings)?.into_iter().map(|key| Signer(Backend::Token(key)));
        let (Some(verdict), Some(id)) = (keys.next(), keys.next()) else { return Err(KeysError::Crypto) };
        let keys = Self { verdict, id, author: keys.next() };
        // Find a key that cannot sign now, not with the first guest.
        for signer in [&keys.verdict, &keys.id].into_iter().chain(&keys.author) {
            signer.sign(b"cvmm-gate: can this key sign?")?;
        }
        Ok(keys)
    }

    /// Starts the threads that a token needs.
    pub(crate) fn start(&self) -> Result<(), KeysError> {
        match &self.verdict.0 {
            Backend::File(_) => Ok(()),
            Backend::Token(key) => Ok(key.start()?),
        }
    }

    /// Reads the keys in `folder`.
    pub fn load(folder: &Path) -> Result<Self, KeysError> {
        let key = |name: &str| Signer::load(&folder.join(name));
        let author = folder.join("author.pem");
        Ok(Self {
            verdict: key("verdict.pem")?,
            id: key("id.pem")?,
            author: if author.exists() { Some(key("author.pem")?) } else { None },
        })
    }
}

/// Generates a key at `path` and writes its public key beside it (`.pub`).
pub fn generate(path: &Path) -> Result<(), KeysError> {
    for made in [path.to_owned(), public_path(path)] {
        if made.symlink_metadata().is_ok() {
            return Err(KeysError::Exists(made));
        }
    }
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).map_err(|_| KeysError::Crypto)?;
    write_private_key(path, &pair)?;
    let public = VerdictKey::from_point(pair.public_key().as_ref()).map_err(|_| KeysError::Crypto)?;
    files::replace(&public_path(path), public.to_pem().as_bytes(), 0o644)?;
    Ok(())
}

/// Writes a private key in PEM, for this process's user only.
pub(crate) fn write_private_key(path: &Path, pair: &EcdsaKeyPair) -> Result<(), KeysError> {
    let der = pair.private_key().as_der().map_err(|_| KeysError::Crypto)?;
    let pem = pem_rfc7468::encode_string("EC PRIVATE KEY", pem_rfc7468::LineEnding::LF, der.as_ref());
    let pem = Zeroizing::new(pem.map_err(|_| KeysError::Crypto)?);
    Ok(files::replace(path, pem.as_bytes(), 0o600)?)
}

/// Where the public key of a private key is.
#[must_use]
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["verdict.pem", "id.pem"] {
            generate(&folder.path().join(name)).unwrap();
        }
        let keys = Keys::load(folder.path()).unwrap();
        let path = folder.path().join("verdict.pem");
        let public = fs::read_to_string(public_path(&path)).unwrap();
        assert_eq!(VerdictKey::from_pem(&public).unwrap(), keys.verdict.public().unwrap());
        assert_eq!(format!("{:?}", keys.verdict), "Signer");
        assert!(matches!(generate(&path), Err(KeysError::Exists(_))));
        // Nor is another public key overwritten that has the name of ours.
        let other = folder.path().join("id_ed25519");
        fs::write(public_path(&other), "ssh-ed25519 AAAA").unwrap();
        assert!(matches!(generate(&other), Err(KeysError::Exists(made)) if made == public_path(&other)));
        assert_eq!(fs::read_to_string(public_path(&other)).unwrap(), "ssh-ed25519 AAAA");
        assert!(!other.exists(), "half a key was made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = Keys::load(folder.path()).unwrap_err();
        assert!(matches!(exposed, KeysError::Private(PrivateFileError::Exposed { mode: 0o640, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(Keys::load(folder.path()), Err(KeysError::Content { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(Keys::load(folder.path()), Err(KeysError::Private(PrivateFileError::Read { .. }))));
    }
}

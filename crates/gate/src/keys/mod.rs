// SPDX-License-Identifier: Apache-2.0
//! The gate's private keys: files that nobody but the gate may read, or keys in a token ([`pkcs11`]).
//!
//! `verdict.pem` signs tickets, `id.pem` signs ID blocks, and `author.pem`, if there is one, vouches for the ID key. All are P-384.

pub mod pkcs11;

use std::fmt;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
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
use crate::config::Config;
use crate::files::{self, FileError};

/// Why a key cannot be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A private file that cannot be read, or that others can.
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    /// Not a key.
    #[error("{path} {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: KeyError,
    },
    /// Not a store key.
    #[error("{0} is not 32 bytes long: it is no store key")]
    StoreKey(PathBuf),
    /// Another curve.
    #[error("{0} is no P-256 key: tokens of RCAR are signed with ES256")]
    NotP256(PathBuf),
    /// It is there already.
    #[error("{0} exists: a key is never overwritten")]
    Exists(PathBuf),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The random number generator or the signature.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// A P-384 key that signs: from a file, or in a token. Clones are the same key.
#[derive(Clone)]
pub struct Signer(Kept);

/// Where a key is.
#[derive(Clone)]
enum Kept {
    File(Arc<EcdsaKeyPair>),
    Token(TokenKey),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// Reads a private key that only this process's user may read.
    pub fn load(path: &Path) -> Result<Self, KeysError> {
        let file = files::read_private(path)?;
        // The launch crate knows the forms of PEM there are; it is asked whether this is one.
        SigningKey::parse(&file).map_err(|problem| KeysError::Content { path: path.to_owned(), problem })?;
        let (_, der) = pem_rfc7468::decode_vec(&file)
            .map_err(|_| KeysError::Content { path: path.to_owned(), problem: KeyError::Pem })?;
        let der = Zeroizing::new(der);
        EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, &der)
            .map(|pair| Self(Kept::File(Arc::new(pair))))
            .map_err(|_| KeysError::Content { path: path.to_owned(), problem: KeyError::Curve })
    }

    /// Signs: R and S, 48 bytes each.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 96], KeysError> {
        match &self.0 {
            Kept::File(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| KeysError::Crypto)?;
                signature.as_ref().try_into().map_err(|_| KeysError::Crypto)
            }
            Kept::Token(key) => {
                let signature = key.sign(message)?;
                // Another key with the same name, or a fault: what does not verify does not leave the gate.
                let public = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key.point());
                public.verify(message, &signature).map_err(|_| key.not_ours())?;
                Ok(signature)
            }
        }
    }

    /// The public half as an uncompressed point.
    pub(crate) fn point(&self) -> &[u8] {
        match &self.0 {
            Kept::File(pair) => pair.public_key().as_ref(),
            Kept::Token(key) => key.point(),
        }
    }

    /// The public half.
    pub fn public(&self) -> Result<VerdictKey, KeysError> {
        VerdictKey::from_point(self.point()).map_err(|_| KeysError::Crypto)
    }
}

impl IdSigner for Signer {
    fn public(&self) -> EcPublicKey {
        // Every key here has such a point; all zeros is none that the firmware would take.
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
    /// Vouches for the ID key.
    pub author: Option<Signer>,
}

impl Keys {
    /// The keys that `config` names: of a token, or of a folder.
    pub fn open(config: &Config) -> Result<Self, KeysError> {
        let Some(settings) = &config.pkcs11 else { return Self::load(&config.keys) };
        for name in ["verdict.pem", "id.pem", "author.pem"] {
            let path = config.keys.join(name);
            if path.exists() {
                tracing::warn!(path = %path.display(), "this key is not used: with [pkcs11] the token's keys sign");
            }
        }
        let mut keys = pkcs11::open(settings)?.into_iter().map(|key| Signer(Kept::Token(key)));
        let (Some(verdict), Some(id)) = (keys.next(), keys.next()) else { return Err(KeysError::Crypto) };
        let keys = Self { verdict, id, author: keys.next() };
        // A key that cannot sign is found now.
        for signer in [&keys.verdict, &keys.id].into_iter().chain(&keys.author) {
            signer.sign(b"cvmm-gate: can this key sign?")?;
        }
        Ok(keys)
    }

    /// Starts the threads that a token needs.
    pub fn start(&self) -> Result<(), KeysError> {
        match &self.verdict.0 {
            Kept::File(_) => Ok(()),
            Kept::Token(key) => Ok(key.start()?),
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

/// Makes a key at `path` and its public half beside it (`.pub`).
pub fn generate(path: &Path) -> Result<(), KeysError> {
    for made in [path.to_owned(), public_path(path)] {
        if made.symlink_metadata().is_ok() {
            return Err(KeysError::Exists(made));
        }
    }
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).map_err(|_| KeysError::Crypto)?;
    let der = pair.private_key().as_der().map_err(|_| KeysError::Crypto)?;
    let pem = pem_rfc7468::encode_string("EC PRIVATE KEY", pem_rfc7468::LineEnding::LF, der.as_ref());
    let pem = Zeroizing::new(pem.map_err(|_| KeysError::Crypto)?);
    files::replace(path, pem.as_bytes(), 0o600)?;
    let public = VerdictKey::from_point(pair.public_key().as_ref()).map_err(|_| KeysError::Crypto)?;
    files::replace(&public_path(path), public.to_pem().as_bytes(), 0o644)?;
    Ok(())
}

/// Where the public half of a key is.
#[must_use]
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

/// A folder that is its user's alone.
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| FileError {
        what: "make",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
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
        // Nor is a public key of something else that has the name of the public half.
        let other = folder.path().join("id_ed25519");
        fs::write(public_path(&other), "ssh-ed25519 AAAA").unwrap();
        assert!(matches!(generate(&other), Err(KeysError::Exists(made)) if made == public_path(&other)));
        assert_eq!(fs::read_to_string(public_path(&other)).unwrap(), "ssh-ed25519 AAAA");
        assert!(!other.exists(), "half a key was made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Keys::load(folder.path()),
            Err(KeysError::Private(PrivateFileError::Exposed { mode: 0o640, .. }))
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(Keys::load(folder.path()), Err(KeysError::Content { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(Keys::load(folder.path()), Err(KeysError::Private(PrivateFileError::Read { .. }))));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! `TPMI_ALG_HASH`: the supported hashes.

use aws_lc_rs::digest::{self, Algorithm, Context};
use aws_lc_rs::hmac;

use crate::constants::alg;
use crate::wire::{Reader, WireError};

/// A hash algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlg {
    /// TPM_ALG_SHA1: only in event logs, never for a security decision.
    Sha1,
    /// TPM_ALG_SHA256.
    Sha256,
    /// TPM_ALG_SHA384.
    Sha384,
    /// TPM_ALG_SHA512.
    Sha512,
}

/// The longest digest in bytes.
pub(crate) const MAX_DIGEST: usize = 64;

impl HashAlg {
    /// All supported hashes.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Looks up a TPM_ALG_ID.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.id() == id)
    }

    /// Looks up a name: `sha256`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.name() == name)
    }

    /// Its TPM_ALG_ID.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::Sha1 => alg::SHA1,
            Self::Sha256 => alg::SHA256,
            Self::Sha384 => alg::SHA384,
            Self::Sha512 => alg::SHA512,
        }
    }

    /// The name that Linux and tpm2-tools use: `sha256`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a digest.
    #[must_use]
    pub fn digest_len(self) -> usize {
        self.algorithm().output_len()
    }

    /// Whether signatures and names may use it.
    #[must_use]
    pub fn is_strong(self) -> bool {
        self != Self::Sha1
    }

    /// The digest of the concatenated `parts`.
    #[must_use]
    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = Context::new(self.algorithm());
        for part in parts {
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    pub(crate) fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    pub(crate) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// Reads a TPM_ALG_ID.
    pub(crate) fn read(reader: &mut Reader<'_>, what: &'static str) -> Result<Self, WireError> {
        let offset = reader.offset();
        let id = reader.u16(what)?;
        Self::from_id(id).ok_or(WireError::Unsupported { what, offset, found: id.into() })
    }

    /// Reads the TPM_ALG_ID of a [strong](Self::is_strong) hash.
    pub(crate) fn read_strong(reader: &mut Reader<'_>, what: &'static str) -> Result<Self, WireError> {
        let offset = reader.offset();
        let hash = Self::read(reader, what)?;
        if hash.is_strong() {
            return Ok(hash);
        }
        Err(WireError::Unsupported { what, offset, found: hash.id().into() })
    }
}

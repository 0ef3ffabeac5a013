// SPDX-License-Identifier: Apache-2.0
//! Creating and checking ID blocks.
//!
//! An ID block binds a launch: the firmware refuses LAUNCH_FINISH when digest or policy differ from those in
//! the block. It has to be signed, and there are two ways to do that.
//!
//! **With a key** ([`Identity::signed`]): the owner's ID key signs the block, optionally an author key signs
//! the ID key, and reports show the digests of both. The holder of the key can approve other launches.
//!
//! **Without a key** ([`Identity::keyless`]): for any signature chosen beforehand and any message there is a
//! public key under which the signature is valid, and it can be computed. The corresponding private key is
//! unknown, provided that R was not made from a known nonce; R and S here are hashes of a sentence. The key
//! digest in reports is then a function of the block alone: another identifier of digest, policy and ids,
//! without a secret that could leak.

mod ecdsa;
mod error;
#[cfg(test)]
mod tests;

use cvmm_snp::digest::Digest;
use cvmm_snp::id::{ALGORITHM_P384, EcPublicKey, EcSignature, ID_BLOCK_VERSION, IdAuth, IdBlock};
use cvmm_snp::policy::GuestPolicy;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::hash::sha384;
pub use ecdsa::{IdSigner, KeyError, SigningKey, from_point as public_key_of, signature_of};
pub use error::IdError;

/// An ID block with its authentication: what LAUNCH_FINISH takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    block: IdBlock,
    auth: IdAuth,
}

impl Identity {
    /// Signs `block` with the ID key, and that key with the author key.
    pub fn signed<K: IdSigner>(block: IdBlock, id_key: &K, author_key: Option<&K>) -> Result<Self, IdError> {
        let mut auth = IdAuth::new(id_key.public(), id_key.sign(block.as_bytes())?);
        if let Some(author) = author_key {
            auth.author_key_algo = U32::new(ALGORITHM_P384);
            auth.author_key = author.public();
            auth.id_key_sig = author.sign(auth.id_key.as_bytes())?;
        }
        Ok(Self { block, auth })
    }

    /// Computes the public key under which the fixed keyless signature is valid for `block`.
    pub fn keyless(block: IdBlock) -> Result<Self, IdError> {
        let key = ecdsa::recover(&sha384(block.as_bytes()))?;
        Ok(Self { block, auth: IdAuth::new(key, EcSignature::p384(&ecdsa::KEYLESS_R, &ecdsa::KEYLESS_S)) })
    }

    /// Parses both and checks lengths, versions, reserved fields and signatures. Whether the block fits a
    /// given launch is checked by [`Identity::check_launch`].
    pub fn from_bytes(block: &[u8], auth: &[u8]) -> Result<Self, IdError> {
        let length = |what, len, expected| IdError::Length { what, len, expected };
        let identity = Self {
            block: IdBlock::read_from_bytes(block)
                .map_err(|_| length("ID block", block.len(), size_of::<IdBlock>()))?,
            auth: IdAuth::read_from_bytes(auth)
                .map_err(|_| length("ID authentication", auth.len(), size_of::<IdAuth>()))?,
        };
        identity.verify()?;
        Ok(identity)
    }

    /// Checks what the firmware will check of the pair, and that reserved bytes, which it may not check, are
    /// zero.
    pub fn verify(&self) -> Result<(), IdError> {
        let Self { block, auth } = self;
        field("block", "version", block.version, ID_BLOCK_VERSION)?;
        field("authentication", "id_key_algo", auth.id_key_algo, ALGORITHM_P384)?;
        let reserved = [&auth.reserved1[..], &auth.reserved2, &auth.reserved3];
        if reserved.iter().any(|bytes| bytes.iter().any(|byte| *byte != 0)) {
            return Err(IdError::Reserved("ID authentication"));
        }
        ecdsa::verify(&auth.id_key, &auth.id_block_sig, block.as_bytes(), "of the ID key over the ID block")?;
        if auth.has_author_key() {
            field("authentication", "author_key_algo", auth.author_key_algo, ALGORITHM_P384)?;
            let key = auth.id_key.as_bytes();
            ecdsa::verify(&auth.author_key, &auth.id_key_sig, key, "of the author key over the ID key")
        } else if auth.author_key != EcPublicKey::new_zeroed() || auth.id_key_sig != EcSignature::new_zeroed()
        {
            Err(IdError::Reserved("author key, for which there is no algorithm"))
        } else {
            Ok(())
        }
    }

    /// Checks that the firmware will accept the block for a launch.
    pub fn check_launch(&self, digest: Digest, policy: GuestPolicy) -> Result<(), IdError> {
        if self.block.launch_digest != digest {
            return Err(IdError::LaunchDigest { found: self.block.launch_digest, expected: digest });
        }
        let found = GuestPolicy(self.block.policy.get());
        if found != policy {
            return Err(IdError::Policy { found, expected: policy });
        }
        Ok(())
    }

    /// The block.
    pub fn block(&self) -> &IdBlock {
        &self.block
    }

    /// The authentication.
    pub fn auth(&self) -> &IdAuth {
        &self.auth
    }

    /// ID_KEY_DIGEST of the guest's reports.
    pub fn id_key_digest(&self) -> Digest {
        sha384(self.auth.id_key.as_bytes())
    }

    /// AUTHOR_KEY_DIGEST of the guest's reports; `None` is zero there.
    pub fn author_key_digest(&self) -> Option<Digest> {
        self.auth.has_author_key().then(|| sha384(self.auth.author_key.as_bytes()))
    }
}

fn field(part: &'static str, field: &'static str, found: U32, expected: u32) -> Result<(), IdError> {
    if found.get() == expected {
        return Ok(());
    }
    Err(IdError::Field { part, field, found: found.get(), expected })
}

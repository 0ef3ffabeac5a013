// SPDX-License-Identifier: Apache-2.0
//! AES-256-GCM as VMGS uses it: without additional data, nonce and tag stored separately.
//!
//! Nonces are 12 random bytes. All keys but the state key are used once; the state key wraps one metadata key
//! with each change, far from the 2^32 uses that random nonces allow. (Other implementations use a counter,
//! which repeats after a rollback.)

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use cvmm_secret_memory::Secret;

use crate::error::StateError;
use crate::format::KEY_LEN;

/// Nonce and tag.
pub(crate) type Seal = ([u8; 12], [u8; 16]);

pub(crate) fn random(bytes: &mut [u8]) -> Result<(), StateError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| StateError::Crypto)
}

fn cipher(key: &[u8; KEY_LEN]) -> Result<LessSafeKey, StateError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| StateError::Crypto)
}

/// A random key.
pub(crate) fn new_key() -> Result<Secret<KEY_LEN>, StateError> {
    let mut key = Secret::zeroed();
    random(key.as_mut_slice())?;
    Ok(key)
}

/// Encrypts in place.
pub(crate) fn seal(key: &[u8; KEY_LEN], bytes: &mut [u8]) -> Result<Seal, StateError> {
    let mut nonce = [0; 12];
    random(&mut nonce)?;
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), bytes)
        .map_err(|_| StateError::Crypto)?;
    Ok((nonce, tag.as_ref().try_into().map_err(|_| StateError::Crypto)?))
}

/// Decrypts `sealed` into `plain` of the same length; false, with `plain` zeroed, if it is not authentic.
pub(crate) fn open(
    key: &[u8; KEY_LEN],
    seal: &Seal,
    sealed: &[u8],
    plain: &mut [u8],
) -> Result<bool, StateError> {
    let (nonce, tag) = seal;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = cipher(key)?.open_separate_gather(nonce, Aad::empty(), sealed, tag, plain);
    if opened.is_err() {
        plain.fill(0);
    }
    Ok(opened.is_ok())
}

// SPDX-License-Identifier: Apache-2.0
//! ID block and ID authentication: the guest owner's signed statement of what may be launched.
//!
//! The ID block (96 bytes) names a launch digest, a policy and identifiers; the ID authentication page
//! carries the signature over it, the public ID key, and optionally an author key with its signature over the
//! ID key. The reports of the guest later show hashes of both keys. Layouts were cross-checked against the
//! `sev` crate and QEMU, not against AMD's document; neither was the order of the checks: signatures, then
//! measurement, then policy.

use crate::crypto::{sha384, verify_p384};
use crate::digest::LaunchDigest;
use crate::guest::Identity;
use crate::host::{le32, le64};
use crate::policy::Policy;
use crate::status::{Outcome, Status};

/// Size of an ID block, bytes.
pub const BLOCK_LEN: usize = 96;
/// Size of an ID authentication, bytes.
pub const AUTH_LEN: usize = 4096;
/// ECDSA P-384 with SHA-384.
const ALGORITHM: u32 = 1;
/// P-384.
const CURVE: u32 = 2;

const BLOCK_SIGNATURE: usize = 64;
const ID_KEY: usize = 576;
const ID_KEY_SIGNATURE: usize = 1664;
const AUTHOR_KEY: usize = 2176;
/// Curve, QX 72, QY 72, reserved.
const KEY_LEN: usize = 1028;
/// R 72, S 72, reserved.
const SIGNATURE_LEN: usize = 512;

/// Check the pair against the guest that is about to start.
pub(crate) fn check(
    block: &[u8; BLOCK_LEN],
    auth: &[u8; AUTH_LEN],
    author_en: bool,
    digest: LaunchDigest,
    policy: Policy,
) -> Outcome<Identity> {
    if le32(block, 80) != 1 || le32(auth, 0) != ALGORITHM || (author_en && le32(auth, 4) != ALGORITHM) {
        return Err(Status::INVALID_PARAM);
    }
    let id_key = &auth[ID_KEY..ID_KEY + KEY_LEN];
    verify(id_key, &auth[BLOCK_SIGNATURE..BLOCK_SIGNATURE + SIGNATURE_LEN], block)?;
    let mut author_key_digest = [0; 48];
    if author_en {
        let author_key = &auth[AUTHOR_KEY..AUTHOR_KEY + KEY_LEN];
        verify(author_key, &auth[ID_KEY_SIGNATURE..ID_KEY_SIGNATURE + SIGNATURE_LEN], id_key)?;
        author_key_digest = sha384(&[author_key]);
    }
    if block[..48] != digest.0 {
        return Err(Status::BAD_MEASUREMENT);
    }
    if le64(block, 88) != policy.0 {
        return Err(Status::POLICY_FAILURE);
    }
    let mut identity = Identity {
        guest_svn: le32(block, 84),
        id_key_digest: sha384(&[id_key]),
        author_key_digest,
        author_key_en: author_en,
        ..Identity::default()
    };
    identity.family_id.copy_from_slice(&block[48..64]);
    identity.image_id.copy_from_slice(&block[64..80]);
    Ok(identity)
}

/// A key or signature with bytes outside its fields is refused too: two encodings of one key would have two
/// digests.
fn verify(key: &[u8], signature: &[u8], message: &[u8]) -> Outcome<()> {
    let clean = key[148..].iter().chain(&signature[144..]).all(|&byte| byte == 0);
    let good = clean
        && le32(key, 0) == CURVE
        && verify_p384(&key[4..76], &key[76..148], &signature[..72], &signature[72..144], message);
    if good { Ok(()) } else { Err(Status::BAD_SIGNATURE) }
}

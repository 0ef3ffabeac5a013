// SPDX-License-Identifier: Apache-2.0
//! The guest owner's side: ID blocks, their authentication, and keys by recovery.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use cvmm_test_support::psp::Buffer;

pub fn pair() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()
}

pub fn number(big_endian: &[u8]) -> Vec<u8> {
    let mut field: Vec<u8> = big_endian.iter().rev().copied().collect();
    field.resize(72, 0);
    field
}

pub fn amd_key(pair: &EcdsaKeyPair) -> Vec<u8> {
    let point = pair.public_key().as_ref();
    let mut key = 2_u32.to_le_bytes().to_vec();
    key.extend(number(&point[1..49]));
    key.extend(number(&point[49..]));
    key.resize(1028, 0);
    key
}

fn amd_signature(pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let signature = pair.sign(&SystemRandom::new(), message).unwrap();
    let mut field = number(&signature.as_ref()[..48]);
    field.extend(number(&signature.as_ref()[48..]));
    field.resize(512, 0);
    field
}

/// Without a digest the one of nothing.
pub fn id_block(digest: &str, policy: u64) -> Vec<u8> {
    let digest: Vec<u8> = (0..digest.len() / 2)
        .map(|at| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let digest: [u8; 48] = digest.try_into().unwrap_or([0; 48]);
    Buffer::default().bytes(&digest).bytes(&[0xFA; 16]).bytes(&[0x1A; 16]).u32(1).u32(7).u64(policy).0
}

pub fn id_auth(block: &[u8], id: &EcdsaKeyPair, author: &EcdsaKeyPair) -> Vec<u8> {
    let key = amd_key(id);
    let mut auth = Buffer::default().u32(1).u32(1).bytes(&[0; 56]).0;
    auth.extend(amd_signature(id, block));
    auth.extend(&key);
    auth.resize(1664, 0);
    auth.extend(amd_signature(author, &key));
    auth.extend(amd_key(author));
    auth.resize(4096, 0);
    auth
}

/// Recovery with the `p384` crate, whose arithmetic the library itself does not use.
pub mod p384_recovery {
    use p384::elliptic_curve::bigint::U384;
    use p384::elliptic_curve::ops::Reduce;
    use p384::elliptic_curve::sec1::{FromEncodedPoint as _, ToEncodedPoint as _};
    use p384::{AffinePoint, EncodedPoint, ProjectivePoint, Scalar};

    /// Q = r^-1 (sR - zG), R being the generator: so r is its x coordinate, and s may be any constant.
    pub fn recover(message: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, message);
        let z = <Scalar as Reduce<U384>>::reduce(U384::from_be_slice(hash.as_ref()));
        let base = AffinePoint::GENERATOR.to_encoded_point(false);
        let r = <Scalar as Reduce<U384>>::reduce(U384::from_be_slice(base.x().unwrap()));
        let s = Scalar::from(2_u64);
        let point =
            ProjectivePoint::from(AffinePoint::from_encoded_point(&EncodedPoint::from(base)).unwrap());
        let key = (point * s - ProjectivePoint::GENERATOR * z) * r.invert().unwrap();
        let key = key.to_affine().to_encoded_point(false);
        (key.as_bytes().to_vec(), r.to_bytes().to_vec(), s.to_bytes().to_vec())
    }
}

// SPDX-License-Identifier: Apache-2.0
//! ECDSA on P-384 with SHA-384: signing, verifying, and key recovery.
//!
//! Private keys are handled by aws-lc alone. Key recovery needs point arithmetic, which aws-lc does not
//! expose; it is done with the `p384` crate on public numbers only.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use cvmm_snp::digest::Digest;
use cvmm_snp::id::{CURVE_P384, EcPublicKey, EcSignature, NUMBER_LEN};
use ecdsa::RecoveryId;
use p384::ecdsa::{Signature, VerifyingKey};
use zeroize::Zeroizing;

use super::error::IdError;

/// R of the keyless signature: SHA-384 of "cvmm id block without a key: r 0". It is the X coordinate of a
/// point whose discrete logarithm, the nonce, is therefore unknown; from a known nonce the private key could
/// be computed.
pub const KEYLESS_R: [u8; NUMBER_LEN] = [
    0x0f, 0x24, 0xda, 0xd7, 0xe7, 0x55, 0x6f, 0x48, 0x3e, 0xed, 0xa6, 0xab, 0xe2, 0x17, 0x70, 0x9f, 0x2c,
    0x9b, 0x67, 0x9e, 0x63, 0xc1, 0xc7, 0x0e, 0x6f, 0xf8, 0xd1, 0x10, 0x7c, 0xd5, 0xe5, 0x73, 0x17, 0x63,
    0xce, 0xe4, 0x87, 0x59, 0x05, 0xb6, 0x12, 0xe5, 0x45, 0xed, 0x5d, 0x9f, 0x27, 0x9e,
];
/// S of that signature: SHA-384 of "cvmm id block without a key: s 0".
pub const KEYLESS_S: [u8; NUMBER_LEN] = [
    0xce, 0x35, 0xac, 0x36, 0xa2, 0x3a, 0x19, 0x9f, 0x47, 0x11, 0x52, 0x9d, 0x18, 0x76, 0x52, 0xfa, 0x86,
    0x52, 0x87, 0x26, 0xa1, 0x07, 0xa8, 0x4b, 0x25, 0x12, 0x37, 0xf8, 0x28, 0xa5, 0xf9, 0x63, 0xe7, 0x69,
    0x51, 0xeb, 0x45, 0x07, 0xe9, 0x69, 0x79, 0x53, 0x69, 0x7b, 0x24, 0x09, 0x4b, 0x2d,
];

/// A file that is not a usable private key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The PEM file has no private key.
    #[error(
        "has no private key: a PEM block \"PRIVATE KEY\" (PKCS#8) or \"EC PRIVATE KEY\" is needed; make one with `openssl \
         genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384`"
    )]
    None,
    /// The key is encrypted.
    #[error("is an encrypted private key; decrypt it with `openssl pkcs8`")]
    Encrypted,
    /// The PEM block is damaged.
    #[error("is not a valid PEM file")]
    Pem,
    /// The content is not a private key on P-384.
    #[error("is not a private key on the curve P-384, the only one that SNP supports")]
    Curve,
}

/// A private key that signs ID blocks.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: EcPublicKey,
}

impl SigningKey {
    /// Parses PEM or DER, PKCS#8 or SEC 1 (what `openssl genpkey` and `openssl ecparam -genkey` write).
    pub fn parse(file: &[u8]) -> Result<Self, KeyError> {
        let der = der(file)?;
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, &der)
            .map_err(|_| KeyError::Curve)?;
        let public = from_point(pair.public_key().as_ref()).ok_or(KeyError::Curve)?;
        Ok(Self { pair, public })
    }

    /// The public half.
    pub fn public(&self) -> &EcPublicKey {
        &self.public
    }
}

/// A signer of ID blocks: a [`SigningKey`], or a key in a token.
pub trait IdSigner {
    /// The public half.
    fn public(&self) -> EcPublicKey;
    /// Signs with ECDSA over SHA-384.
    fn sign(&self, message: &[u8]) -> Result<EcSignature, IdError>;
}

impl IdSigner for SigningKey {
    fn public(&self) -> EcPublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<EcSignature, IdError> {
        let failed = || IdError::Sign("random number generator failed".to_owned());
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| failed())?;
        signature_of(signature.as_ref()).ok_or_else(failed)
    }
}

/// Converts R and S (big-endian, 48 bytes each) to the firmware's format.
pub fn signature_of(bytes: &[u8]) -> Option<EcSignature> {
    let (r, s) = halves(bytes)?;
    Some(EcSignature::p384(r, s))
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The private key in `file`, which is PEM or already DER.
fn der(file: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let find = |text: &str, from: usize| {
        let rest = file.get(from..)?;
        rest.windows(text.len()).position(|window| window == text.as_bytes()).map(|at| from + at)
    };
    if find("-----BEGIN", 0).is_none() {
        return Ok(Zeroizing::new(file.to_vec()));
    }
    if find("-----BEGIN ENCRYPTED PRIVATE KEY-----", 0).is_some()
        || find("Proc-Type: 4,ENCRYPTED", 0).is_some()
    {
        return Err(KeyError::Encrypted);
    }
    for label in ["PRIVATE KEY", "EC PRIVATE KEY"] {
        let Some(start) = find(&format!("-----BEGIN {label}-----"), 0) else { continue };
        // Take the block only: OpenSSL writes the curve's parameters before it.
        let marker = format!("-----END {label}-----");
        let end = find(&marker, start).ok_or(KeyError::Pem)? + marker.len();
        let block = file.get(start..end).ok_or(KeyError::Pem)?;
        return pem_rfc7468::decode_vec(block).map(|(_, der)| Zeroizing::new(der)).map_err(|_| KeyError::Pem);
    }
    Err(KeyError::None)
}

/// Checks `signature` over `message`; `which` names it in the error.
pub fn verify(
    key: &EcPublicKey,
    signature: &EcSignature,
    message: &[u8],
    which: &'static str,
) -> Result<(), IdError> {
    let wrong = IdError::Signature(which);
    if key.reserved.iter().chain(&signature.reserved).any(|byte| *byte != 0) {
        return Err(IdError::Reserved("key or signature"));
    }
    let numbers = (key.qx.to_be(), key.qy.to_be(), signature.r.to_be(), signature.s.to_be());
    let (Some(x), Some(y), Some(r), Some(s)) = numbers else { return Err(wrong) };
    if key.curve.get() != CURVE_P384 {
        return Err(wrong);
    }
    let point = [&[4][..], &x, &y].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
    key.verify(message, &[r, s].concat()).map_err(|_| wrong)
}

/// The public key under which (R, S) of the keyless signature is valid for a message with this hash: (S·P -
/// hash·G) / R, where P is the point with X coordinate R and even Y (SEC 1, 4.1.6).
pub fn recover(hash: &Digest) -> Result<EcPublicKey, IdError> {
    // Both numbers are below the order of the group, and X is R itself: nothing was reduced.
    let even_y = RecoveryId::new(false, false);
    Signature::from_scalars(KEYLESS_R, KEYLESS_S)
        .and_then(|signature| VerifyingKey::recover_from_prehash(&hash.0, &signature, even_y))
        .ok()
        .and_then(|key| from_point(key.to_encoded_point(false).as_bytes()))
        .ok_or(IdError::Recovery)
}

/// Converts an uncompressed point (4, X, Y) to the firmware's format.
pub fn from_point(bytes: &[u8]) -> Option<EcPublicKey> {
    let (&4, numbers) = bytes.split_first()? else { return None };
    let (x, y) = halves(numbers)?;
    Some(EcPublicKey::p384(x, y))
}

fn halves(bytes: &[u8]) -> Option<(&[u8; NUMBER_LEN], &[u8; NUMBER_LEN])> {
    let (first, second) = bytes.split_first_chunk()?;
    Some((first, second.try_into().ok()?))
}

// SPDX-License-Identifier: Apache-2.0
//! Secrets, randomness and the few primitives everything else is built from.
//!
//! The primitives are those of aws-lc-rs. Randomness comes from the system, or, for reproducible tests, from
//! an HMAC-SHA-384 counter over a seed: then it is predictable, which suits a test double and nothing else.

use std::fmt;

use aws_lc_rs::agreement::{ECDH_P384, PrivateKey};
use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyUncompressedBin};
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use aws_lc_rs::{digest, hmac, rand};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Secret bytes: wiped when dropped, absent from debug output.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{N} secret bytes>")
    }
}

/// The cryptographic library refused: no entropy, or a key it does not accept.
#[derive(Debug, thiserror::Error)]
#[error("cryptographic operation failed: {0}")]
pub struct CryptoError(pub(crate) &'static str);

/// SHA-384.
pub(crate) fn sha384(parts: &[&[u8]]) -> [u8; 48] {
    let mut context = digest::Context::new(&digest::SHA384);
    for part in parts {
        context.update(part);
    }
    first(context.finish().as_ref())
}

/// HMAC-SHA-384 over a label and inputs, each input preceded by its length: the key derivation used
/// throughout.
pub(crate) fn derive(key: &[u8], label: &str, inputs: &[&[u8]]) -> Zeroizing<[u8; 48]> {
    let key = hmac::Key::new(hmac::HMAC_SHA384, key);
    let mut context = hmac::Context::with_key(&key);
    for part in std::iter::once(label.as_bytes()).chain(inputs.iter().copied()) {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part);
    }
    Zeroizing::new(first(context.sign().as_ref()))
}

/// The first bytes of an output that is at least that long.
pub(crate) fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

/// Source of keys and nonces.
#[derive(Debug)]
pub(crate) enum Rng {
    System,
    Seeded { seed: Secret<48>, count: u64 },
}

impl Rng {
    pub(crate) fn new(seed: Option<&str>) -> Self {
        seed.map_or(Self::System, |seed| Self::Seeded {
            seed: Secret(*derive(seed.as_bytes(), "random numbers", &[])),
            count: 0,
        })
    }

    /// Up to 48 bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], CryptoError> {
        const { assert!(N <= 48) };
        match self {
            Self::System => {
                let mut bytes = [0; N];
                rand::fill(&mut bytes).map_err(|_| CryptoError("no random numbers"))?;
                Ok(bytes)
            }
            Self::Seeded { seed, count } => {
                *count += 1;
                Ok(first(&*derive(&seed.0, "counter", &[&count.to_le_bytes()])))
            }
        }
    }
}

/// A P-384 key pair that signs.
pub(crate) struct SigningKey {
    pair: EcdsaKeyPair,
    public: [u8; 97],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<P-384 key pair>")
    }
}

impl SigningKey {
    /// The key pair that belongs to a secret, a purpose and inputs. A hash that is not a scalar of the curve
    /// is skipped.
    pub(crate) fn derived(secret: &[u8], label: &str, inputs: &[&[u8]]) -> Result<Self, CryptoError> {
        for attempt in 0..64_u8 {
            let mut all: Vec<&[u8]> = inputs.to_vec();
            let attempt = [attempt];
            all.push(&attempt);
            let scalar = derive(secret, label, &all);
            if let Ok(key) = PrivateKey::from_private_key(&ECDH_P384, scalar.as_slice()) {
                return Self::from_scalar(&key, &scalar);
            }
        }
        Err(CryptoError("no P-384 scalar in 64 attempts"))
    }

    fn from_scalar(key: &PrivateKey, scalar: &[u8; 48]) -> Result<Self, CryptoError> {
        let failed = |_| CryptoError("P-384 key");
        let public = key.compute_public_key().map_err(failed)?;
        let public: EcPublicKeyUncompressedBin<'_> = public.as_be_bytes().map_err(failed)?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P384_SHA384_FIXED_SIGNING,
            scalar,
            public.as_ref(),
        )
        .map_err(|_| CryptoError("P-384 key pair"))?;
        Ok(Self { pair, public: first(public.as_ref()) })
    }

    /// The public point, uncompressed: 4, X, Y, big endian.
    pub(crate) fn public(&self) -> &[u8; 97] {
        &self.public
    }

    /// Signature over `message` in AMD's form: R, then S, each 72 bytes little endian.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 144], CryptoError> {
        let random = rand::SystemRandom::new();
        let signature = self.pair.sign(&random, message).map_err(|_| CryptoError("ECDSA signature"))?;
        let mut out = [0; 144];
        for (number, field) in signature.as_ref().chunks(48).zip(out.chunks_mut(72)) {
            for (to, from) in field.iter_mut().zip(number.iter().rev()) {
                *to = *from;
            }
        }
        Ok(out)
    }
}

/// Verify an ECDSA P-384 signature with SHA-384. Numbers are AMD's: little endian, 72 bytes, the upper 24
/// zero.
pub(crate) fn verify_p384(qx: &[u8], qy: &[u8], r: &[u8], s: &[u8], message: &[u8]) -> bool {
    let numbers = [qx, qy, r, s];
    if numbers.iter().any(|number| number.len() != 72 || number[48..].iter().any(|&byte| byte != 0)) {
        return false;
    }
    let [qx, qy, r, s] = numbers.map(|number| number[..48].iter().rev().copied());
    let point: Vec<u8> = std::iter::once(4).chain(qx).chain(qy).collect();
    let signature: Vec<u8> = r.chain(s).collect();
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_keys_are_stable_and_sign() {
        let key = SigningKey::derived(b"secret", "test", &[b"one"]).unwrap();
        assert_eq!(key.public(), SigningKey::derived(b"secret", "test", &[b"one"]).unwrap().public());
        assert_ne!(key.public(), SigningKey::derived(b"secret", "test", &[b"two"]).unwrap().public());
        let signature = key.sign(b"message").unwrap();
        let mut qx = [0; 72];
        let mut qy = [0; 72];
        for at in 0..48 {
            qx[at] = key.public()[48 - at];
            qy[at] = key.public()[96 - at];
        }
        let check = |signature: &[u8; 144], message: &[u8]| {
            verify_p384(&qx, &qy, &signature[..72], &signature[72..], message)
        };
        assert!(check(&signature, b"message"));
        assert!(!check(&signature, b"massage"));
        // A non-zero byte beyond the 48 of the number would make two encodings of one signature.
        let mut padded = signature;
        padded[50] = 1;
        assert!(!check(&padded, b"message"));
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret([0x41_u8; 4])), "<4 secret bytes>");
    }

    #[test]
    fn seeded_numbers_repeat_and_differ() {
        let (mut a, mut b) = (Rng::new(Some("x")), Rng::new(Some("x")));
        let one: [u8; 32] = a.bytes().unwrap();
        assert_eq!(one, b.bytes().unwrap());
        assert_ne!(one, a.bytes().unwrap());
    }
}

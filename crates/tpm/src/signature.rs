// SPDX-License-Identifier: Apache-2.0
//! `TPMT_SIGNATURE` (part 2, 11.3.4, table 189) and its verification.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use thiserror::Error;

use crate::constants::{alg, curve};
use crate::hash::HashAlg;
use crate::public::{Key, Public, Scheme, coordinate_len, padded};
use crate::wire::{Reader, WireError, Writer};

/// Longest RSA signature in bytes: a key of 4096 bits.
const MAX_RSA: usize = 512;
/// Longest half of an ECDSA signature in bytes: P-521.
const MAX_ECC: usize = 66;

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// `TPMS_SIGNATURE_ECDSA` (table 187).
    Ecdsa {
        /// Hash of the message.
        hash: HashAlg,
        /// signatureR.
        r: Vec<u8>,
        /// signatureS.
        s: Vec<u8>,
    },
    /// `TPMS_SIGNATURE_RSASSA` (table 186).
    RsaSsa {
        /// Hash of the message.
        hash: HashAlg,
        /// sig.
        signature: Vec<u8>,
    },
    /// `TPMS_SIGNATURE_RSAPSS`.
    RsaPss {
        /// Hash of the message.
        hash: HashAlg,
        /// sig.
        signature: Vec<u8>,
    },
}

/// A signature that does not verify.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The key uses a different scheme.
    #[error("the signature scheme is {found}, but the key signs with {wanted:?} only")]
    Scheme {
        /// Scheme of the signature.
        found: &'static str,
        /// Scheme of the key.
        wanted: Scheme,
    },
    /// The combination is not supported.
    #[error("signatures by a key of this size with {0:?} are not supported")]
    Unsupported(HashAlg),
    /// The signature is wrong.
    #[error("the signature does not verify with this key")]
    Wrong,
}

impl Signature {
    /// Reads a TPMT_SIGNATURE.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let offset = reader.offset();
        let id = reader.u16("sigAlg")?;
        if ![alg::ECDSA, alg::RSASSA, alg::RSAPSS].contains(&id) {
            return Err(WireError::Unsupported { what: "sigAlg", offset, found: id.into() });
        }
        let hash = HashAlg::read_strong(reader, "signature.hash")?;
        Ok(match id {
            alg::ECDSA => Self::Ecdsa {
                hash,
                r: reader.sized("signatureR", MAX_ECC)?.to_vec(),
                s: reader.sized("signatureS", MAX_ECC)?.to_vec(),
            },
            alg::RSASSA => Self::RsaSsa { hash, signature: reader.sized("sig", MAX_RSA)?.to_vec() },
            _ => Self::RsaPss { hash, signature: reader.sized("sig", MAX_RSA)?.to_vec() },
        })
    }

    /// Parses a TPMT_SIGNATURE that is all of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let signature = Self::read(&mut reader)?;
        reader.finish("TPMT_SIGNATURE")?;
        Ok(signature)
    }

    /// The encoded signature.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Ecdsa { hash, r, s } => writer.u16(alg::ECDSA).u16(hash.id()).sized(r).sized(s),
            Self::RsaSsa { hash, signature } => writer.u16(alg::RSASSA).u16(hash.id()).sized(signature),
            Self::RsaPss { hash, signature } => writer.u16(alg::RSAPSS).u16(hash.id()).sized(signature),
        };
        writer.into_bytes()
    }

    /// The hash of what was signed.
    #[must_use]
    pub fn hash(&self) -> HashAlg {
        match self {
            Self::Ecdsa { hash, .. } | Self::RsaSsa { hash, .. } | Self::RsaPss { hash, .. } => *hash,
        }
    }

    fn scheme(&self) -> (&'static str, Scheme) {
        match self {
            Self::Ecdsa { hash, .. } => ("ECDSA", Scheme::Ecdsa(*hash)),
            Self::RsaSsa { hash, .. } => ("RSASSA", Scheme::RsaSsa(*hash)),
            Self::RsaPss { hash, .. } => ("RSAPSS", Scheme::RsaPss(*hash)),
        }
    }

    /// Verifies the signature of `message` with `public`, in the scheme of that key.
    pub fn verify(&self, public: &Public, message: &[u8]) -> Result<(), SignatureError> {
        let (found, scheme) = self.scheme();
        let (Key::Rsa { scheme: wanted, .. } | Key::Ecc { scheme: wanted, .. }) = public.key;
        if wanted != Scheme::Null && wanted != scheme {
            return Err(SignatureError::Scheme { found, wanted });
        }
        let unsupported = SignatureError::Unsupported(self.hash());
        match (self, &public.key) {
            (Self::Ecdsa { hash, r, s }, Key::Ecc { curve, .. }) => {
                let algorithm: &'static dyn VerificationAlgorithm = match (*curve, hash) {
                    (curve::NIST_P256, HashAlg::Sha256) => &ECDSA_P256_SHA256_FIXED,
                    (curve::NIST_P384, HashAlg::Sha384) => &ECDSA_P384_SHA384_FIXED,
                    _ => return Err(unsupported),
                };
                let halves = coordinate_len(*curve)
                    .and_then(|len| padded(r, len).zip(padded(s, len)))
                    .zip(public.point());
                let ((r, s), point) = halves.ok_or(SignatureError::Wrong)?;
                UnparsedPublicKey::new(algorithm, point)
                    .verify(message, &[r, s].concat())
                    .map_err(|_| SignatureError::Wrong)
            }
            (
                Self::RsaSsa { hash, signature } | Self::RsaPss { hash, signature },
                Key::Rsa { exponent, modulus, .. },
            ) => {
                let ssa = matches!(self, Self::RsaSsa { .. });
                let parameters = match (ssa, hash) {
                    (true, HashAlg::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
                    (true, HashAlg::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
                    (true, HashAlg::Sha512) => &RSA_PKCS1_2048_8192_SHA512,
                    (false, HashAlg::Sha256) => &RSA_PSS_2048_8192_SHA256,
                    (false, HashAlg::Sha384) => &RSA_PSS_2048_8192_SHA384,
                    (false, HashAlg::Sha512) => &RSA_PSS_2048_8192_SHA512,
                    (_, HashAlg::Sha1) => return Err(unsupported),
                };
                RsaPublicKeyComponents { n: modulus, e: &rsa_exponent(*exponent) }
                    .verify(parameters, message, signature)
                    .map_err(|_| SignatureError::Wrong)
            }
            _ => Err(SignatureError::Scheme { found, wanted }),
        }
    }
}

/// The exponent of TPMS_RSA_PARMS as big-endian bytes without leading zeros.
pub(crate) fn rsa_exponent(exponent: u32) -> Vec<u8> {
    let exponent = if exponent == 0 { 65_537 } else { exponent };
    exponent.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

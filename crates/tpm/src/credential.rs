// SPDX-License-Identifier: Apache-2.0
//! TPM2_MakeCredential without a TPM (part 1, 24; annexes B.10.4 and C.6.4): encrypts a secret for the TPM
//! that holds both a given endorsement key and an object with a given name.

use aws_lc_rs::agreement::{self, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepPublicEncryptingKey,
    PublicEncryptingKey, PublicKeyComponents,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::constants::curve;
use crate::hash::HashAlg;
use crate::public::{Key, Name, Public};
use crate::signature::rsa_exponent;
use crate::wire::Writer;

/// A credential that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// The endorsement key has an unsupported type.
    #[error("the endorsement key is not an RSA-2048 or P-384 storage key")]
    Key,
    /// The secret is longer than a digest of the key's name algorithm.
    #[error("the secret has {0} bytes; a credential for this key holds at most {1}")]
    Secret(usize, usize),
    /// The cryptographic library failed.
    #[error("the credential could not be encrypted for this key: {0}")]
    Crypto(&'static str),
}

/// The parameters of TPM2_ActivateCredential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Content of a `TPM2B_ID_OBJECT` (part 2, table 210): integrity and encrypted identity.
    pub blob: Vec<u8>,
    /// Content of a `TPM2B_ENCRYPTED_SECRET` (table 207): the seed.
    pub secret: Vec<u8>,
}

/// Makes a credential for the object `name` in the TPM that has `ek`.
pub fn make_credential(ek: &Public, name: &Name, secret: &[u8]) -> Result<Credential, CredentialError> {
    let hash = ek.name_alg;
    if secret.len() > hash.digest_len() {
        return Err(CredentialError::Secret(secret.len(), hash.digest_len()));
    }
    let (Key::Rsa { symmetric, .. } | Key::Ecc { symmetric, .. }) = &ek.key;
    let bits = symmetric.ok_or(CredentialError::Key)?.bits;
    let (seed, encrypted_seed) = make_seed(ek)?;

    let key = kdfa(hash, &seed, b"STORAGE", name.as_bytes(), &[], usize::from(bits));
    let mut identity = Writer::new();
    identity.sized(secret);
    let mut identity = Zeroizing::new(identity.into_bytes());
    encrypt_cfb(&key, &mut identity)?;

    let key = kdfa(hash, &seed, b"INTEGRITY", &[], &[], 8 * hash.digest_len());
    let mut context = hmac::Context::with_key(&hmac::Key::new(hash.hmac(), &key));
    context.update(&identity);
    context.update(name.as_bytes());
    let mut blob = Writer::new();
    blob.sized(context.sign().as_ref()).raw(&identity);
    Ok(Credential { blob: blob.into_bytes(), secret: encrypted_seed })
}

/// A seed, and the seed encrypted for the owner of `ek`.
fn make_seed(ek: &Public) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), CredentialError> {
    let hash = ek.name_alg;
    match &ek.key {
        Key::Rsa { bits: 2048, exponent, modulus, .. } => {
            let mut seed = Zeroizing::new(vec![0; hash.digest_len()]);
            aws_lc_rs::rand::fill(&mut seed).map_err(|_| CredentialError::Crypto("no random numbers"))?;
            let public: PublicEncryptingKey =
                PublicKeyComponents { n: modulus.as_slice(), e: rsa_exponent(*exponent).as_slice() }
                    .try_into()
                    .map_err(|_| CredentialError::Crypto("no RSA key"))?;
            let public = OaepPublicEncryptingKey::new(public).map_err(|_| CredentialError::Key)?;
            let algorithm = match hash {
                HashAlg::Sha256 => &OAEP_SHA256_MGF1SHA256,
                HashAlg::Sha384 => &OAEP_SHA384_MGF1SHA384,
                HashAlg::Sha512 => &OAEP_SHA512_MGF1SHA512,
                HashAlg::Sha1 => return Err(CredentialError::Key),
            };
            let mut encrypted = vec![0; public.ciphertext_size()];
            // The zero at the end belongs to the label (part 1, B.4).
            let encrypted = public
                .encrypt(algorithm, &seed, &mut encrypted, Some(b"IDENTITY\0"))
                .map_err(|_| CredentialError::Crypto("OAEP"))?
                .to_vec();
            Ok((seed, encrypted))
        }
        Key::Ecc { curve: curve::NIST_P384, .. } => {
            let theirs = ek.point().ok_or(CredentialError::Key)?;
            let ours = EphemeralPrivateKey::generate(&ECDH_P384, &SystemRandom::new())
                .map_err(|_| CredentialError::Crypto("no random numbers"))?;
            let point = ours.compute_public_key().map_err(|_| CredentialError::Crypto("ECDH"))?;
            let (x, y) = coordinates(point.as_ref()).ok_or(CredentialError::Crypto("ECDH"))?;
            let (their_x, _) = coordinates(&theirs).ok_or(CredentialError::Key)?;
            let seed = agreement::agree_ephemeral(
                ours,
                UnparsedPublicKey::new(&ECDH_P384, &theirs),
                CredentialError::Crypto("the key is not a point on P-384"),
                |z| Ok(kdfe(hash, z, b"IDENTITY", x, their_x)),
            )?;
            let mut encrypted = Writer::new();
            encrypted.sized(x).sized(y);
            Ok((seed, encrypted.into_bytes()))
        }
        _ => Err(CredentialError::Key),
    }
}

fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    let (4, coordinates) = point.split_first()? else { return None };
    coordinates.split_at_checked(48)
}

/// KDFa (part 1, 11.4.10.2): SP 800-108 in counter mode. `bits` is a multiple of 8.
fn kdfa(hash: HashAlg, key: &[u8], label: &[u8], u: &[u8], v: &[u8], bits: usize) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(hash.hmac(), key);
    let wanted = bits / 8;
    let mut out = Zeroizing::new(Vec::with_capacity(wanted + hash.digest_len()));
    for counter in 1_u32.. {
        if out.len() >= wanted {
            break;
        }
        let mut context = hmac::Context::with_key(&key);
        context.update(&counter.to_be_bytes());
        context.update(label);
        context.update(&[0]);
        context.update(u);
        context.update(v);
        context.update(&u32::try_from(bits).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(context.sign().as_ref());
    }
    out.truncate(wanted);
    out
}

/// KDFe (part 1, 11.4.10.3): SP 800-56A, one round, so as many bits as the hash has.
fn kdfe(hash: HashAlg, z: &[u8], label: &[u8], u: &[u8], v: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(hash.digest(&[&1_u32.to_be_bytes(), z, label, &[0], u, v]))
}

/// AES in CFB mode with an IV of zeros: each key is used once.
fn encrypt_cfb(key: &[u8], bytes: &mut [u8]) -> Result<(), CredentialError> {
    let failed = |_| CredentialError::Crypto("AES");
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = UnboundCipherKey::new(algorithm, key).and_then(EncryptingKey::cfb128).map_err(failed)?;
    key.less_safe_encrypt(bytes, EncryptionContext::Iv128(FixedLength::from([0; 16]))).map_err(failed)?;
    Ok(())
}

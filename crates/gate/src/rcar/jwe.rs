// SPDX-License-Identifier: Apache-2.0
//! A resource for one key: JWE (RFC 7516) in flattened JSON, A256GCM, the content's key wrapped by
//! ECDH-ES+A256KW (P-256, P-521) or RSA-OAEP-256 (RFC 7518).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{
    self, ECDH_P256, ECDH_P521, EphemeralPrivateKey, ParsedPublicKey, UnparsedPublicKey,
};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use super::wire::{EcKey, RsaKey, TeePubKey};

const ECDH: &str = "ECDH-ES+A256KW";
const OAEP: &str = "RSA-OAEP-256";

/// A public key that cannot be used for encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// An unsupported kind of key.
    #[error(
        "unsupported tee-pubkey: P-256 and P-521 with ECDH-ES+A256KW and RSA with RSA-OAEP-256 are supported"
    )]
    Kind,
    /// Not a key of its kind.
    #[error("the coordinates of tee-pubkey are not a point on its curve in base64url")]
    Point,
    /// Not an RSA key, or a weak one.
    #[error("tee-pubkey has to be an RSA key of 2048 to 4096 bits with exponent 65537, in base64url")]
    Rsa,
}

/// The cryptographic library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the resource could not be encrypted")]
pub struct SealError;

impl From<aws_lc_rs::error::Unspecified> for SealError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// A curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P521,
}

impl Curve {
    fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::P256 => &ECDH_P256,
            Self::P521 => &ECDH_P521,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate.
    fn len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P521 => 66,
        }
    }
}

/// A valid key that resources can be sealed to.
#[derive(Clone)]
pub struct Recipient(Key);

#[derive(Clone)]
enum Key {
    /// The uncompressed point.
    Ec(Curve, Vec<u8>),
    Rsa(PublicEncryptingKey),
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Key::Ec(curve, _) => curve.name(),
            Key::Rsa(_) => "RSA",
        })
    }
}

impl TryFrom<&TeePubKey> for Recipient {
    type Error = KeyError;

    fn try_from(key: &TeePubKey) -> Result<Self, KeyError> {
        match key {
            TeePubKey::Ec(EcKey { alg, crv, kty, x, y }) => {
                let curve = match (alg.as_str(), crv.as_str(), kty.as_str()) {
                    (ECDH, "P-256", "EC") => Curve::P256,
                    (ECDH, "P-521", "EC") => Curve::P521,
                    _ => return Err(KeyError::Kind),
                };
                let coordinate = |text| match URL_SAFE_NO_PAD.decode(text) {
                    Ok(bytes) if bytes.len() == curve.len() => Ok(bytes),
                    _ => Err(KeyError::Point),
                };
                let point = [vec![4], coordinate(x)?, coordinate(y)?].concat();
                // Whether it is on the curve.
                ParsedPublicKey::try_from(&UnparsedPublicKey::new(curve.algorithm(), &point))
                    .map_err(|_| KeyError::Point)?;
                Ok(Self(Key::Ec(curve, point)))
            }
            TeePubKey::Rsa(RsaKey { alg, e, kty, n }) => {
                if (alg.as_str(), kty.as_str()) != (OAEP, "RSA") {
                    return Err(KeyError::Kind);
                }
                let number = |text| URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Rsa);
                let (n, e) = (number(n)?, number(e)?);
                if !(256..=512).contains(&n.len())
                    || n.first().is_none_or(|first| *first < 0x80)
                    || e != [1, 0, 1]
                {
                    return Err(KeyError::Rsa);
                }
                let key = PublicKeyComponents { n, e }.try_into().map_err(|_| KeyError::Rsa)?;
                Ok(Self(Key::Rsa(key)))
            }
        }
    }
}

/// A sealed resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Jwe {
    /// `Header` in base64url; it is the additional authenticated data.
    pub protected: String,
    /// The content's key, wrapped.
    pub encrypted_key: String,
    /// Nonce.
    pub iv: String,
    /// The content.
    pub ciphertext: String,
    /// Tag.
    pub tag: String,
}

/// The protected header. Trustee's client encodes it again to authenticate it: `alg`, `enc`, then the rest by
/// name.
#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    enc: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    epk: Option<Epk>,
}

/// The ephemeral key.
#[derive(Serialize)]
struct Epk {
    crv: &'static str,
    kty: &'static str,
    x: String,
    y: String,
}

impl Recipient {
    /// Seals `content`.
    pub fn seal(&self, content: &[u8]) -> Result<Jwe, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(&mut *key)?;
        let (alg, epk, wrapped) = match &self.0 {
            Key::Ec(curve, point) => {
                let (epk, wrapped) = agree(*curve, point, &key)?;
                (ECDH, Some(epk), wrapped)
            }
            Key::Rsa(public) => {
                let public = OaepPublicEncryptingKey::new(public.clone())?;
                let mut wrapped = vec![0; public.ciphertext_size()];
                let len = public.encrypt(&OAEP_SHA256_MGF1SHA256, &*key, &mut wrapped, None)?.len();
                wrapped.truncate(len);
                (OAEP, None, wrapped)
            }
        };
        let header = serde_json::to_vec(&Header { alg, enc: "A256GCM", epk }).map_err(|_| SealError)?;
        let protected = URL_SAFE_NO_PAD.encode(header);
        let mut iv = [0; 12];
        rand::fill(&mut iv)?;
        // The key is used once.
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key)?);
        let mut text = content.to_vec();
        let tag = aead
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(iv),
                Aad::from(protected.as_bytes()),
                &mut text,
            )
            .inspect_err(|_| text.fill(0))?;
        Ok(Jwe {
            protected,
            encrypted_key: URL_SAFE_NO_PAD.encode(wrapped),
            iv: URL_SAFE_NO_PAD.encode(iv),
            ciphertext: URL_SAFE_NO_PAD.encode(text),
            tag: URL_SAFE_NO_PAD.encode(tag),
        })
    }
}

/// Wraps `key` for the owner of `point` (RFC 7518, 4.6).
fn agree(curve: Curve, point: &[u8], key: &[u8; 32]) -> Result<(Epk, Vec<u8>), SealError> {
    let own = EphemeralPrivateKey::generate(curve.algorithm(), &SystemRandom::new())?;
    let public = own.compute_public_key()?;
    let (x, y) = public
        .as_ref()
        .strip_prefix(&[4])
        .and_then(|coordinates| coordinates.split_at_checked(curve.len()))
        .ok_or(SealError)?;
    let epk =
        Epk { crv: curve.name(), kty: "EC", x: URL_SAFE_NO_PAD.encode(x), y: URL_SAFE_NO_PAD.encode(y) };
    let theirs = UnparsedPublicKey::new(curve.algorithm(), point);
    let wrapped = agreement::agree_ephemeral(own, theirs, SealError, |secret| {
        let wrapping = concat_kdf(secret);
        let kek = AesKek::new(&AES_256, &*wrapping)?;
        let mut wrapped = vec![0; key.len() + 8];
        kek.wrap(key, &mut wrapped)?;
        Ok(wrapped)
    })?;
    Ok((epk, wrapped))
}

/// The Concat KDF (NIST SP 800-56A, 5.8.1) for 256 bits, which is one round of SHA-256: a counter, the
/// secret, the algorithm's name, empty PartyUInfo and PartyVInfo, and the length in bits.
fn concat_kdf(secret: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    context.update(&1_u32.to_be_bytes());
    context.update(secret);
    context.update(&(ECDH.len() as u32).to_be_bytes());
    context.update(ECDH.as_bytes());
    for number in [0_u32, 0, 256] {
        context.update(&number.to_be_bytes());
    }
    let mut out = Zeroizing::new([0; 32]);
    for (to, from) in out.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ec(crv: &str, x: &[u8], y: &[u8]) -> TeePubKey {
        TeePubKey::Ec(EcKey {
            alg: ECDH.into(),
            crv: crv.into(),
            kty: "EC".into(),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        })
    }

    fn rsa(alg: &str, n: &[u8], e: &[u8]) -> TeePubKey {
        TeePubKey::Rsa(RsaKey {
            alg: alg.into(),
            e: URL_SAFE_NO_PAD.encode(e),
            kty: "RSA".into(),
            n: URL_SAFE_NO_PAD.encode(n),
        })
    }

    #[test]
    fn invalid_and_weak_keys_are_refused() {
        let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).unwrap();
        let public = own.compute_public_key().unwrap();
        let (x, y) = (&public.as_ref()[1..33], &public.as_ref()[33..]);
        assert!(Recipient::try_from(&ec("P-256", x, y)).is_ok());
        let refused = |key: &TeePubKey| Recipient::try_from(key).unwrap_err();
        // Not on the curve, too short, another curve's, at infinity.
        let mut off = y.to_vec();
        off[31] ^= 1;
        for (crv, x, y) in
            [("P-256", x, &off[..]), ("P-256", &x[1..], y), ("P-521", x, y), ("P-256", &[0; 32], &[0; 32])]
        {
            assert_eq!(refused(&ec(crv, x, y)), KeyError::Point, "{crv} {x:?}");
        }
        assert_eq!(refused(&ec("P-384", x, y)), KeyError::Kind);
        let mut other = ec("P-256", x, y);
        if let TeePubKey::Ec(key) = &mut other {
            key.alg = "ECDH-ES".into();
        }
        assert_eq!(refused(&other), KeyError::Kind);
        let n = [0xc1; 256];
        assert!(Recipient::try_from(&rsa(OAEP, &n, &[1, 0, 1])).is_ok());
        assert_eq!(refused(&rsa("RSA1_5", &n, &[1, 0, 1])), KeyError::Kind);
        for (n, e) in [
            (&n[..255], &[1, 0, 1][..]),
            (&[0xc1; 513], &[1, 0, 1]),
            (&n, &[3]),
            (&n, &[1]),
            (&[1; 256], &[1, 0, 1]),
        ] {
            assert_eq!(refused(&rsa(OAEP, n, e)), KeyError::Rsa, "{} {e:?}", n.len());
        }
    }

    #[test]
    fn sealing_twice_is_never_the_same() {
        let own = EphemeralPrivateKey::generate(&ECDH_P521, &SystemRandom::new()).unwrap();
        let public = own.compute_public_key().unwrap();
        let recipient =
            Recipient::try_from(&ec("P-521", &public.as_ref()[1..67], &public.as_ref()[67..])).unwrap();
        let (one, two) = (recipient.seal(b"secret").unwrap(), recipient.seal(b"secret").unwrap());
        assert!(
            one.iv != two.iv && one.ciphertext != two.ciphertext && one.encrypted_key != two.encrypted_key
        );
        let header = String::from_utf8(URL_SAFE_NO_PAD.decode(&one.protected).unwrap()).unwrap();
        assert!(
            header.starts_with(
                r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-521","kty":"EC","x":""#
            ),
            "{header}"
        );
        assert_eq!(format!("{recipient:?}"), "P-521");
    }
}

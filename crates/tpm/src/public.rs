// SPDX-License-Identifier: Apache-2.0
//! `TPMT_PUBLIC` (part 2, 12.2.4, table 200): the public side of an RSA or ECC key, and its name.

use crate::constants::{alg, curve};
use crate::hash::HashAlg;
use crate::wire::{Reader, WireError, Writer};

/// Longest supported RSA modulus in bytes: 4096 bits.
const MAX_MODULUS: usize = 512;
/// Longest coordinate in bytes: P-521.
const MAX_COORDINATE: usize = 66;
/// Longest policy in bytes: a SHA-512 digest.
const MAX_POLICY: usize = 64;
/// Upper limit for a TPMT_PUBLIC that [`Public::parse`] accepts, in bytes.
pub const MAX_PUBLIC: usize = 1024;

/// A public area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// nameAlg.
    pub name_alg: HashAlg,
    /// TPMA_OBJECT: [`crate::constants::object`].
    pub attributes: u32,
    /// authPolicy: empty or a digest.
    pub auth_policy: Vec<u8>,
    /// Parameters and unique.
    pub key: Key,
}

/// `TPMU_PUBLIC_PARMS` and `TPMU_PUBLIC_ID` (tables 194 and 186), which belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `TPMS_RSA_PARMS` (table 192).
    Rsa {
        /// Cipher for child keys; `None` unless the key is a parent.
        symmetric: Option<Symmetric>,
        /// `TPM_ALG_NULL`: the command chooses the scheme.
        scheme: Scheme,
        /// Bits of the modulus.
        bits: u16,
        /// Public exponent; 0 is 65537.
        exponent: u32,
        /// `TPM2B_PUBLIC_KEY_RSA`; in a template it distinguishes keys.
        modulus: Vec<u8>,
    },
    /// `TPMS_ECC_PARMS` (table 193).
    Ecc {
        /// Cipher for child keys; `None` unless the key is a parent.
        symmetric: Option<Symmetric>,
        /// `TPM_ALG_NULL`: the command chooses the scheme.
        scheme: Scheme,
        /// `TPM_ECC_CURVE`: [`crate::constants::curve`].
        curve: u16,
        /// `TPMS_ECC_POINT`, x.
        x: Vec<u8>,
        /// y.
        y: Vec<u8>,
    },
}

/// `TPMT_SYM_DEF_OBJECT` (table 139): AES in CFB mode, which is all that a parent may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symmetric {
    /// Bits of the key: 128 or 256.
    pub bits: u16,
}

/// `TPMT_RSA_SCHEME` and `TPMT_ECC_SCHEME` (tables 164 and 184).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `TPM_ALG_NULL`.
    Null,
    /// `TPM_ALG_RSASSA`.
    RsaSsa(HashAlg),
    /// `TPM_ALG_RSAPSS`.
    RsaPss(HashAlg),
    /// `TPM_ALG_RSAES`.
    RsaEs,
    /// `TPM_ALG_OAEP`.
    Oaep(HashAlg),
    /// `TPM_ALG_ECDSA`.
    Ecdsa(HashAlg),
    /// `TPM_ALG_ECDH`.
    Ecdh(HashAlg),
}

/// `TPM2B_NAME` of an object (part 1, 16): nameAlg and the digest of its public area.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

/// Longest name in bytes.
pub const MAX_NAME: usize = 2 + crate::hash::MAX_DIGEST;

impl Name {
    /// The name with these `bytes`, if their length fits their algorithm.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, digest) = bytes.split_first_chunk::<2>()?;
        let hash = HashAlg::from_id(u16::from_be_bytes(*id))?;
        (digest.len() == hash.digest_len()).then(|| Self(bytes.to_vec()))
    }

    /// Parses hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() > 2 * MAX_NAME {
            return None;
        }
        Self::from_bytes(&hex::decode(text).ok()?)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Writes hexadecimal digits.
impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Symmetric {
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, WireError> {
        let mut one_of = |what, wanted: &[u16]| {
            let offset = reader.offset();
            let found = reader.u16(what)?;
            if wanted.contains(&found) {
                return Ok(found);
            }
            Err(WireError::Unsupported { what, offset, found: found.into() })
        };
        if one_of("symmetric.algorithm", &[alg::NULL, alg::AES])? == alg::NULL {
            return Ok(None);
        }
        let bits = one_of("symmetric.keyBits", &[128, 256])?;
        one_of("symmetric.mode", &[alg::CFB])?;
        Ok(Some(Self { bits }))
    }

    fn write(this: Option<Self>, writer: &mut Writer) {
        match this {
            None => writer.u16(alg::NULL),
            Some(Self { bits }) => writer.u16(alg::AES).u16(bits).u16(alg::CFB),
        };
    }
}

impl Scheme {
    fn read(reader: &mut Reader<'_>, rsa: bool) -> Result<Self, WireError> {
        let what = "scheme";
        let offset = reader.offset();
        let id = reader.u16(what)?;
        let mut hash = || HashAlg::read(reader, "scheme.hashAlg");
        Ok(match (rsa, id) {
            (_, alg::NULL) => Self::Null,
            (true, alg::RSASSA) => Self::RsaSsa(hash()?),
            (true, alg::RSAPSS) => Self::RsaPss(hash()?),
            (true, alg::OAEP) => Self::Oaep(hash()?),
            (true, alg::RSAES) => Self::RsaEs,
            (false, alg::ECDSA) => Self::Ecdsa(hash()?),
            (false, alg::ECDH) => Self::Ecdh(hash()?),
            _ => return Err(WireError::Unsupported { what, offset, found: id.into() }),
        })
    }

    pub(crate) fn write(self, writer: &mut Writer) {
        match self {
            Self::Null => writer.u16(alg::NULL),
            Self::RsaEs => writer.u16(alg::RSAES),
            Self::RsaSsa(hash) => writer.u16(alg::RSASSA).u16(hash.id()),
            Self::RsaPss(hash) => writer.u16(alg::RSAPSS).u16(hash.id()),
            Self::Oaep(hash) => writer.u16(alg::OAEP).u16(hash.id()),
            Self::Ecdsa(hash) => writer.u16(alg::ECDSA).u16(hash.id()),
            Self::Ecdh(hash) => writer.u16(alg::ECDH).u16(hash.id()),
        };
    }
}

impl Public {
    /// Reads a TPMT_PUBLIC.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let offset = reader.offset();
        let kind = reader.u16("type")?;
        if kind != alg::RSA && kind != alg::ECC {
            return Err(WireError::Unsupported { what: "type", offset, found: kind.into() });
        }
        let name_alg = HashAlg::read_strong(reader, "nameAlg")?;
        let attributes = reader.u32("objectAttributes")?;
        let auth_policy = reader.sized("authPolicy", MAX_POLICY)?.to_vec();
        let symmetric = Symmetric::read(reader)?;
        let scheme = Scheme::read(reader, kind == alg::RSA)?;
        let key = if kind == alg::RSA {
            let bits = reader.u16("keyBits")?;
            let exponent = reader.u32("exponent")?;
            let modulus = reader.sized("unique.rsa", MAX_MODULUS)?.to_vec();
            Key::Rsa { symmetric, scheme, bits, exponent, modulus }
        } else {
            let curve = reader.u16("curveID")?;
            let offset = reader.offset();
            let kdf = reader.u16("kdf")?;
            if kdf != alg::NULL {
                return Err(WireError::Unsupported { what: "kdf", offset, found: kdf.into() });
            }
            let x = reader.sized("unique.ecc.x", MAX_COORDINATE)?.to_vec();
            let y = reader.sized("unique.ecc.y", MAX_COORDINATE)?.to_vec();
            Key::Ecc { symmetric, scheme, curve, x, y }
        };
        Ok(Self { name_alg, attributes, auth_policy, key })
    }

    /// Parses a TPMT_PUBLIC that is all of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let public = Self::read(&mut reader)?;
        reader.finish("TPMT_PUBLIC")?;
        Ok(public)
    }

    /// Reads a TPM2B_PUBLIC.
    pub fn read_sized(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let inner = reader.sized("TPM2B_PUBLIC", MAX_PUBLIC)?;
        let mut inner = Reader::within(inner, reader.offset() - inner.len());
        let public = Self::read(&mut inner)?;
        inner.finish("TPM2B_PUBLIC")?;
        Ok(public)
    }

    /// Writes a TPMT_PUBLIC, with the same bytes that were read.
    pub fn write(&self, writer: &mut Writer) {
        writer.u16(match self.key {
            Key::Rsa { .. } => alg::RSA,
            Key::Ecc { .. } => alg::ECC,
        });
        writer.u16(self.name_alg.id()).u32(self.attributes).sized(&self.auth_policy);
        match &self.key {
            Key::Rsa { symmetric, scheme, bits, exponent, modulus } => {
                Symmetric::write(*symmetric, writer);
                scheme.write(writer);
                writer.u16(*bits).u32(*exponent).sized(modulus);
            }
            Key::Ecc { symmetric, scheme, curve, x, y } => {
                Symmetric::write(*symmetric, writer);
                scheme.write(writer);
                writer.u16(*curve).u16(alg::NULL).sized(x).sized(y);
            }
        }
    }

    /// The bytes of the TPMT_PUBLIC.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.into_bytes()
    }

    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> Name {
        let digest = self.name_alg.digest(&[&self.to_bytes()]);
        Name([&self.name_alg.id().to_be_bytes()[..], &digest].concat())
    }

    /// Whether this key was made from `template`: all fields but the key itself are equal, and the key has
    /// the right length.
    #[must_use]
    pub fn is_of(&self, template: &Self) -> bool {
        let mut like = self.clone();
        match (&mut like.key, &template.key) {
            (Key::Rsa { modulus, bits, .. }, Key::Rsa { modulus: unique, .. }) => {
                if modulus.len() != usize::from(*bits) / 8
                    || modulus.first().is_none_or(|top| top & 0x80 == 0)
                {
                    return false;
                }
                modulus.clone_from(unique);
            }
            (Key::Ecc { x, y, curve, .. }, Key::Ecc { x: unique_x, y: unique_y, .. }) => {
                let len = coordinate_len(*curve).unwrap_or_default();
                if x.len() != len || y.len() != len {
                    return false;
                }
                x.clone_from(unique_x);
                y.clone_from(unique_y);
            }
            _ => return false,
        }
        like == *template
    }

    /// The point of an ECC key, as SEC 1 writes it without compression.
    #[must_use]
    pub fn point(&self) -> Option<Vec<u8>> {
        let Key::Ecc { curve, x, y, .. } = &self.key else { return None };
        let len = coordinate_len(*curve)?;
        Some([&[4][..], &padded(x, len)?, &padded(y, len)?].concat())
    }
}

/// Bytes of a coordinate.
pub(crate) fn coordinate_len(curve: u16) -> Option<usize> {
    match curve {
        curve::NIST_P256 => Some(32),
        curve::NIST_P384 => Some(48),
        curve::NIST_P521 => Some(66),
        _ => None,
    }
}

/// `bytes` with zeros before them, if they are not longer.
pub(crate) fn padded(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let zeros = len.checked_sub(bytes.len())?;
    Some([&vec![0; zeros], bytes].concat())
}

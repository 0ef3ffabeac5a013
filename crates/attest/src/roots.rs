// SPDX-License-Identifier: Apache-2.0
//! Who is trusted: AMD's intermediate authorities, as they are, byte for byte.
//!
//! Each product line has a root (ARK) and two authorities under it: the ASK, which certifies chips' keys, and
//! the ASVK, which certifies the keys that clouds have. All nine certificates are built in; none is ever
//! taken from evidence. Their source is AMD's key distribution service; the tests check that each is signed
//! by its root and is the one that is known publicly.

use thiserror::Error;

use crate::claims::{Product, SigningKey};
use crate::der::DerError;
use crate::x509::{Certificate, Key, common_name};

/// An authority that certifies signing keys, with its root.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) product: Product,
    pub(crate) certifies: SigningKey,
    pub(crate) der: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) validity: (i64, i64),
    pub(crate) root_name: Vec<u8>,
    pub(crate) root_key: Vec<u8>,
    pub(crate) root_validity: (i64, i64),
}

/// Certificates that make no authority.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TrustError {
    /// Not a certificate.
    #[error("the {0} certificate is malformed")]
    Malformed(&'static str),
    /// Not one of AMD's names.
    #[error("{0:?} is the name of no AMD root or authority (ARK-Milan, SEV-Milan, SEV-VLEK-Milan ...)")]
    Name(String),
    /// The root did not sign it.
    #[error("the {0} certificate is not signed by the root")]
    Signature(&'static str),
}

/// The authorities that are trusted.
#[derive(Clone, Debug)]
pub struct Trust {
    pub(crate) authorities: Vec<Authority>,
    test: bool,
}

macro_rules! line {
    ($line:literal) => {
        [
            include_bytes!(concat!("../roots/", $line, "_ark.der")).as_slice(),
            include_bytes!(concat!("../roots/", $line, "_ask.der")).as_slice(),
            include_bytes!(concat!("../roots/", $line, "_asvk.der")).as_slice(),
        ]
    };
}
const AMD: [[&[u8]; 3]; 3] = [line!("milan"), line!("genoa"), line!("turin")];

impl Trust {
    /// AMD's, for Milan, Genoa and Turin.
    ///
    /// # Errors
    /// Never, unless this program was built from damaged files.
    pub fn amd() -> Result<Self, TrustError> {
        let mut trust = Self { authorities: Vec::with_capacity(6), test: false };
        for [ark, ask, asvk] in AMD {
            trust.add(ark, ask)?;
            trust.add(ark, asvk)?;
        }
        Ok(trust)
    }

    /// No authorities.
    #[must_use]
    pub fn none() -> Self {
        Self { authorities: Vec::new(), test: false }
    }

    /// Also trusts an authority of a test PKI. Its keys can sign any report: never use it for guests that
    /// matter.
    pub fn unsafe_add_test(&mut self, ark: &[u8], authority: &[u8]) -> Result<(), TrustError> {
        self.add(ark, authority)?;
        self.test = true;
        Ok(())
    }

    /// Whether a test PKI is among the trusted.
    #[must_use]
    pub fn has_test(&self) -> bool {
        self.test
    }

    fn add(&mut self, ark: &[u8], authority: &[u8]) -> Result<(), TrustError> {
        let root = parse(ark, "root")?;
        let ica = parse(authority, "intermediate")?;
        let unnamed = |_: DerError| TrustError::Malformed("intermediate");
        let name = common_name(ica.subject).map_err(unnamed)?;
        let wrong = || TrustError::Name(name.chars().take(64).collect());
        let line = name.strip_prefix("SEV-").ok_or_else(wrong)?;
        let (certifies, line) = match line.strip_prefix("VLEK-") {
            Some(line) => (SigningKey::Vlek, line),
            None => (SigningKey::Vcek, line),
        };
        let product = Product::from_line(line).ok_or_else(wrong)?;
        let root_name = common_name(root.subject).map_err(|_| TrustError::Malformed("root"))?;
        if root_name.strip_prefix("ARK-") != Some(line) {
            return Err(TrustError::Name(root_name.chars().take(64).collect()));
        }
        let (Key::Rsa(root_key), Key::Rsa(key)) = (root.key, ica.key) else {
            return Err(TrustError::Malformed("root or intermediate"));
        };
        if root.issuer != root.subject || !root.signed.is_by(root_key) {
            return Err(TrustError::Signature("root"));
        }
        if ica.issuer != root.subject || !ica.signed.is_by(root_key) {
            return Err(TrustError::Signature("intermediate"));
        }
        self.authorities.push(Authority {
            product,
            certifies,
            der: authority.to_vec(),
            serial: ica.serial.to_vec(),
            name: ica.subject.to_vec(),
            key: key.to_vec(),
            validity: (ica.not_before, ica.not_after),
            root_name: root.subject.to_vec(),
            root_key: root_key.to_vec(),
            root_validity: (root.not_before, root.not_after),
        });
        Ok(())
    }
}

fn parse<'a>(der: &'a [u8], what: &'static str) -> Result<Certificate<'a>, TrustError> {
    Certificate::parse(der).map_err(|_| TrustError::Malformed(what))
}

impl Product {
    /// The name AMD uses in certificates and in the addresses of its key server.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// From the name AMD uses in certificates.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        match line {
            "Milan" => Some(Self::Milan),
            "Genoa" => Some(Self::Genoa),
            "Turin" => Some(Self::Turin),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};

    use super::*;

    /// The first 8 bytes of SHA-256, as other verifiers have them.
    const FINGERPRINTS: [[&str; 3]; 3] = [
        ["69d063b45344d26a", "67d303bd3905fd38", "c5e081f59b7efab1"],
        ["4c6598d19c18719c", "5464738c1546aed5", "197e610743a917d6"],
        ["1f084161a44bb6d9", "5b77ef5fe7a7a004", "104e10a8bd060a3c"],
    ];

    #[test]
    fn amds_authorities_are_the_public_ones() {
        // `amd` verifies signatures and names.
        let trust = Trust::amd().unwrap();
        let kinds: Vec<_> = trust.authorities.iter().map(|a| (a.product, a.certifies)).collect();
        let expected = [Product::Milan, Product::Genoa, Product::Turin]
            .map(|product| [(product, SigningKey::Vcek), (product, SigningKey::Vlek)])
            .concat();
        assert_eq!(kinds, expected);
        assert!(!trust.has_test());
        for (line, fingerprints) in AMD.iter().zip(FINGERPRINTS) {
            for (der, expected) in line.iter().zip(fingerprints) {
                let hash = digest(&SHA256, der);
                let head: String = hex::encode(&hash.as_ref()[..8]);
                assert_eq!(head, expected);
            }
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let [milan, genoa, _] = AMD;
        let add = |ark: &[u8], ica: &[u8]| Trust::none().unsafe_add_test(ark, ica).unwrap_err();
        assert_eq!(add(milan[0], genoa[1]), TrustError::Name("ARK-Milan".into()));
        assert_eq!(add(milan[0], milan[0]), TrustError::Name("ARK-Milan".into()));
        assert_eq!(add(milan[1], milan[1]), TrustError::Name("SEV-Milan".into()));
        assert_eq!(add(&[], milan[1]), TrustError::Malformed("root"));
        let mut forged = milan[1].to_vec();
        // The last byte of the signature.
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(add(milan[0], &forged), TrustError::Signature("intermediate"));
    }
}

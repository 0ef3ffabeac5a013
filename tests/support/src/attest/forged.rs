// SPDX-License-Identifier: Apache-2.0
//! A signing authority that signs any content, and a chip whose reports it certifies: evidence that nothing
//! else would issue.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA384, RsaKeyPair as RsaKey,
};
use cvmm_attest::claims::Claims;
use cvmm_attest::refusal::Refusal;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::{CrlUse, Evidence, Options, verify};

use super::NOW;
use crate::der::{IA5, INTEGER, OID, bits, critical, extension, name, seq, tlv, utc};

/// RSASSA-PSS with hash and MGF1 of SHA-384 and this salt length.
pub fn pss(salt: u8) -> Vec<u8> {
    let sha384 = seq(&[&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], &[5, 0]]);
    let mgf1 = seq(&[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8], &sha384]);
    let parameters = seq(&[&tlv(0xa0, &sha384), &tlv(0xa1, &mgf1), &tlv(0xa2, &[INTEGER, 1, salt])]);
    seq(&[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10], &parameters])
}

/// 1.3.6.1.4.1.3704.1 and what comes after it.
pub fn amd(tail: &[u8]) -> Vec<u8> {
    [&[0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1][..], tail].concat()
}

/// The parts of a certificate, each as encoded.
#[derive(Clone)]
#[allow(missing_docs, reason = "fields of RFC 5280")]
pub struct CertificateParts {
    pub version: Vec<u8>,
    pub serial: Vec<u8>,
    pub inner: Vec<u8>,
    pub issuer: Vec<u8>,
    pub validity: Vec<u8>,
    pub subject: Vec<u8>,
    pub key: Vec<u8>,
    pub extensions: Vec<Vec<u8>>,
    pub outer: Vec<u8>,
}

impl CertificateParts {
    fn body(&self) -> Vec<u8> {
        let extensions =
            if self.extensions.is_empty() { vec![] } else { tlv(0xa3, &seq(&[&self.extensions.concat()])) };
        seq(&[
            &self.version,
            &self.serial,
            &self.inner,
            &self.issuer,
            &self.validity,
            &self.subject,
            &self.key,
            &extensions,
        ])
    }

    /// Replaces the value of an extension below AMD's arc.
    pub fn set(&mut self, tail: &[u8], value: &[u8]) {
        self.remove(tail);
        self.extensions.push(extension(&amd(tail), value));
    }

    /// Removes an extension below AMD's arc.
    pub fn remove(&mut self, tail: &[u8]) {
        let id = tlv(OID, &amd(tail));
        self.extensions.retain(|extension| !extension[2..].starts_with(&id));
    }
}

/// The parts of a revocation list, each as encoded.
#[derive(Clone)]
#[allow(missing_docs, reason = "fields of RFC 5280")]
pub struct CrlParts {
    pub version: Vec<u8>,
    pub inner: Vec<u8>,
    pub issuer: Vec<u8>,
    pub this_update: Vec<u8>,
    pub next_update: Vec<u8>,
    pub revoked: Vec<Vec<u8>>,
    pub extensions: Vec<Vec<u8>>,
}

impl CrlParts {
    fn body(&self) -> Vec<u8> {
        let revoked = if self.revoked.is_empty() { vec![] } else { seq(&[&self.revoked.concat()]) };
        let extensions =
            if self.extensions.is_empty() { vec![] } else { tlv(0xa0, &seq(&[&self.extensions.concat()])) };
        seq(&[
            &self.version,
            &self.inner,
            &self.issuer,
            &self.this_update,
            &self.next_update,
            &revoked,
            &extensions,
        ])
    }
}

/// An entry of a revocation list.
pub fn entry(serial: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = if extensions.is_empty() { vec![] } else { seq(&[&extensions.concat()]) };
    seq(&[&tlv(INTEGER, serial), &utc("260101000000Z"), &extensions])
}

/// The keys of a whole chain: root, authority, chip.
pub struct ForgedChain {
    root: RsaKey,
    authority: RsaKey,
    vek: EcdsaKeyPair,
    /// Trusts the root and the authority.
    pub trust: Trust,
    /// The root's certificate.
    pub ark: Vec<u8>,
    /// The authority's certificate.
    pub intermediate: Vec<u8>,
}

/// Which key signs.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "see `ForgedChain`")]
pub enum Signer {
    Root,
    Authority,
}

#[allow(clippy::new_without_default, reason = "a fixture")]
impl ForgedChain {
    /// New keys.
    pub fn new() -> Self {
        let rsa = || RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let (root, authority) = (rsa(), rsa());
        let vek = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let mut chain =
            Self { root, authority, vek, trust: Trust::none(), ark: vec![], intermediate: vec![] };
        chain.ark = chain.sign(&chain.authority_parts("ARK-Milan", Signer::Root, 1), Signer::Root);
        chain.intermediate =
            chain.sign(&chain.authority_parts("SEV-Milan", Signer::Authority, 5), Signer::Root);
        chain.trust.unsafe_add_test(&chain.ark, &chain.intermediate).unwrap();
        chain
    }

    fn authority_parts(&self, subject: &str, key: Signer, serial: u8) -> CertificateParts {
        let rsa = seq(&[&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1], &[5, 0]]);
        let basic = critical(&[0x55, 0x1d, 0x13], &seq(&[&[1, 1, 0xff]]));
        CertificateParts {
            version: vec![0xa0, 3, 2, 1, 2],
            serial: vec![INTEGER, 1, serial],
            inner: pss(48),
            issuer: name("ARK-Milan"),
            validity: seq(&[&utc("200101000000Z"), &utc("450101000000Z")]),
            subject: name(subject),
            key: seq(&[&rsa, &bits(self.key(key).public_key().as_ref())]),
            extensions: vec![basic],
            outer: pss(48),
        }
    }

    fn key(&self, by: Signer) -> &RsaKey {
        match by {
            Signer::Root => &self.root,
            Signer::Authority => &self.authority,
        }
    }

    fn rsa(&self, body: &[u8], by: Signer) -> Vec<u8> {
        let signer = self.key(by);
        let mut signature = vec![0; signer.public_modulus_len()];
        signer.sign(&RSA_PSS_SHA384, &SystemRandom::new(), body, &mut signature).unwrap();
        bits(&signature)
    }

    /// Signs a certificate.
    pub fn sign(&self, parts: &CertificateParts, by: Signer) -> Vec<u8> {
        let body = parts.body();
        seq(&[&body, &parts.outer, &self.rsa(&body, by)])
    }

    /// The parts of a valid VCEK certificate.
    pub fn vek_parts(&self) -> CertificateParts {
        let number = |value: u8| if value < 0x80 { vec![2, 1, value] } else { vec![2, 2, 0, value] };
        let mut extensions = vec![
            extension(&amd(&[1]), &number(0)),
            extension(&amd(&[2]), &tlv(IA5, b"Milan-B0")),
            extension(&amd(&[4]), &[7; 64]),
        ];
        for (level, value) in [(1, 4), (2, 0), (4, 0), (5, 0), (6, 0), (7, 0), (3, 22), (8, 213)] {
            extensions.push(extension(&amd(&[3, level]), &number(value)));
        }
        let ec = seq(&[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1], &[6, 5, 0x2b, 0x81, 4, 0, 0x22]]);
        CertificateParts {
            version: vec![0xa0, 3, 2, 1, 2],
            serial: vec![INTEGER, 1, 0],
            inner: pss(48),
            issuer: name("SEV-Milan"),
            validity: seq(&[&utc("260101000000Z"), &utc("330101000000Z")]),
            subject: name("SEV-VCEK"),
            key: seq(&[&ec, &bits(self.vek.public_key().as_ref())]),
            extensions,
            outer: pss(48),
        }
    }

    /// The VCEK certificate with a change.
    pub fn vek(&self, change: impl FnOnce(&mut CertificateParts)) -> Vec<u8> {
        let mut parts = self.vek_parts();
        change(&mut parts);
        self.sign(&parts, Signer::Authority)
    }

    /// A revocation list with a change.
    pub fn crl(&self, by: Signer, change: impl FnOnce(&mut CrlParts)) -> Vec<u8> {
        let mut list = CrlParts {
            version: vec![INTEGER, 1, 1],
            inner: pss(48),
            issuer: name("ARK-Milan"),
            this_update: utc("261101000000Z"),
            next_update: utc("270101000000Z"),
            revoked: vec![entry(&[0x77], &[])],
            extensions: vec![extension(&[0x55, 0x1d, 0x14], &[INTEGER, 1, 3])],
        };
        change(&mut list);
        let body = list.body();
        seq(&[&body, &list.inner, &self.rsa(&body, by)])
    }

    /// A report with a change, signed after the change.
    pub fn report(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut report = vec![0; 1184];
        let put = |report: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            report[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(&mut report, 0, &[3]);
        put(&mut report, 8, &0x3_0000_u64.to_le_bytes());
        put(&mut report, 0x34, &[1]);
        for tcb in [0x38, 0x180, 0x1e0, 0x1f0] {
            put(&mut report, tcb, &[4, 0, 0, 0, 0, 0, 22, 213]);
        }
        put(&mut report, 0x188, &[0x19, 1, 1]);
        put(&mut report, 0x1a0, &[7; 64]);
        change(&mut report);
        let signature = self.vek.sign(&SystemRandom::new(), &report[..0x2a0]).unwrap();
        for (at, scalar) in [0x2a0, 0x2e8].into_iter().zip(signature.as_ref().chunks(48)) {
            let scalar: Vec<u8> = scalar.iter().rev().copied().collect();
            put(&mut report, at, &scalar);
        }
        report
    }

    /// The result of verification, with or without a revocation list.
    ///
    /// # Errors
    ///
    /// Why the evidence is refused.
    pub fn verify(
        &self,
        report: &[u8],
        vek: &[u8],
        crl: Option<&[u8]>,
        use_of: CrlUse,
    ) -> Result<Claims, Refusal> {
        let evidence = Evidence { report, vek: Some(vek), intermediate: None, crl };
        verify(&evidence, &self.trust, &Options { now: NOW, crl: use_of, masked_chip: false })
    }
}

// SPDX-License-Identifier: Apache-2.0
//! What a file for a certificate store is: a signing key's certificate, an authority's, or a revocation list;
//! and whether a trusted authority issued it.
//!
//! Signatures are verified, dates are reported: a store lists what has expired, and an import refuses it.

use cvmm_snp::tcb::TcbParts;

use crate::claims::{Product, SigningKey};
use crate::refusal::Refusal;
use crate::roots::Trust;
use crate::vek::Vek;
use crate::verify::issuer;
use crate::x509::{Certificate, Key, RevocationList};
use cvmm_reason::duration::Span;

/// A file that a trusted authority issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// The certificate of a key that signs reports.
    Key(KeyCertificate),
    /// One of the authorities that are trusted anyway, or their root.
    Authority(Product),
    /// A revocation list of a product's root.
    List(List),
}

/// A VCEK's or VLEK's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCertificate {
    /// The product.
    pub product: Product,
    /// The kind of key.
    pub kind: SigningKey,
    /// The TCB it is certified for.
    pub tcb: TcbParts,
    /// CHIP_ID of the chip: 64 bytes, or 8 from Turin on; `None` for a VLEK.
    pub chip: Option<Vec<u8>>,
    /// The cloud; `None` for a VCEK.
    pub csp_id: Option<String>,
    /// Seconds of Unix time.
    pub not_before: i64,
    /// Seconds of Unix time.
    pub not_after: i64,
}

impl KeyCertificate {
    /// Whether it is valid at `now`.
    pub fn check_time(&self, now: i64) -> Result<(), Refusal> {
        let what = "signing key";
        if now < self.not_before {
            return Err(Refusal::NotYetValid { what, seconds: Span(self.not_before.saturating_sub(now)) });
        }
        if now > self.not_after {
            return Err(Refusal::Expired { what, seconds: Span(now.saturating_sub(self.not_after)) });
        }
        Ok(())
    }
}

/// A revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The product whose root issued it.
    pub product: Product,
    /// When it was made, in seconds of Unix time.
    pub this_update: i64,
    /// When there is a newer one.
    pub next_update: Option<i64>,
    /// How many certificates it revokes.
    pub revoked: usize,
}

impl List {
    /// Whether it is current at `now`.
    pub fn check_time(&self, now: i64) -> Result<(), Refusal> {
        if now < self.this_update {
            return Err(Refusal::CrlFuture { seconds: Span(self.this_update.saturating_sub(now)) });
        }
        let overdue = now.saturating_sub(self.next_update.ok_or(Refusal::CrlUndated)?);
        if overdue > 0 { Err(Refusal::CrlStale { seconds: Span(overdue) }) } else { Ok(()) }
    }
}

/// Identifies DER bytes.
pub fn inspect(der: &[u8], trust: &Trust) -> Result<Inspected, Refusal> {
    match RevocationList::parse(der) {
        Ok(list) => inspect_list(&list, trust).map(Inspected::List),
        Err(_) => inspect_certificate(der, trust),
    }
}

fn inspect_list(list: &RevocationList<'_>, trust: &Trust) -> Result<List, Refusal> {
    let mut named =
        trust.authorities.iter().filter(|authority| authority.root_name == list.issuer).peekable();
    if named.peek().is_none() {
        return Err(Refusal::CrlIssuer);
    }
    let root = named.find(|authority| list.signed.is_by(&authority.root_key)).ok_or(Refusal::CrlSignature)?;
    Ok(List {
        product: root.product,
        this_update: list.this_update,
        next_update: list.next_update,
        revoked: list.revoked.len(),
    })
}

fn inspect_certificate(der: &[u8], trust: &Trust) -> Result<Inspected, Refusal> {
    let certificate =
        Certificate::parse(der).map_err(|_| Refusal::Vek { what: "it is not an X.509 certificate" })?;
    if matches!(certificate.key, Key::Rsa(_)) {
        // Authorities are pinned whole; of a root the name and the key are, and its own signature over the
        // rest.
        let known = trust.authorities.iter().find(|authority| {
            authority.der == der
                || (authority.root_name == certificate.subject
                    && certificate.key == Key::Rsa(&authority.root_key)
                    && certificate.signed.is_by(&authority.root_key))
        });
        return known.map(|authority| Inspected::Authority(authority.product)).ok_or(Refusal::Intermediate);
    }
    let vek = Vek::parse(der)?;
    issuer(&vek, None, trust)?;
    Ok(Inspected::Key(KeyCertificate {
        product: vek.product,
        kind: vek.kind,
        tcb: vek.tcb,
        chip: vek.hwid.map(<[u8]>::to_vec),
        csp_id: vek.csp_id.map(str::to_owned),
        not_before: vek.certificate.not_before,
        not_after: vek.certificate.not_after,
    }))
}

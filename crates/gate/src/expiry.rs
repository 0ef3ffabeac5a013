// SPDX-License-Identifier: Apache-2.0
//! When certificates and revocation lists expire: those in the store and those of `[tls]`. The gate fetches
//! nothing, so the operator has to know in time: there is a metric per kind, and a warning from
//! [`WARN_BEFORE`] on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cvmm_attest::roots::Trust;
use cvmm_tls_files::certificates;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode as _;

use crate::files;
use crate::store::certificates::list::list;
use crate::tls::Settings;

/// Seconds before the end from which the gate warns.
pub const WARN_BEFORE: i64 = 30 * DAY;
const DAY: i64 = 86_400;
const MAX_CRL: u64 = 1 << 20;

/// When a file expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// `vcek`, `vlek`, `crl-vcek`, `crl-vlek`, `tls`, `tls-client-ca` or `tls-client-crl`.
    pub kind: &'static str,
    /// The file.
    pub file: PathBuf,
    /// Unix time when a certificate expires, or a list is overdue.
    pub until: i64,
}

/// Scans the store in the folder `certificates` and the files of `[tls]`.
#[must_use]
pub fn scan(certificates: &Path, tls: Option<&Settings>, trust: &Trust, now: i64) -> Vec<Expiry> {
    let mut found = Vec::new();
    match list(certificates, trust, now) {
        Ok(stored) => found.extend(stored.into_iter().filter_map(|entry| {
            let crl =
                || if entry.file.to_string_lossy().ends_with("-vlek.der") { "crl-vlek" } else { "crl-vcek" };
            let kind = match entry.what? {
                "crl" => crl(),
                kind => kind,
            };
            Some(Expiry { kind, until: entry.until?, file: certificates.join(entry.file) })
        })),
        Err(error) => tracing::warn!("cannot check when certificates expire: {error}"),
    }
    if let Some(tls) = tls {
        for (kind, path) in [("tls", &tls.certificate), ("tls-client-ca", &tls.client_ca)] {
            found.extend(ends(path).into_iter().map(|until| Expiry { kind, file: path.clone(), until }));
        }
        if let Some(path) = &tls.client_crl {
            let ends = list_ends(path).into_iter();
            found.extend(ends.map(|until| Expiry { kind: "tls-client-crl", file: path.clone(), until }));
        }
    }
    found
}

/// When the certificates in a PEM file expire. A file that cannot be read is refused elsewhere.
fn ends(path: &Path) -> Vec<i64> {
    let end = |der: &[u8]| {
        let certificate = Certificate::from_der(der).ok()?;
        i64::try_from(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs()).ok()
    };
    certificates(path).unwrap_or_default().iter().filter_map(|der| end(der)).collect()
}

/// When the revocation lists in a PEM file are overdue.
fn list_ends(path: &Path) -> Vec<i64> {
    let Ok(bytes) = files::read(path, MAX_CRL) else { return Vec::new() };
    let end = |der: CertificateRevocationListDer<'_>| {
        let list = CertificateList::from_der(&der).ok()?;
        i64::try_from(list.tbs_cert_list.next_update?.to_unix_duration().as_secs()).ok()
    };
    CertificateRevocationListDer::pem_slice_iter(&bytes).filter_map(|der| end(der.ok()?)).collect()
}

/// Of each kind, when the first one expires.
#[must_use]
pub fn first(found: &[Expiry]) -> BTreeMap<&'static str, i64> {
    let mut first = BTreeMap::new();
    for Expiry { kind, until, .. } in found {
        first.entry(*kind).and_modify(|least: &mut i64| *least = (*least).min(*until)).or_insert(*until);
    }
    first
}

/// A sentence per kind that has something that has expired, or soon will.
#[must_use]
pub fn warnings(found: &[Expiry], now: i64) -> Vec<String> {
    let mut soon: BTreeMap<&str, Vec<&Expiry>> = BTreeMap::new();
    for expiry in found.iter().filter(|expiry| expiry.until.saturating_sub(now) < WARN_BEFORE) {
        soon.entry(expiry.kind).or_default().push(expiry);
    }
    let sentence = |(kind, mut files): (&str, Vec<&Expiry>)| {
        files.sort_by_key(|expiry| expiry.until);
        let Expiry { file, until, .. } = files.first()?;
        let left = until.saturating_sub(now);
        let (verb, past) =
            if kind.contains("crl") { ("is overdue", "overdue") } else { ("expires", "expired") };
        let when = if left < 0 {
            format!("has been {past} for {} days", left.saturating_neg() / DAY)
        } else {
            format!("{verb} in {} days", left / DAY)
        };
        let more = match files.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more of this kind within 30 days"),
        };
        Some(format!(
            "{kind}: {} {when}{more}; docs/guide/gate-certificates.md explains how to replace it",
            file.display()
        ))
    };
    soon.into_iter().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_warning_per_kind_that_expires_within_thirty_days() {
        let expiry = |kind, file: &str, until| Expiry { kind, file: PathBuf::from(file), until };
        let now = 1_000 * DAY;
        let found = [
            expiry("vcek", "a", now + 29 * DAY + 5),
            expiry("vcek", "b", now + 3 * DAY),
            expiry("vcek", "c", now + 31 * DAY),
            expiry("crl-vcek", "d", now - 2 * DAY),
            expiry("tls", "e", now + WARN_BEFORE),
        ];
        let warned = warnings(&found, now);
        assert_eq!(warned.len(), 2, "{warned:?}");
        assert!(warned[0].starts_with("crl-vcek: d has been overdue for 2 days; "), "{warned:?}");
        assert!(warned[1].starts_with("vcek: b expires in 3 days, and 1 more of this kind"), "{warned:?}");
        assert!(warnings(&found, now - 100 * DAY).is_empty());
        assert_eq!(first(&found)["vcek"], now + 3 * DAY);
        assert_eq!(first(&found).len(), 3);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! TLS 1.3 with a certificate on both sides, for VMMs on other machines.
//!
//! A client has to have a certificate of one of the authorities in `client_ca` that is valid now and has a
//! name with a `[[client]]`. There are no session tickets and no early data, so that the certificate is
//! verified for each connection.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cvmm_attest::encoding;
use cvmm_tls_files::{TlsFileError, certificates, private_key, roots};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, version};
use serde::Deserialize;
use thiserror::Error;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::files::{self, FileError};

/// Longest revocation list in bytes.
const MAX_CRL: u64 = 1 << 20;

/// `[tls]` of gate.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address and port to listen at.
    pub listen: SocketAddr,
    /// The gate's certificate, followed by intermediate ones, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, readable by the gate's user only.
    pub key: PathBuf,
    /// Authorities of clients' certificates, PEM.
    pub client_ca: PathBuf,
    /// Lists of revoked certificates of those authorities, PEM.
    pub client_crl: Option<PathBuf>,
    /// From earlier gates; refused, since `[[client]]` says what a client may ask.
    pub(crate) clients: Option<toml::Value>,
}

/// Why `[tls]` cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    Content(#[from] TlsFileError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The revocation list.
    #[error("{0} is not a certificate revocation list in PEM")]
    Crl(PathBuf),
    /// The files do not fit together.
    #[error("[tls] of gate.toml: {0}")]
    Setup(String),
}

impl Settings {
    /// Every path in it.
    pub fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { listen: _, certificate, key, client_ca, client_crl, clients: _ } = self;
        [certificate, key, client_ca].into_iter().chain(client_crl)
    }

    /// Reads the files.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let setup = |error: &dyn std::fmt::Display| TlsError::Setup(error.to_string());
        let authorities = Arc::new(roots(&self.client_ca)?);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(authorities, Arc::clone(&provider));
        if let Some(path) = &self.client_crl {
            // An old list says nothing about who was revoked since.
            verifier = verifier.with_crls(crls(path)?).enforce_revocation_expiration();
        }
        let verifier = verifier.build().map_err(|error| setup(&error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| setup(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&self.certificate)?, private_key(&self.key)?)
            .map_err(|error| setup(&error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = files::read(path, MAX_CRL)?;
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&encoding::text(&bytes))
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Crl(path.to_owned()))?;
    if lists.is_empty() { Err(TlsError::Crl(path.to_owned())) } else { Ok(lists) }
}

/// The names in a certificate: DNS names and URIs of its subject alternative name, or, without that
/// extension, its common name (RFC 6125, 6.4.4). Its signature has been verified.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let certificate = certificate.tbs_certificate;
    match certificate.get::<SubjectAltName>() {
        Ok(Some((_, SubjectAltName(names)))) => names
            .into_iter()
            .filter_map(|name| match name {
                GeneralName::DnsName(name) => Some(name.to_string()),
                GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
                _ => None,
            })
            .collect(),
        Ok(None) => {
            let attributes = certificate.subject.0.iter().flat_map(|name| name.0.iter());
            attributes
                .filter(|attribute| attribute.oid == COMMON_NAME)
                .filter_map(|attribute| {
                    let value = &attribute.value;
                    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.to_string());
                    utf8.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.to_string()))
                        .ok()
                })
                .collect()
        }
        Err(_) => Vec::new(),
    }
}

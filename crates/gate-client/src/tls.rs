// SPDX-License-Identifier: Apache-2.0
//! TLS 1.3 to the gate: its certificate has to be of the given authority and for the given name, and ours is shown to it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmm_attest::encoding;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::deadline::{Timed, left};

/// Bytes of a PEM file, at most: a chain of certificates.
const MAX_FILE: u64 = 64 << 10;

/// Why the files of a connection cannot be used.
#[derive(Debug, Error)]
pub enum TlsFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "{path} has mode {mode:o} and owner {owner}: a private key has to be its user's alone (chmod 600, chown)"
    )]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// Its content.
    #[error("{path} {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It is no name that a certificate can have.
    #[error("{0:?} is neither a host's name nor an address")]
    Name(String),
}

/// A gate behind TLS.
#[derive(Clone)]
pub struct Tls {
    host: String,
    port: u16,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({self})")
    }
}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "tls://[{host}]:{port}") } else { write!(f, "tls://{host}:{port}") }
    }
}

/// PEM files of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The authorities that the other side's certificate may be of.
    pub ca: &'a Path,
    /// Our certificate, with those between it and its authority after it.
    pub certificate: &'a Path,
    /// Its private key.
    pub key: &'a Path,
}

impl Tls {
    /// The gate called `host` (a name or an address), with certificates from `files`.
    pub fn new(host: &str, port: u16, files: Files<'_>) -> Result<Self, TlsFileError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsFileError::Name(host.to_owned()))?;
        let roots = roots(files.ca)?;
        let content = |problem: String| TlsFileError::Content { path: files.key.to_owned(), problem };
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| content(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(files.certificate)?, private_key(files.key)?)
            .map_err(|error| content(unfit(&error)))?;
        // Nothing is kept from one connection to the next.
        config.resumption = Resumption::disabled();
        Ok(Self { host: host.to_owned(), port, name, config: Arc::new(config) })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Makes `stream` a TLS stream by `deadline`.
    pub(crate) fn handshake(&self, stream: TcpStream, deadline: Instant) -> io::Result<TlsStream> {
        let connection =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        let mut stream = TlsStream(StreamOwned::new(connection, Bounded { stream, deadline }));
        let StreamOwned { conn, sock } = &mut stream.0;
        while conn.is_handshaking() {
            left(deadline)?;
            conn.complete_io(sock)?;
        }
        Ok(stream)
    }
}

/// What rustls says of a key that does not belong to its certificate.
fn unfit(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "is not the key of the certificate".to_owned(),
        other => format!("or its certificate cannot be used: {other}"),
    }
}

/// The certificates in a PEM file as authorities.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsFileError::Content {
            path: path.to_owned(),
            problem: format!("has a certificate that is no authority's: {error}"),
        })?;
    }
    Ok(roots)
}

/// The certificates in a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let content =
        |problem: &str| TlsFileError::Content { path: path.to_owned(), problem: problem.to_owned() };
    let (bytes, _) = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&encoding::text(&bytes))
        .collect::<Result<_, _>>()
        .map_err(|_| content("is no valid PEM file"))?;
    if certificates.is_empty() {
        return Err(content("has no certificate"));
    }
    Ok(certificates)
}

/// The private key in a PEM file that only this process's user may read.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let (bytes, metadata) = read(path)?;
    let own = std::fs::metadata("/proc/self")
        .map_err(|source| TlsFileError::Read { path: path.to_owned(), source })?
        .uid();
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 || owner != own {
        return Err(TlsFileError::Exposed { path: path.to_owned(), mode, owner });
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| TlsFileError::Content {
        path: path.to_owned(),
        problem: "has no private key that is not encrypted".to_owned(),
    })
}

/// Whether its owner and mode are those of the file that was read: another may be there a moment later.
fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, std::fs::Metadata), TlsFileError> {
    let failed = |source| TlsFileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    // As much as there can be, so that no copy of a key is left where a smaller buffer was.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(io::Error::other(format!("it has more than {MAX_FILE} bytes"))));
    }
    Ok((bytes, metadata))
}

/// A TLS stream whose waits are limited.
#[derive(Debug)]
pub struct TlsStream(StreamOwned<ClientConnection, Bounded>);

impl TlsStream {
    pub(crate) fn is_over(&mut self) -> bool {
        let StreamOwned { conn, sock } = &mut self.0;
        if sock.stream.set_nonblocking(true).is_err() {
            return true;
        }
        let read = conn.read_tls(&mut sock.stream);
        if sock.stream.set_nonblocking(false).is_err() {
            return true;
        }
        match read {
            // The end.
            Ok(0) => true,
            Ok(_) => conn
                .process_new_packets()
                .map_or(true, |state| state.peer_has_closed() || state.plaintext_bytes_to_read() > 0),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

impl Read for TlsStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for TlsStream {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Timed for TlsStream {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        self.0.sock.deadline = Instant::now() + left;
        Ok(())
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        self.limit_read(left)
    }
}

/// A socket with a deadline: a record of TLS may take many reads, of which each is short.
#[derive(Debug)]
struct Bounded {
    stream: TcpStream,
    deadline: Instant,
}

/// To rustls, "would block" is a socket that does not block.
fn in_time<T>(result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    })
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        in_time(self.stream.read(into))
    }
}

impl Write for Bounded {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        in_time(self.stream.write(from))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// What a failure of TLS means to whoever set it up.
pub(crate) fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(problem) => format!(
            "its certificate is not accepted: {problem}; is gate.ca its authority, and is the name in gate.url the certificate's?"
        ),
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied),
        ) => format!("the gate does not accept our certificate (gate.client_certificate): {alert:?}"),
        rustls::Error::AlertReceived(alert) => format!("the other side gave up: {alert:?}"),
        other => format!("{other}; is it a cvmm-gate with [tls]?"),
    }
}

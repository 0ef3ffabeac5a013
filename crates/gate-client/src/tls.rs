// SPDX-License-Identifier: Apache-2.0
//! TLS 1.3 to the gate: its certificate has to be issued by the given authority for the given name, and ours
//! is presented to it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmm_tls_files::{TlsFileError, certificates, private_key, roots};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, StreamOwned, crypto::aws_lc_rs};
use thiserror::Error;

use crate::deadline::{StreamTimeouts, left};

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsSetupError {
    /// A file.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// A name that no certificate can have.
    #[error("{0:?} is neither a host name nor an address")]
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
    /// The authorities that may issue the gate's certificate.
    pub ca: &'a Path,
    /// Our certificate, followed by those between it and its authority.
    pub certificate: &'a Path,
    /// Its private key.
    pub key: &'a Path,
}

impl Tls {
    /// The gate called `host` (a name or an address), with certificates from `files`.
    pub fn new(host: &str, port: u16, files: Files<'_>) -> Result<Self, TlsSetupError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsSetupError::Name(host.to_owned()))?;
        let roots = roots(files.ca)?;
        let content = |problem: String| TlsFileError::Content { path: files.key.to_owned(), problem };
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| content(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(files.certificate)?, private_key(files.key)?)
            .map_err(|error| content(unfit(&error)))?;
        // No state is carried from one connection to the next.
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
        let mut stream = TlsStream(StreamOwned::new(connection, DeadlineSocket { stream, deadline }));
        let StreamOwned { conn, sock } = &mut stream.0;
        while conn.is_handshaking() {
            left(deadline)?;
            conn.complete_io(sock)?;
        }
        Ok(stream)
    }
}

/// Explains why rustls refuses a key and its certificate.
fn unfit(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => "does not match the certificate".to_owned(),
        other => format!("or its certificate cannot be used: {other}"),
    }
}

/// A TLS stream whose waits are limited.
#[derive(Debug)]
pub struct TlsStream(StreamOwned<ClientConnection, DeadlineSocket>);

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

impl StreamTimeouts for TlsStream {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        self.0.sock.deadline = Instant::now() + left;
        Ok(())
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        self.limit_read(left)
    }
}

/// A socket with a deadline: a TLS record may take many short reads.
#[derive(Debug)]
struct DeadlineSocket {
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

impl Read for DeadlineSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        in_time(self.stream.read(into))
    }
}

impl Write for DeadlineSocket {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        in_time(self.stream.write(from))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Explains a failure of TLS to the operator.
pub(crate) fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(problem) => format!(
            "the gate's certificate is rejected: {problem}; check that gate.ca issued it and that it has the name in gate.url"
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
        ) => format!("the gate rejects our certificate (gate.client_certificate): {alert:?}"),
        rustls::Error::AlertReceived(alert) => format!("the gate aborted the handshake: {alert:?}"),
        other => format!("{other}; check that it is a cvmm-gate with [tls]"),
    }
}

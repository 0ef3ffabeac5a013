// SPDX-License-Identifier: Apache-2.0
//! Ways to the gate: a Unix socket, or TLS 1.3 over TCP with a certificate on both sides.
//!
//! TLS keeps requests confidential and admits known clients only. It has no part in a launch's verdict: only
//! the ticket's signature counts, whichever way it came. Every step has a deadline: looking up the name,
//! connecting, the handshake and each frame.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::deadline::{StreamTimeouts, left, timed_out};
use crate::frame::FrameError;
use crate::tls::{Tls, TlsStream};

/// Name lookups at a time: one that hangs continues after its deadline, in a thread of its own.
const MAX_LOOKUPS: usize = 32;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// No connection.
    #[error(
        "cannot reach the gate at {at}: {source}; check that cvmm-gate is running and that this user may connect"
    )]
    Unreachable {
        /// Where.
        at: String,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Connected, and the TLS handshake failed.
    #[error("TLS handshake with the gate at {at} failed: {source}")]
    Handshake {
        /// Where.
        at: String,
        /// What happened.
        #[source]
        source: FrameError,
    },
}

/// Where the gate is.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// TLS over TCP.
    Tls(Tls),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tls(tls) => tls.fmt(f),
        }
    }
}

impl From<PathBuf> for Endpoint {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl Endpoint {
    /// Connects by `deadline`.
    pub fn connect(&self, deadline: Instant) -> Result<Connection, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { at: self.to_string(), source };
        match self {
            Self::Unix(path) => connect_unix(path, deadline).map(Connection::Unix).map_err(unreachable),
            Self::Tls(tls) => {
                let stream = connect_tcp(tls.host(), tls.port(), deadline).map_err(unreachable)?;
                tls.handshake(stream, deadline)
                    .map(|stream| Connection::Tls(Box::new(stream)))
                    .map_err(|error| ConnectError::Handshake { at: self.to_string(), source: error.into() })
            }
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub enum Connection {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TLS.
    Tls(Box<TlsStream>),
}

impl Connection {
    /// Whether the gate has closed it, or sent something without a request. Does not wait.
    pub fn is_over(&mut self) -> bool {
        match self {
            Self::Unix(stream) => {
                let mut byte = [0];
                let read = stream.set_nonblocking(true).and_then(|()| stream.read(&mut byte));
                let over = !matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
                over || stream.set_nonblocking(false).is_err()
            }
            Self::Tls(stream) => stream.is_over(),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(from),
            Self::Tls(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl StreamTimeouts for Connection {
    fn limit_read(&mut self, left: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.limit_read(left),
            Self::Tls(stream) => stream.limit_read(left),
        }
    }

    fn limit_write(&mut self, left: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.limit_write(left),
            Self::Tls(stream) => stream.limit_write(left),
        }
    }
}

/// An ordinary connect waits as long as the queue of a gate that has stopped accepting is full. A limit on
/// writes limits it too (unix(7) does not say so, connect(2) and socket(7) do).
fn connect_unix(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(left(deadline)?))?;
    socket.connect(&SockAddr::unix(path)?).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => timed_out(),
        _ => error,
    })?;
    Ok(UnixStream::from(OwnedFd::from(socket)))
}

fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let addresses = lookup(host, port, deadline)?;
    let mut failed = io::Error::other("the name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        // An address that does not answer leaves time for the next.
        let share = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(address, (left(deadline)? / share).max(Duration::from_millis(1))) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The addresses of `host`. The system's resolver has no deadline, so it runs in a thread of its own.
fn lookup(host: &str, port: u16, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    struct LookupSlot;
    impl Drop for LookupSlot {
        fn drop(&mut self) {
            RUNNING.fetch_sub(1, Ordering::Relaxed);
        }
    }

    if let Ok(address) = host.parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let running = (RUNNING.fetch_add(1, Ordering::Relaxed), LookupSlot);
    if running.0 >= MAX_LOOKUPS {
        return Err(io::Error::other("too many names are being looked up already"));
    }
    let (sender, receiver) = mpsc::channel();
    let host = host.to_owned();
    thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        let _running = running;
        let found = (host.as_str(), port).to_socket_addrs().map(|addresses| addresses.take(16).collect());
        let _ = sender.send(found); // fails if the caller has timed out
    })?;
    receiver.recv_timeout(left(deadline)?).map_err(|_| timed_out())?
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_full_queue_is_waited_for_until_the_deadline_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let endpoint = Endpoint::Unix(path);
        let connect = || endpoint.connect(Instant::now() + Duration::from_millis(200));
        let mut open = Vec::new();
        let error = loop {
            let began = Instant::now();
            match connect() {
                Ok(connection) => open.push(connection),
                Err(error) => {
                    assert!(began.elapsed() < Duration::from_secs(2), "the deadline was not kept");
                    break error;
                }
            }
            assert!(open.len() < 10, "the queue has no end");
        };
        assert!(
            matches!(error, ConnectError::Unreachable { source, .. } if source.kind() == io::ErrorKind::TimedOut)
        );
    }

    #[test]
    fn names_and_addresses_are_looked_up() {
        let soon = || Instant::now() + Duration::from_secs(5);
        assert_eq!(lookup("127.0.0.1", 9, soon()).unwrap(), ["127.0.0.1:9".parse().unwrap()]);
        assert_eq!(lookup("::1", 9, soon()).unwrap(), ["[::1]:9".parse().unwrap()]);
        assert!(lookup("localhost", 9, soon()).unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(lookup("no-such-host.invalid", 9, soon()).is_err());
        assert_eq!(lookup("localhost", 9, Instant::now()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_closed_port_refuses_the_connection() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = connect_tcp("127.0.0.1", port, Instant::now() + Duration::from_secs(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn the_end_is_noticed() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut connection = Connection::Unix(a);
        assert!(!connection.is_over());
        (&b).write_all(b"x").unwrap();
        assert!(connection.is_over(), "data without a request");
        drop(b);
        assert!(connection.is_over());
    }
}

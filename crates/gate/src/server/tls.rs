// SPDX-License-Identifier: Apache-2.0
//! Connections over TLS: a handshake that is over in time, a client that may ask, and then a session like any other.
//!
//! A client whose certificate is not accepted hears of it from TLS (an alert), one whose name is not among the allowed from a denial.
//! Both are read to their end before the connection is closed: TCP throws away what was said to somebody whose own words are not read.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cvmm_gate_protocol::messages::{Denied, Response};
use cvmm_reason::Reason;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::places::Taken;
use super::session;
use crate::clients::{Client, Clients};
use crate::engine::{Engine, Session};
use crate::tls::{self, Settings, TlsError};

/// Clients that are told at a time that all places are taken; others are only cut off.
const TOLD: usize = 8;
/// How much of somebody who is turned away is read: a frame, and what TLS adds.
const REST: u64 = 128 << 10;

/// Where to listen, and how.
#[derive(Debug)]
pub struct TlsListener {
    pub(super) socket: std::net::TcpListener,
    pub(super) tls: Arc<Tls>,
}

/// What each connection needs.
#[derive(Debug)]
pub(super) struct Tls {
    settings: Settings,
    config: RwLock<Arc<ServerConfig>>,
    told: Semaphore,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The settings or their files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The socket.
    #[error("cannot listen at {0}: {1}")]
    Bind(SocketAddr, #[source] std::io::Error),
}

/// Makes the socket for [`super::Listeners::tls`].
pub fn bind_tls(settings: &Settings) -> Result<TlsListener, ListenError> {
    let tls =
        Tls { settings: settings.clone(), config: RwLock::new(settings.load()?), told: Semaphore::new(TOLD) };
    let bind = || {
        let socket = std::net::TcpListener::bind(settings.listen)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = bind().map_err(|error| ListenError::Bind(settings.listen, error))?;
    Ok(TlsListener { socket, tls: Arc::new(tls) })
}

impl TlsListener {
    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl Tls {
    /// Reads certificates and keys again; bad ones change nothing. Connections keep theirs.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        let config = self.settings.load()?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The stream after the handshake, and the client.
    async fn accept(
        &self,
        engine: &Engine,
        clients: &Clients,
        stream: TcpStream,
        wait: Duration,
    ) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, Arc<Client>)> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let _ = stream.set_nodelay(true);
        let mut stream = match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                engine.metrics().turned_away();
                cvmm_log_limit::warn!(%error, "a TLS handshake failed");
                linger(stream, wait).await;
                return None;
            }
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = certificate.map(tls::names).unwrap_or_default();
        match clients.of_names(&names) {
            Some(client) => Some((stream, client)),
            None => {
                engine.metrics().turned_away();
                let names: String = names.join(", ").chars().take(200).collect();
                cvmm_log_limit::warn!(code = "gate.peer", ?names, "a connection was turned away");
                let reason = Reason::new(
                    "gate.peer",
                    format!("no [[client]] of gate.toml has a name of this certificate ({names})"),
                );
                tell(&mut stream, reason, wait).await;
                None
            }
        }
    }
}

/// Serves `stream` as long as [`session::connection`] would.
pub(super) async fn connection(
    engine: Arc<Engine>,
    (tls, clients): (Arc<Tls>, Arc<Clients>),
    place: Taken,
    stream: TcpStream,
    wait: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let accepted = tokio::select! {
        accepted = timeout(wait, tls.accept(&engine, &clients, stream, wait)) => accepted,
        () = place.lost() => return,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match accepted {
        Ok(Some((stream, client))) => {
            tracing::debug!(client = client.name(), "connected over TLS");
            session::connection(engine, Session::new(client), place, stream, wait, stop).await;
        }
        Ok(None) => {}
        Err(_) => {
            engine.metrics().turned_away();
            cvmm_log_limit::warn!("a TLS handshake was not over in time");
        }
    }
}

/// Tells a client that may ask, but not now, if not too many are being told already.
pub(super) async fn busy(
    engine: Arc<Engine>,
    (tls, clients): (Arc<Tls>, Arc<Clients>),
    stream: TcpStream,
    wait: Duration,
) {
    let Ok(_permit) = tls.told.try_acquire() else { return };
    let told = async {
        if let Some((mut stream, _)) = tls.accept(&engine, &clients, stream, wait).await {
            tell(&mut stream, Reason::new("gate.busy", super::BUSY), wait).await;
        }
    };
    let _ = timeout(wait, told).await;
}

async fn tell(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), reason: Reason, wait: Duration) {
    let denied = Response::Denied(Denied { reasons: vec![reason] });
    if session::write(stream, &denied, wait).await.is_ok() {
        linger(stream, wait).await;
    }
}

/// Says no more, and reads what the other side had to say until it closes.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, wait: Duration) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REST), &mut tokio::io::sink()).await
    };
    let _ = timeout(wait.min(Duration::from_secs(1)), rest).await;
}

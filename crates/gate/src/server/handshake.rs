// SPDX-License-Identifier: Apache-2.0
//! Connections over TLS: a handshake with a time limit, a client that may ask, and then a session like any
//! other.
//!
//! A client whose certificate is not accepted is told by TLS (an alert), one whose name has no `[[client]]`
//! by a denial. In both cases the connection is read to its end before it is closed: TCP discards what was
//! sent to a peer whose data is not read.
//!
//! A peer that has not completed its handshake has not shown who it is. It has a slot among handshakes only,
//! and takes none of those of clients before it has.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cvmm_gate_protocol::messages::{Denial, Response};
use cvmm_reason::Reason;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection;
use super::slots::{ConnectionSlots, SlotGuard};
use crate::clients::{Client, Clients};
use crate::engine::{Engine, Session};
use crate::reasons::Code;
use crate::tls::{self, Settings, TlsError};

/// How much is read from a client that is refused: a frame, and what TLS adds.
const REST: u64 = 128 << 10;

/// A listening socket, and what connections to it need.
#[derive(Debug)]
pub struct TlsListener {
    pub(super) socket: std::net::TcpListener,
    pub(super) tls: Arc<Tls>,
}

/// The settings of `[tls]` and the certificates that were read last.
#[derive(Debug)]
pub(super) struct Tls {
    settings: Settings,
    config: RwLock<Arc<ServerConfig>>,
}

/// Why the gate cannot listen.
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
    let tls = Tls { settings: settings.clone(), config: RwLock::new(settings.load()?) };
    let bind = || {
        let socket = std::net::TcpListener::bind(settings.listen)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = bind().map_err(|error| ListenError::Bind(settings.listen, error))?;
    Ok(TlsListener { socket, tls: Arc::new(tls) })
}

impl TlsListener {
    /// The address that it listens on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl Tls {
    /// Reads certificates and keys again; invalid ones change nothing. Open connections keep theirs.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        let config = self.settings.load()?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Completes the handshake; `None` if the peer is refused.
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
                cvmm_log_limit::warn!(code = Code::GatePeer.name(), ?names, "a connection was turned away");
                let message = format!("no [[client]] of gate.toml has a name of this certificate ({names})");
                tell(&mut stream, Code::GatePeer.reason(message), wait).await;
                None
            }
        }
    }
}

/// What connections share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) tls: Arc<Tls>,
    pub(super) clients: Arc<Clients>,
    /// Of clients.
    pub(super) slots: Arc<ConnectionSlots>,
}

/// Serves `stream` as long as [`connection::serve`] would. `handshake` is a slot for the time until the
/// client has shown who it is.
pub(super) async fn connection(
    engine: Arc<Engine>,
    Context { tls, clients, slots }: Context,
    handshake: SlotGuard,
    stream: TcpStream,
    wait: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let accepted = tokio::select! {
        accepted = timeout(wait, tls.accept(&engine, &clients, stream, wait)) => accepted,
        () = handshake.evicted() => return,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match accepted {
        Ok(Some((mut stream, client))) => {
            tracing::debug!(client = client.name(), "connected over TLS");
            let Some((slot, full)) = slots.take() else {
                engine.metrics().turned_away();
                cvmm_log_limit::warn!(code = Code::GateBusy.name(), "a connection was turned away");
                tokio::select! {
                    () = tell(&mut stream, super::busy(), wait) => {}
                    () = handshake.evicted() => {}
                }
                return;
            };
            drop(handshake);
            if full {
                engine.metrics().evicted();
            }
            connection::serve(engine, Session::new(client), slot, stream, wait, stop).await;
        }
        Ok(None) => {}
        Err(_) => {
            engine.metrics().turned_away();
            cvmm_log_limit::warn!("a TLS handshake was not completed in time");
        }
    }
}

async fn tell(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), reason: Reason, wait: Duration) {
    let denied = Response::Denial(Denial { reasons: vec![reason] });
    if connection::write(stream, &denied, wait).await.is_ok() {
        linger(stream, wait).await;
    }
}

/// Ends the own side of the connection, and reads the rest of the other side until it closes.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, wait: Duration) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REST), &mut tokio::io::sink()).await
    };
    let _ = timeout(wait.min(Duration::from_secs(1)), rest).await;
}

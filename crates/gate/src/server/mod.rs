// SPDX-License-Identifier: Apache-2.0
//! The sockets: who may connect, how many, and how long they may be silent.
//!
//! A connection is a session. Its messages are answered one after the other on a pool of threads, since an
//! answer takes a signature and a write to the disk. Silent connections, however many, keep no client out
//! (module `slots`).

mod connection;
mod handshake;
mod rcar;
mod slots;
mod status;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cvmm_gate_protocol::messages::{Denial, Response};
use cvmm_reason::Reason;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::handshake::{ListenError, TlsListener, bind_tls};
use self::slots::ConnectionSlots;
use crate::audit::budget::INTERVAL;
use crate::clients::{Client, Clients};
use crate::engine::{Engine, Session};
use crate::reasons::Code;

/// Pause after an error of `accept`, which is mostly a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(20);
/// How long launches in progress may take once the gate is told to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Time between two checks of what expires. What is imported is noticed by the next one.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);
/// Checks from one warning to the next.
const CHECKS_PER_WARNING: u32 = 24;

/// What a running server can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Read the policies and the files of `[tls]` again.
    Reload,
    /// Stop: no new connections, and launches in progress have five seconds.
    Stop,
}

/// The signals of this process: SIGHUP reloads, SIGTERM and SIGINT stop.
pub fn signals() -> io::Result<mpsc::Receiver<Control>> {
    let (mut term, mut int, mut hup) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let control = tokio::select! {
                _ = term.recv() => Control::Stop,
                _ = int.recv() => Control::Stop,
                _ = hup.recv() => Control::Reload,
            };
            if sender.send(control).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The listening sockets.
#[derive(Debug)]
pub struct Listeners {
    /// The gate's protocol.
    pub socket: std::os::unix::net::UnixListener,
    /// The gate's protocol over TLS.
    pub tls: Option<TlsListener>,
    /// `/metrics` and `/healthz`.
    pub status: Option<std::net::TcpListener>,
    /// RCAR.
    pub rcar: Option<std::net::TcpListener>,
}

/// Creates the Unix socket. An existing one is removed if no process listens on it.
pub fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it"));
    }
    match fs::symlink_metadata(path) {
        Ok(about) if about.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file of this name exists and is not a socket",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    // All users may connect; those that may not ask are told so.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Creates the socket for [`Listeners::status`] or [`Listeners::rcar`].
pub fn bind_tcp(at: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn busy() -> Reason {
    Code::GateBusy.reason("too many launches in progress; try again later")
}

/// Serves until it is told to stop.
pub async fn serve(
    engine: Arc<Engine>,
    listeners: Listeners,
    mut control: mpsc::Receiver<Control>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listeners.socket)?;
    let limits = engine.config().limits;
    let slots = ConnectionSlots::new(limits.connections);
    let handshakes = ConnectionSlots::new(limits.connections);
    let own = rustix::process::geteuid().as_raw();
    let clients = Arc::new(Clients::new(&engine.config().clients, own));
    let expiry = tokio::spawn(watch_expiry(Arc::clone(&engine)));
    let (stop, stopped) = watch::channel(false);
    let mut sessions = JoinSet::new();
    let status = match listeners.status {
        Some(listener) => {
            let state = status::State { engine: Arc::clone(&engine), slots: Arc::clone(&slots) };
            Some(tokio::spawn(status::serve(TcpListener::from_std(listener)?, Arc::new(state))))
        }
        None => None,
    };
    let (tls_listener, tls) = match listeners.tls {
        Some(listener) => (Some(TcpListener::from_std(listener.socket)?), Some(listener.tls)),
        None => (None, None),
    };
    let rcar = match (listeners.rcar, engine.rcar_config()) {
        (Some(listener), Some(config)) => {
            let state = rcar::State::new(Arc::clone(&engine), config.connections, limits.message_s);
            Some(tokio::spawn(rcar::serve(TcpListener::from_std(listener)?, Arc::new(state))))
        }
        _ => None,
    };
    let mut omitted = tokio::time::interval(INTERVAL / 2);
    loop {
        tokio::select! {
            _ = omitted.tick() => {
                let engine = Arc::clone(&engine);
                // Not awaited: at most it writes a line.
                tokio::task::spawn_blocking(move || engine.report_omitted());
            }
            command = control.recv() => match command {
                Some(Control::Reload) => reload(&engine, tls.as_ref()).await,
                Some(Control::Stop) | None => break,
            },
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(client) = client(&clients, &stream) else {
                        engine.metrics().turned_away();
                        let message = "no [[client]] of gate.toml has this user's uid";
                        turn_away(&stream, Code::GatePeer.reason(message));
                        continue;
                    };
                    let Some((slot, full)) = slots.take() else {
                        engine.metrics().turned_away();
                        turn_away(&stream, busy());
                        continue;
                    };
                    if full {
                        engine.metrics().evicted();
                    }
                    let wait = Duration::from_secs(limits.message_s);
                    let engine = Arc::clone(&engine);
                    let session = Session::new(client);
                    sessions.spawn(connection::serve(engine, session, slot, stream, wait, stopped.clone()));
                }
                Err(error) => {
                    cvmm_log_limit::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            accepted = accept(tls_listener.as_ref()), if tls_listener.is_some() => match accepted {
                Ok(stream) => {
                    // Always set: there is no listener without it.
                    let Some(tls) = tls.clone() else { continue };
                    let context = handshake::Context { tls, clients: Arc::clone(&clients), slots: Arc::clone(&slots) };
                    let (engine, wait) = (Arc::clone(&engine), Duration::from_secs(limits.message_s));
                    // Always: a handshake can be evicted.
                    let Some((slot, full)) = handshakes.take() else { continue };
                    if full {
                        engine.metrics().evicted();
                    }
                    sessions.spawn(handshake::connection(engine, context, slot, stream, wait, stopped.clone()));
                }
                Err(error) => {
                    cvmm_log_limit::warn!(%error, "cannot accept a connection over TLS");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    drop((listener, tls_listener));
    let _ = stop.send(true); // fails if there are no connections
    if timeout(GRACE, async { while sessions.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(sessions = sessions.len(), "stopping with launches still in progress");
    }
    for server in [status, rcar, Some(expiry)].into_iter().flatten() {
        server.abort();
    }
    Ok(())
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// The client that has connected, if it may ask anything.
fn client(clients: &Clients, stream: &UnixStream) -> Option<Arc<Client>> {
    stream.peer_cred().ok().and_then(|peer| clients.of_uid(peer.uid()))
}

/// Sends the reason without waiting for the client.
fn turn_away(stream: &UnixStream, reason: Reason) {
    cvmm_log_limit::warn!(code = %reason.code, "a connection was turned away");
    if let Ok(frame) = connection::encode(&Response::Denial(Denial { reasons: vec![reason] })) {
        let _ = stream.try_write(&frame);
    }
}

async fn reload(engine: &Arc<Engine>, tls: Option<&Arc<handshake::Tls>>) {
    if let Some(tls) = tls.cloned() {
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(())) => tracing::info!("certificates of [tls] read again"),
            Ok(Err(error)) => tracing::error!(%error, "the certificates of [tls] stay as they were"),
            Err(error) => tracing::error!(%error, "the certificates of [tls] stay as they were"),
        }
    }
    let engine = Arc::clone(engine);
    let read = tokio::task::spawn_blocking(move || {
        engine.check_expiry(true);
        engine.reload()
    });
    match read.await {
        Ok(Ok(count)) => tracing::info!(count, "policies read again"),
        Ok(Err(error)) => tracing::error!(%error, "the policies stay as they were"),
        Err(error) => tracing::error!(%error, "the policies stay as they were"),
    }
}

/// Checks at once and every hour what expires, and warns once a day.
async fn watch_expiry(engine: Arc<Engine>) {
    let mut checks = 0;
    loop {
        let engine = Arc::clone(&engine);
        let warn = checks % CHECKS_PER_WARNING == 0;
        if let Err(error) = tokio::task::spawn_blocking(move || engine.check_expiry(warn)).await {
            tracing::error!(%error, "cannot check when certificates expire");
        }
        checks = checks.wrapping_add(1);
        tokio::time::sleep(EXPIRY_INTERVAL).await;
    }
}

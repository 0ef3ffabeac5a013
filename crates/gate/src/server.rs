// SPDX-License-Identifier: Apache-2.0
//! The socket: who may connect, how many, and for how long they may say nothing.
//!
//! A connection is a session. Its messages are answered one after the other on a pool of threads, since an answer takes a signature
//! and a write to the disk. Whoever connects when all places are taken gets the place of the connection that has been silent longest,
//! so that ten thousand that say nothing keep nobody out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cvmm_gate_client::protocol::{MAX_FRAME, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{timeout, timeout_at};

use crate::engine::{Engine, Session};

/// After an error of `accept`, which is mostly a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// The places.
#[derive(Debug)]
struct Places {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By when they were heard last.
    taken: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    /// Takes a place, from the most silent if need be.
    fn take(&self, notify: &Arc<Notify>) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.taken.len() >= self.most
            && let Some((_, silent)) = state.taken.pop_first()
        {
            silent.notify_one();
        }
        state.next += 1;
        let number = state.next;
        state.taken.insert(number, Arc::clone(notify));
        number
    }

    fn give_back(&self, number: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken.remove(&number);
    }

    /// Has been heard: gets the number of the least silent. `None` if its place is gone.
    fn heard(&self, number: u64) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = state.taken.remove(&number)?;
        state.next += 1;
        let number = state.next;
        state.taken.insert(number, notify);
        Some(number)
    }
}

/// Makes the socket. An old one is removed if nobody listens there.
pub fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there already"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    // Anybody may connect; whoever may not ask is told so.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until SIGTERM or SIGINT. SIGHUP reads the policies again.
pub async fn serve(engine: Arc<Engine>, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let (mut term, mut int, mut hup) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
    let limits = engine.config().limits;
    let places = Arc::new(Places { most: limits.connections, state: Mutex::default() });
    let own = fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata))?;
    let mut allowed = engine.config().allow_uids.clone();
    allowed.push(own);
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => reload(&engine).await,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let uid = stream.peer_cred().map(|peer| peer.uid());
                    if !uid.is_ok_and(|uid| allowed.contains(&uid)) {
                        tracing::warn!("a user who is not in allow_uids was turned away");
                        continue;
                    }
                    let wait = Duration::from_secs(limits.message_s);
                    tokio::spawn(connection(Arc::clone(&engine), Arc::clone(&places), stream, wait));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    Ok(())
}

async fn reload(engine: &Arc<Engine>) {
    let engine = Arc::clone(engine);
    match tokio::task::spawn_blocking(move || engine.reload()).await {
        Ok(Ok(count)) => tracing::info!(count, "policies read again"),
        Ok(Err(error)) => tracing::error!(%error, "the policies stay as they were"),
        Err(error) => tracing::error!(%error, "the policies stay as they were"),
    }
}

async fn connection(engine: Arc<Engine>, places: Arc<Places>, mut stream: UnixStream, wait: Duration) {
    let silent = Arc::new(Notify::new());
    let mut number = places.take(&silent);
    let mut session = Session::default();
    while !session.is_over() {
        let message = tokio::select! {
            message = read(&mut stream, session.until(), wait) => message,
            () = silent.notified() => return,
        };
        let Ok(message) = message else { break };
        match places.heard(number) {
            Some(heard) => number = heard,
            None => return,
        }
        let engine = Arc::clone(&engine);
        let answered = tokio::task::spawn_blocking(move || {
            let response = engine.answer(&mut session, &message);
            (session, response)
        });
        let Ok((next, response)) = answered.await else { break };
        session = next;
        if timeout(wait, write(&mut stream, &response)).await.is_err() {
            break;
        }
    }
    places.give_back(number);
}

/// A frame: it may begin until the session's end, and then has to arrive within `wait`.
async fn read(stream: &mut UnixStream, until: Option<Instant>, wait: Duration) -> io::Result<Vec<u8>> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let begin = until.unwrap_or_else(|| Instant::now() + wait);
    let first = timeout_at(begin.into(), stream.read_u8()).await.map_err(late)??;
    timeout(wait, async {
        let mut len = [first, 0, 0, 0];
        stream.read_exact(&mut len[1..]).await?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_FRAME {
            return Err(io::Error::other("the frame is too long"));
        }
        let mut frame = vec![0; len];
        stream.read_exact(&mut frame).await?;
        Ok(frame)
    })
    .await
    .map_err(late)?
}

async fn write(stream: &mut UnixStream, response: &Response) -> io::Result<()> {
    let frame = serde_json::to_vec(response)?;
    let len = u32::try_from(frame.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_le_bytes(), frame.as_slice()].concat()).await
}

// SPDX-License-Identifier: Apache-2.0
//! A connection: frames in, frames out, one session. Every wait has a limit.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmm_gate_protocol::frame::{self, HEADER_LEN};
use cvmm_gate_protocol::messages::{MAX_FRAME, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};
use zeroize::Zeroizing;

use super::slots::{Priority, SlotGuard};
use crate::engine::{Engine, Session, State};

impl Session {
    fn priority(&self) -> Priority {
        match self.state() {
            State::New | State::Over => Priority::Silent,
            State::Channel(_) | State::Guest(_) => Priority::Guest,
            State::Launch(_) | State::Preparation(_) | State::Activation(_) => Priority::Launch,
            State::Lease(_) => Priority::Lease,
        }
    }
}

/// Serves `session` on `stream` until its session is over, it is evicted, or `stop` is true and no launch is
/// in progress.
pub(super) async fn serve(
    engine: Arc<Engine>,
    mut session: Session,
    mut slot: SlotGuard,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    wait: Duration,
    mut stop: watch::Receiver<bool>,
) {
    while !session.is_over() {
        let idle = slot.priority() != Priority::Launch;
        let message = tokio::select! {
            message = read(&mut stream, session.max_message(), session.until(), wait) => message,
            () = slot.evicted() => return,
            _ = stop.wait_for(|stop| *stop), if idle => return,
        };
        let Ok(message) = message else { return };
        if !slot.touch(slot.priority().max(Priority::Asked)) {
            return;
        }
        let engine = Arc::clone(&engine);
        let answered = tokio::task::spawn_blocking(move || {
            let response = engine.answer(&mut session, &message);
            (session, response)
        });
        let Ok((next, response)) = answered.await else { return };
        session = next;
        if !slot.touch(session.priority()) || write(&mut stream, &response, wait).await.is_err() {
            return;
        }
    }
}

/// Reads a frame: it may begin until the session's end, and then has to arrive within `wait`.
async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
    until: Option<Instant>,
    wait: Duration,
) -> io::Result<Vec<u8>> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let begin = until.unwrap_or_else(|| Instant::now() + wait);
    let first = timeout_at(begin.into(), stream.read_u8()).await.map_err(late)??;
    timeout(wait, async {
        let mut header = [0; HEADER_LEN];
        header[0] = first;
        stream.read_exact(&mut header[1..]).await?;
        let len = frame::body_len(header, max).map_err(io::Error::other)?;
        // Allocated as it arrives: a header alone does not make the gate reserve memory.
        let mut body = Vec::new();
        if stream.take(len as u64).read_to_end(&mut body).await? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    })
    .await
    .map_err(late)?
}

/// Writes a response, within `wait`.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    response: &Response,
    wait: Duration,
) -> io::Result<()> {
    let bytes = encode(response)?;
    let write = async {
        stream.write_all(&bytes).await?;
        // TLS may hold data that it has not sent.
        stream.flush().await
    };
    timeout(wait, write).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// The frame of a response.
pub(super) fn encode(response: &Response) -> io::Result<Zeroizing<Vec<u8>>> {
    // It may have keys in it.
    let body = Zeroizing::new(serde_json::to_vec(response)?);
    frame::encode(&body, MAX_FRAME).map_err(io::Error::other)
}

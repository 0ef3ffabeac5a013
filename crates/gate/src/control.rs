// SPDX-License-Identifier: Apache-2.0
//! Commands for a gate that serves, over a socket in its state folder, where only its user gets: now only to
//! [rotate](crate::audit::rotate) its log.
//!
//! ```text
//! command                                gate
//!   | {"from": ..} and the new file        |
//!   |------------------------------------->|  the first line is in the new file
//!   | {"ready": true}                      |
//!   |<-------------------------------------|
//!   | exchanges the names                  |
//!   | {"exchanged": true}                  |
//!   |------------------------------------->|  checks the name
//!   | {"lines": N} or {"error": ".."}      |
//!   |<-------------------------------------|
//! ```
//! The gate's chain is locked from the first message to the last, so each has `WAIT`, and one command is
//! served at a time.

use std::fs::{self, File};
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::audit::rotate::From;

/// The socket's name in the state folder.
const NAME: &str = "control.sock";
/// For each message.
const WAIT: Duration = Duration::from_secs(5);
const MAX_MESSAGE: usize = 4096;

/// Why the running gate did not carry out a command.
#[derive(Debug, Error)]
pub enum ControlError {
    /// It cannot be reached.
    #[error("cannot reach the running gate at {path}: {source}")]
    Reach {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// It refused, or this side failed.
    #[error("{0}")]
    Refused(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Message {
    From(From),
    Ready,
    Exchanged(Result<(), String>),
    Done(Result<u64, String>),
}

/// Creates the socket in `state`, whose lock this process has: an existing one is left from a crash.
pub fn bind(state: &Path) -> io::Result<UnixListener> {
    let path = state.join(NAME);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Gives a new file the log's name.
type Exchange<'a> = &'a mut dyn FnMut() -> Result<(), String>;

/// Serves commands until the process ends. `rotate` continues the log in a file, once its last argument has
/// given that the log's name, and returns the number of lines before it.
pub fn serve(listener: &UnixListener, rotate: impl Fn(File, &From, Exchange<'_>) -> Result<u64, String>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = answer(&stream, &rotate) {
                    tracing::warn!(%error, "a command on the control socket failed");
                }
            }
            Err(error) => {
                cvmm_log_limit::warn!(%error, "cannot accept a connection to the control socket");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn answer(
    stream: &UnixStream,
    rotate: impl Fn(File, &From, Exchange<'_>) -> Result<u64, String>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    let (message, file) = receive(stream)?;
    let result = match (serde_json::from_slice(&message), file) {
        (Ok(Message::From(from)), Some(file)) => rotate(file, &from, &mut || {
            send(stream, &Message::Ready).map_err(|error| error.to_string())?;
            match read(stream).map_err(|error| format!("the command ended: {error}"))? {
                Message::Exchanged(result) => result,
                _ => Err("unexpected message from the command".to_owned()),
            }
        }),
        _ => Err("unknown command: use the cvmm-gate of this gate's version".to_owned()),
    };
    match &result {
        Ok(lines) => tracing::info!(lines, "the audit log was rotated"),
        Err(error) => tracing::warn!(error, "the audit log was not rotated"),
    }
    send(stream, &Message::Done(result))
}

/// Asks the gate whose state folder is `state` to continue its log in `file`; `exchange` gives that the log's
/// name. Returns the number of lines before it.
pub fn rotate(
    state: &Path,
    file: &File,
    from: &From,
    exchange: impl FnOnce() -> Result<(), String>,
) -> Result<u64, ControlError> {
    let path = state.join(NAME);
    let reach = |source| ControlError::Reach { path: path.clone(), source };
    let stream = UnixStream::connect(&path).map_err(reach)?;
    // The gate may wait for a batch and a sync first.
    stream.set_read_timeout(Some(4 * WAIT)).map_err(reach)?;
    stream.set_write_timeout(Some(WAIT)).map_err(reach)?;
    let text = line(&Message::From(from.clone())).map_err(reach)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    let sent = sendmsg(&stream, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL);
    if sent.map_err(|error| reach(error.into()))? != text.len() {
        return Err(reach(io::ErrorKind::WriteZero.into()));
    }
    let refused = |message: Message| match message {
        Message::Done(Err(problem)) => ControlError::Refused(problem),
        _ => ControlError::Refused("unexpected answer from the gate".to_owned()),
    };
    match read(&stream).map_err(reach)? {
        Message::Ready => {}
        other => return Err(refused(other)),
    }
    send(&stream, &Message::Exchanged(exchange())).map_err(reach)?;
    match read(&stream).map_err(reach)? {
        Message::Done(Ok(lines)) => Ok(lines),
        other => Err(refused(other)),
    }
}

/// Receives a message, with a file if one was sent.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<File>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    bytes.truncate(received.bytes);
    let file = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next().map(File::from),
        _ => None,
    });
    Ok((bytes, file))
}

fn line(message: &Message) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    Ok(text)
}

fn send(mut stream: &UnixStream, message: &Message) -> io::Result<()> {
    stream.write_all(&line(message)?)
}

fn read(mut stream: &UnixStream) -> io::Result<Message> {
    // The stream's timeout is per read; the whole message gets no more time than that.
    let end = stream.read_timeout()?.map(|wait| Instant::now() + wait);
    let mut text = Vec::new();
    let mut chunk = [0; 256];
    // A line is answered before the next one is sent.
    while !text.ends_with(b"\n") && text.len() < MAX_MESSAGE {
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_arrives_byte_by_byte_times_out() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let slow = std::thread::spawn(move || {
            let mut theirs = theirs;
            while theirs.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let began = Instant::now();
        assert!(read(&ours).is_err() && began.elapsed() < Duration::from_secs(10));
        drop(ours);
        slow.join().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&theirs, &Message::Done(Ok(7))).unwrap();
        assert!(matches!(read(&ours).unwrap(), Message::Done(Ok(7))));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The guest's line to the gate: a virtio console whose bytes are frames of the gate's protocol.
//!
//! The guest writes a frame, the channel hands it to the gate and writes the answer back. It looks at lengths only: what is in a
//! frame is between the two. A connection lasts from the guest's first frame until the gate closes it or a deadline passes, and a
//! guest has one at a time. Everything is bounded: a frame by [`MAX_FRAME`], an exchange by the timeout, and a guest that sends
//! nonsense or nothing only keeps its own thread waiting.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use cvmm_attest::reason::Reason;
use cvmm_gate_client::frame;
use cvmm_gate_client::protocol::{Denied, MAX_FRAME, Response};
use cvmm_gate_client::transport::{Connection, Endpoint};

use crate::config::Gate;
use crate::machine::input_pipe;

/// How long answers of the VMM's own may take to get into the guest's buffer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at a full buffer.
const PAUSE: Duration = Duration::from_millis(5);

/// One end of the line.
#[derive(Debug)]
pub struct Channel {
    /// Where the gate listens.
    pub endpoint: Endpoint,
    /// For each answer.
    pub timeout: Duration,
    /// What the guest writes.
    pub from_guest: io::PipeReader,
    /// What the guest reads; does not block.
    pub to_guest: File,
}

/// Makes the line that `settings` name: where the device writes, and what it reads.
pub fn connect(settings: &Gate) -> io::Result<(io::PipeWriter, OwnedFd)> {
    let (from_guest, writer) = io::pipe()?;
    let (reader, to_guest) = input_pipe()?;
    let timeout = Duration::from_secs(settings.timeout.into());
    let endpoint = super::endpoint(&settings.endpoint).map_err(io::Error::other)?;
    Channel { endpoint, timeout, from_guest, to_guest }.spawn()?;
    Ok((writer, reader))
}

impl Channel {
    /// Serves the guest until its device is gone.
    pub fn spawn(self) -> io::Result<()> {
        // Detached: it ends with the device, whose pipe it reads, and holds nothing that anybody waits for.
        thread::Builder::new().name("gate-channel".to_owned()).spawn(move || self.serve()).map(drop)
    }

    fn serve(mut self) {
        let mut connection = None;
        while let Ok(frame) = read_frame(&mut self.from_guest) {
            let Some(frame) = frame else {
                cvmm_log_limit::warn!(
                    "the guest sent a frame that is too long to its gate channel, which is closed"
                );
                return;
            };
            let answer = self.exchange(&mut connection, &frame).unwrap_or_else(|error| {
                connection = None;
                cvmm_log_limit::warn!(%error, "a guest's question did not get to the gate");
                own_answer(&error)
            });
            if let Err(error) = self.answer(&answer) {
                cvmm_log_limit::warn!(%error, "an answer of the gate did not get to the guest");
            }
        }
    }

    /// Sends `frame` on the open connection or a new one and waits for the answer.
    fn exchange(&self, connection: &mut Option<Connection>, frame: &[u8]) -> io::Result<Vec<u8>> {
        if let Some(stream) = connection.as_mut() {
            // The gate closes a session when it is over; what it would have said next is nothing.
            if !stream.is_over() {
                return self.ask(stream, frame, Instant::now() + self.timeout);
            }
        }
        // One deadline for all of it: a guest waits no longer for a connection and an answer than for an answer.
        let deadline = Instant::now() + self.timeout;
        let mut stream = self.endpoint.connect(deadline).map_err(io::Error::other)?;
        let answer = self.ask(&mut stream, frame, deadline)?;
        *connection = Some(stream);
        Ok(answer)
    }

    fn ask(&self, stream: &mut Connection, frame: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
        frame::write(stream, frame, deadline)
            .and_then(|()| frame::read(stream, deadline))
            .map_err(io::Error::other)
    }

    /// Hands `frame` to the guest, which may be slow to make room.
    fn answer(&mut self, frame: &[u8]) -> io::Result<()> {
        let mut bytes = (frame.len() as u32).to_le_bytes().to_vec(); // at most MAX_FRAME
        bytes.extend_from_slice(frame);
        let deadline = Instant::now() + PATIENCE;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.to_guest.write(rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A frame; `None` if its length is not allowed.
fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_FRAME {
        return Ok(None);
    }
    let mut frame = vec![0; len];
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}

/// What the guest is told when the gate does not answer. It is not signed, as nothing is that the host says.
fn own_answer(error: &io::Error) -> Vec<u8> {
    let reason = Reason::new("gate.unreachable", format!("the host's gate gave no answer: {error}"));
    serde_json::to_vec(&Response::Denied(Denied { reasons: vec![reason] })).unwrap_or_default()
}

#[cfg(test)]
#[path = "../../../crates/gate/tests/common/pki.rs"]
mod pki;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use std::net::TcpListener;
    use std::sync::Arc;

    use super::pki::{Names, issue};
    use super::*;
    use crate::config::GateEndpoint;

    fn write_frame(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
        to.write_all(&[&(frame.len() as u32).to_le_bytes(), frame].concat())
    }

    struct Guest {
        to_vmm: io::PipeWriter,
        from_vmm: io::PipeReader,
    }

    fn channel(endpoint: impl Into<Endpoint>, timeout: Duration) -> Guest {
        let (from_guest, to_vmm) = io::pipe().unwrap();
        let (from_vmm, to_guest) = io::pipe().unwrap();
        let to_guest = File::from(OwnedFd::from(to_guest));
        Channel { endpoint: endpoint.into(), timeout, from_guest, to_guest }.spawn().unwrap();
        Guest { to_vmm, from_vmm }
    }

    impl Guest {
        fn ask(&mut self, frame: &[u8]) -> String {
            write_frame(&mut self.to_vmm, frame).unwrap();
            String::from_utf8(read_frame(&mut self.from_vmm).unwrap().unwrap()).unwrap()
        }
    }

    /// A gate of two sessions: of two questions, then of one.
    fn serve<S: Read + Write>(mut accept: impl FnMut() -> S) {
        for questions in [2, 1] {
            let mut stream = accept();
            for number in 0..questions {
                let frame = read_frame(&mut stream).unwrap().unwrap();
                let answer = format!("{number}:{}", String::from_utf8(frame).unwrap());
                write_frame(&mut stream, answer.as_bytes()).unwrap();
                stream.flush().unwrap();
            }
        }
    }

    #[test]
    fn frames_of_a_session_go_over_one_connection() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("gate");
        let listener = UnixListener::bind(&socket).unwrap();
        let gate = thread::spawn(move || serve(|| listener.accept().unwrap().0));
        sessions(channel(socket, Duration::from_secs(5)));
        gate.join().unwrap();
    }

    #[test]
    fn and_so_they_do_over_tls() {
        let folder = tempfile::tempdir().unwrap();
        let authority = issue("authority", &Names::Authority, None, (2024, 2049));
        let (ca, _) = authority.write(folder.path(), "ca");
        let (certificate, key) =
            issue("gate", &Names::Localhost, Some(&authority), (2024, 2049)).write(folder.path(), "gate");
        let client = issue("host", &Names::Dns(&["host"]), Some(&authority), (2024, 2049));
        let (client_certificate, client_key) = client.write(folder.path(), "client");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(cvmm_gate_client::tls::roots(&ca).unwrap());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                cvmm_gate_client::tls::certificates(&certificate).unwrap(),
                cvmm_gate_client::tls::private_key(&key).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = thread::spawn(move || {
            serve(|| {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                rustls::StreamOwned::new(connection, listener.accept().unwrap().0)
            });
        });
        let settings =
            GateEndpoint::Tls { host: "localhost".into(), port, ca, client_certificate, client_key };
        sessions(channel(crate::gate::endpoint(&settings).unwrap(), Duration::from_secs(5)));
        gate.join().unwrap();
    }

    fn sessions(mut guest: Guest) {
        assert_eq!(guest.ask(b"attest"), "0:attest");
        assert_eq!(guest.ask(b"evidence"), "1:evidence");
        // The gate has to close first; a question into a closing session is refused, not answered wrongly.
        thread::sleep(Duration::from_millis(50));
        assert_eq!(guest.ask(b"again"), "0:again");
    }

    #[test]
    fn a_gate_that_is_absent_or_silent_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = channel(folder.path().join("none"), Duration::from_millis(100));
        assert!(guest.ask(b"x").contains("gate.unreachable"));

        let socket = folder.path().join("silent");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut guest = channel(socket, Duration::from_millis(100));
        let began = Instant::now();
        assert!(guest.ask(b"x").contains("gate.unreachable"));
        assert!(began.elapsed() < Duration::from_secs(5), "the timeout was not kept");
        drop(listener);
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_channel() {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = channel(folder.path().join("none"), Duration::from_millis(100));
        guest.to_vmm.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(read_frame(&mut guest.from_vmm).is_err(), "the channel still answers");
    }
}

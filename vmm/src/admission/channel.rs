// SPDX-License-Identifier: Apache-2.0
//! The guest's channel to the gate: a virtio console whose bytes are frames of the gate's protocol.
//!
//! A guest may send two messages, `attest` and `guest-evidence`, about its own VM. The channel parses them
//! and forwards what it parsed; anything else is refused here, and the gate does not see it. Each session of
//! the guest is a connection that begins with `guest-channel`, by which the VMM tells the gate that a guest
//! speaks, and for which VM and launch: the gate then accepts nothing else on this connection, and only
//! answers for guests are handed to the guest.
//!
//! Everything is bounded: a frame by [`MAX_FRAME`], an exchange by the timeout, sessions by [`GUEST_BURST`]
//! and [`GUEST_RATE`]. A guest that sends nonsense keeps only its own thread busy, `PENALTY` at a time.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate_client::client::ClientError;
use cvmm_gate_client::client::channel::GuestConnection;
use cvmm_gate_client::transport::Endpoint;
use cvmm_gate_protocol::frame::{self, FrameIoError};
use cvmm_gate_protocol::messages::{
    Denial, GUEST_BURST, GUEST_RATE, GuestChannel, MAX_FRAME, PROTOCOL, Request, Response,
};
use cvmm_gate_protocol::rate::Rate;
use cvmm_reason::Reason;

use crate::config::Gate;
use crate::pipe::input_pipe;

/// How long the guest's buffer may stay full while an answer is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to retry while the guest's buffer is full.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);
/// How long a guest waits for a refusal that does not come from the gate.
const PENALTY: Duration = Duration::from_millis(100);

/// The VMM's end of the channel.
#[derive(Debug)]
pub struct Channel {
    /// Where the gate listens.
    pub endpoint: Endpoint,
    /// For each answer.
    pub timeout: Duration,
    /// Which guest speaks.
    pub guest: GuestChannel,
    /// What the guest writes.
    pub from_guest: io::PipeReader,
    /// What the guest reads; does not block.
    pub to_guest: File,
}

/// Opens the channel to the gate of `settings`, for the guest whose launch was approved in session `launch`.
/// Returns where the device writes, and what it reads.
pub fn connect(settings: &Gate, launch: &str) -> io::Result<(io::PipeWriter, OwnedFd)> {
    let (from_guest, writer) = io::pipe()?;
    let (reader, to_guest) = input_pipe()?;
    let timeout = Duration::from_secs(settings.timeout.into());
    let endpoint = super::endpoint(&settings.endpoint).map_err(io::Error::other)?;
    let guest = GuestChannel {
        protocol: PROTOCOL,
        policy: settings.policy.clone(),
        vm_id: settings.vm_id.clone(),
        launch: launch.to_owned(),
    };
    Channel { endpoint, timeout, guest, from_guest, to_guest }.spawn()?;
    Ok((writer, reader))
}

impl Channel {
    /// Serves the guest until its device is gone.
    pub fn spawn(self) -> io::Result<()> {
        // Detached: it ends with the device, whose pipe it reads, and nothing waits for it.
        thread::Builder::new().name("gate-channel".to_owned()).spawn(move || self.serve()).map(drop)
    }

    fn serve(mut self) {
        let mut session = None;
        let mut rate = Rate::new(GUEST_BURST, GUEST_RATE, Instant::now());
        loop {
            let frame = match frame::read(&mut self.from_guest, MAX_FRAME) {
                Ok(frame) => frame,
                Err(FrameIoError::TooLong(error)) => {
                    cvmm_log_limit::warn!(%error, "closing the guest's gate channel");
                    return;
                }
                Err(FrameIoError::Io(_)) => return,
            };
            let answer = self.answer(&mut session, &mut rate, &frame);
            if let Err(error) = self.write(&answer) {
                cvmm_log_limit::warn!(%error, "cannot hand an answer to the guest's gate channel");
            }
        }
    }

    /// The answer to a frame of the guest.
    fn answer(&self, session: &mut Option<GuestConnection>, rate: &mut Rate, frame: &[u8]) -> Response {
        let request = match self.parse(frame, session.is_some()) {
            Ok(request) => request,
            Err(reason) => return refused(reason),
        };
        // One deadline for connection and answer.
        let deadline = Instant::now() + self.timeout;
        // A session is one question, whatever its outcome.
        let connection = match session.take() {
            Some(connection) if matches!(request, Request::GuestEvidence(_)) => Ok(connection),
            _ if !rate.take(Instant::now()) => {
                let message = format!("too many requests: this guest may send {GUEST_RATE} a second");
                return refused(Reason::new("gate.rate", message));
            }
            _ => GuestConnection::open(&self.endpoint, &self.guest, deadline),
        };
        let answer = connection.and_then(|mut connection| {
            let answer = connection.ask(&request, deadline)?;
            if matches!(answer, Response::Challenge(_)) {
                *session = Some(connection);
            }
            Ok(answer)
        });
        match answer {
            Ok(answer) => answer,
            Err(ClientError::Denied(reasons) | ClientError::Superseded(reasons)) => {
                Response::Denial(Denial { reasons })
            }
            Err(error) => {
                cvmm_log_limit::warn!(%error, "cannot forward the guest's message to the gate");
                let message = format!("no answer from the host's gate: {error}");
                denied(Reason::new("gate.unreachable", message))
            }
        }
    }

    /// The guest's message, if it is one that a guest may send about this VM.
    fn parse(&self, frame: &[u8], challenged: bool) -> Result<Request, Reason> {
        let request: Request = serde_json::from_slice(frame).map_err(|error| {
            let error: String = error.to_string().chars().take(200).collect();
            Reason::new("gate.message", format!("invalid message: {error}"))
        })?;
        match &request {
            Request::Attest(attest) if attest.vm_id == self.guest.vm_id => Ok(request),
            Request::Attest(_) => {
                Err(Reason::new("gate.channel", format!("this channel belongs to VM {}", self.guest.vm_id)))
            }
            Request::GuestEvidence(_) if challenged => Ok(request),
            Request::GuestEvidence(_) => {
                Err(Reason::new("gate.order", "no challenge is open: send attest first"))
            }
            other => Err(Reason::new("gate.role", format!("a guest may not send {}", other.name()))),
        }
    }

    /// Hands `answer` to the guest, which may be slow to read.
    fn write(&mut self, answer: &Response) -> io::Result<()> {
        // Strings, numbers and structs of them are always JSON.
        let body = serde_json::to_vec(answer).unwrap_or_default();
        let bytes = frame::encode(&body, MAX_FRAME).map_err(io::Error::other)?;
        let deadline = Instant::now() + WRITE_TIMEOUT;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.to_guest.write(rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(RETRY_INTERVAL);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A refusal of the VMM's own, for what the gate does not hear of. A guest that goes on like that does so
/// slowly.
fn refused(reason: Reason) -> Response {
    cvmm_log_limit::warn!(code = %reason.code, "refused a message on the guest's gate channel");
    thread::sleep(PENALTY);
    denied(reason)
}

/// It is not signed, like everything that the host says.
fn denied(reason: Reason) -> Response {
    Response::Denial(Denial { reasons: vec![reason] })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;

    use cvmm_gate_protocol::messages::lease::Acknowledgement;
    use cvmm_gate_protocol::messages::{Challenge, ChannelConfirmation, Ticket};
    use cvmm_test_support::tls::{Subject, issue};

    use super::*;
    use crate::config::GateEndpoint;

    const ATTEST: &str = r#"{"type":"attest","protocol":1,"vm_id":"vm"}"#;
    const EVIDENCE: &str = r#"{"type":"guest-evidence","session":"s","report":"AA=="}"#;

    fn write_frame(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
        to.write_all(&[&(frame.len() as u32).to_le_bytes(), frame].concat())
    }

    struct Guest {
        to_vmm: io::PipeWriter,
        from_vmm: io::PipeReader,
    }

    fn guest() -> GuestChannel {
        GuestChannel { protocol: PROTOCOL, policy: "p".into(), vm_id: "vm".into(), launch: "l".into() }
    }

    fn channel(endpoint: impl Into<Endpoint>, timeout: Duration) -> Guest {
        let (from_guest, to_vmm) = io::pipe().unwrap();
        let (from_vmm, to_guest) = io::pipe().unwrap();
        let to_guest = File::from(OwnedFd::from(to_guest));
        Channel { endpoint: endpoint.into(), timeout, guest: guest(), from_guest, to_guest }.spawn().unwrap();
        Guest { to_vmm, from_vmm }
    }

    impl Guest {
        fn ask(&mut self, frame: &str) -> Response {
            write_frame(&mut self.to_vmm, frame.as_bytes()).unwrap();
            serde_json::from_slice(&frame::read(&mut self.from_vmm, MAX_FRAME).unwrap()).unwrap()
        }

        fn code(&mut self, frame: &str) -> String {
            match self.ask(frame) {
                Response::Denial(denied) => denied.reasons[0].code.to_string(),
                other => panic!("not a denial: {other:?}"),
            }
        }
    }

    fn opened() -> Response {
        Response::ChannelConfirmation(ChannelConfirmation {})
    }

    fn challenge() -> Response {
        let (session, nonce) = ("s".into(), "n".into());
        Response::Challenge(Challenge { session, nonce, deadline_ms: 1000 })
    }

    fn ticket(stage: Option<&str>) -> Response {
        Response::Ticket(Ticket { jwt: "j".into(), stage: stage.map(str::to_owned) })
    }

    /// A gate that gives these answers, a list for each connection; what it was asked.
    fn serve<S: Read + Write>(mut accept: impl FnMut() -> S, sessions: &[Vec<Response>]) -> Vec<Request> {
        let mut asked = Vec::new();
        for answers in sessions {
            let mut stream = accept();
            for answer in answers {
                let Ok(frame) = frame::read(&mut stream, MAX_FRAME) else { break };
                asked.push(serde_json::from_slice(&frame).unwrap());
                write_frame(&mut stream, &serde_json::to_vec(answer).unwrap()).unwrap();
                stream.flush().unwrap();
            }
        }
        asked
    }

    fn names(asked: &[Request]) -> Vec<&'static str> {
        assert!(asked.iter().all(|request| match request {
            Request::GuestChannel(open) => *open == guest(),
            other => other.is_of_guest(),
        }));
        asked.iter().map(Request::name).collect()
    }

    /// A guest, and a gate with these answers on a Unix socket.
    fn pair(sessions: Vec<Vec<Response>>) -> (Guest, thread::JoinHandle<Vec<Request>>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("gate");
        let listener = UnixListener::bind(&socket).unwrap();
        let gate = thread::spawn(move || serve(|| listener.accept().unwrap().0, &sessions));
        (channel(socket, Duration::from_secs(5)), gate, folder)
    }

    fn two_sessions() -> Vec<Vec<Response>> {
        vec![vec![opened(), challenge(), ticket(None)], vec![opened(), challenge()]]
    }

    fn ask_twice(mut guest: Guest) {
        assert_eq!(guest.ask(ATTEST), challenge());
        assert_eq!(guest.ask(EVIDENCE), ticket(None));
        assert_eq!(guest.ask(ATTEST), challenge());
    }

    const TWICE: [&str; 5] = ["guest-channel", "attest", "guest-evidence", "guest-channel", "attest"];

    #[test]
    fn each_session_of_a_guest_is_a_connection_that_begins_with_guest_channel() {
        let (guest, gate, _folder) = pair(two_sessions());
        ask_twice(guest);
        assert_eq!(names(&gate.join().unwrap()), TWICE);
    }

    #[test]
    fn sessions_over_tls_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let authority = issue("authority", &Subject::Authority, None, (2024, 2049));
        let (ca, _) = authority.write(folder.path(), "ca");
        let (certificate, key) =
            issue("gate", &Subject::Localhost, Some(&authority), (2024, 2049)).write(folder.path(), "gate");
        let client = issue("host", &Subject::Dns(&["host"]), Some(&authority), (2024, 2049));
        let (client_certificate, client_key) = client.write(folder.path(), "client");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(cvmm_tls_files::roots(&ca).unwrap());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                cvmm_tls_files::certificates(&certificate).unwrap(),
                cvmm_tls_files::private_key(&key).unwrap(),
            )
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = thread::spawn(move || {
            let accept = || {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                rustls::StreamOwned::new(connection, listener.accept().unwrap().0)
            };
            serve(accept, &two_sessions())
        });
        let settings =
            GateEndpoint::Tls { host: "localhost".into(), port, ca, client_certificate, client_key };
        ask_twice(channel(super::super::endpoint(&settings).unwrap(), Duration::from_secs(5)));
        assert_eq!(names(&gate.join().unwrap()), TWICE);
    }

    #[test]
    fn other_messages_never_get_to_the_gate() {
        let (mut guest, gate, _folder) = pair(vec![vec![opened(), challenge(), ticket(None)]]);
        let other = ATTEST.replace("\"vm\"", "\"victim\"");
        let prepare = r#"{"type":"prepare","protocol":1,"policy":"p","manifest":"{}","digest":"00"}"#;
        let open = serde_json::to_string(&Request::GuestChannel(guest_of("victim"))).unwrap();
        let identify = r#"{"type":"identify","session":"s","epoch":1,"ek_rsa":"","ek_ecc":"","ak":""}"#;
        for (frame, code) in [
            (prepare, "gate.role"),
            (identify, "gate.role"),
            (r#"{"type":"end","counter":18446744073709551615}"#, "gate.role"),
            (r#"{"type":"resume","protocol":1,"vm_id":"vm","epoch":1,"proof":""}"#, "gate.role"),
            (
                r#"{"type":"admit","protocol":1,"policy":"p","manifest":"{}","digest":"","nonce":""}"#,
                "gate.role",
            ),
            (
                r#"{"type":"evidence","session":"s","digest":"","host_data":"","platform_status":""}"#,
                "gate.role",
            ),
            (&open, "gate.role"),
            (&other, "gate.channel"),
            (EVIDENCE, "gate.order"),
            (r#"{"type":"attest","protocol":1,"vm_id":"vm","more":1}"#, "gate.message"),
            ("nonsense", "gate.message"),
            ("", "gate.message"),
        ] {
            assert_eq!(guest.code(frame), code, "{frame}");
        }
        // With a challenge open as well.
        assert_eq!(guest.ask(ATTEST), challenge());
        assert_eq!(guest.code(prepare), "gate.role");
        assert_eq!(guest.ask(EVIDENCE), ticket(None));
        assert_eq!(names(&gate.join().unwrap()), ["guest-channel", "attest", "guest-evidence"]);
    }

    fn guest_of(vm_id: &str) -> GuestChannel {
        GuestChannel { vm_id: vm_id.into(), ..guest() }
    }

    #[test]
    fn other_answers_never_get_to_the_guest() {
        for answer in
            [Response::Acknowledgement(Acknowledgement {}), opened(), ticket(Some("of a first stage"))]
        {
            let (mut guest, gate, _folder) = pair(vec![vec![opened(), answer]]);
            assert_eq!(guest.code(ATTEST), "gate.unreachable");
            gate.join().unwrap();
        }
        let reason = Reason::new("gate.channel", "launched again");
        let (mut guest, gate, _folder) = pair(vec![vec![denied(reason)]]);
        assert_eq!(guest.code(ATTEST), "gate.channel");
        assert_eq!(names(&gate.join().unwrap()), ["guest-channel"]);
    }

    #[test]
    fn a_guest_that_asks_in_a_loop_costs_the_gate_little() {
        let sessions = (0..=GUEST_BURST + GUEST_RATE).map(|_| vec![opened(), challenge()]).collect();
        let (mut guest, _gate, _folder) = pair(sessions);
        let began = Instant::now();
        let answers: Vec<_> = (0..2 * GUEST_BURST).map(|_| guest.ask(ATTEST)).collect();
        let asked = answers.iter().filter(|answer| matches!(answer, Response::Challenge(_))).count();
        let seconds = began.elapsed().as_secs() as usize + 1;
        assert!((GUEST_BURST as usize..=GUEST_BURST as usize + seconds).contains(&asked), "{asked}");
        assert!(answers.iter().any(|answer| *answer != challenge()));
        // Refusals that do not come from the gate are slow.
        assert!(began.elapsed() >= PENALTY * (2 * GUEST_BURST - asked as u32));
    }

    #[test]
    fn an_absent_or_silent_gate_is_reported_to_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = channel(folder.path().join("none"), Duration::from_millis(100));
        assert_eq!(guest.code(ATTEST), "gate.unreachable");

        let socket = folder.path().join("silent");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut guest = channel(socket, Duration::from_millis(100));
        let began = Instant::now();
        assert_eq!(guest.code(ATTEST), "gate.unreachable");
        assert!(began.elapsed() < Duration::from_secs(5), "the timeout was not kept");
        drop(listener);
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_channel() {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = channel(folder.path().join("none"), Duration::from_millis(100));
        guest.to_vmm.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(frame::read(&mut guest.from_vmm, MAX_FRAME).is_err(), "the channel still answers");
    }
}

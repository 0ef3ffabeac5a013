// SPDX-License-Identifier: Apache-2.0
//! The gate over TLS: who may ask and who may not, what comes instead of a handshake, and a gate that goes
//! away in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cvmm_gate::engine::Engine;
use cvmm_gate::server::{self, Control, Listeners};
use cvmm_gate_client::client::channel::GuestConnection;
use cvmm_gate_client::client::{self, ClientError, Proposal};
use cvmm_gate_client::tls::{Files, Tls};
use cvmm_gate_client::transport::Endpoint;
use cvmm_gate_protocol::manifest::{Manifest, Vtpm};
use cvmm_gate_protocol::messages::Request;
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_test_support::gate::{Server, TestGate, launched};
use cvmm_test_support::tls::{Credential, Subject, issue, pem};
use cvmm_test_support::{needs, suite};

const NOW: (u32, u32) = (2024, 2049);

/// A gate with a PKI: one authority for the gate, one for clients.
struct World {
    gate: TestGate,
    clients: Credential,
}

impl World {
    fn new(limits: &str) -> Self {
        let top = "sandbox = \"best-effort\"";
        let gate = TestGate::with(
            top,
            &format!(
                "{limits}\n[tls]\nlisten = \"127.0.0.1:0\"\ncertificate = \"tls/gate.pem\"\nkey = \"tls/gate.key\"\n\
             client_ca = \"tls/client-ca.pem\"\n\
             [[client]]\nname = \"host-1\"\npolicies = [\"*\"]\nvms = [\"*\"]\n\
             [[client]]\nname = \"host-2\"\npolicies = [\"*\"]\nvms = [\"*\"]\n\
             [[client]]\nname = \"host-a\"\npolicies = [\"p\"]\nvms = [\"a-*\"]\n\
             [[client]]\nname = \"host-b\"\npolicies = [\"p\"]\nvms = [\"b-*\"]\n"
            ),
        );
        let folder = gate.path("tls");
        fs::create_dir(&folder).unwrap();
        let authority = issue("gate authority", &Subject::Authority, None, NOW);
        authority.write(&folder, "gate-ca");
        issue("gate", &Subject::Localhost, Some(&authority), NOW).write(&folder, "gate");
        let clients = issue("client authority", &Subject::Authority, None, NOW);
        clients.write(&folder, "client-ca");
        let world = Self { gate, clients };
        world.client("good", &world.issue("host-1"));
        world
    }

    fn issue(&self, name: &str) -> Credential {
        issue(name, &Subject::Dns(&[name]), Some(&self.clients), NOW)
    }

    fn client(&self, file: &str, credential: &Credential) {
        credential.write(&self.gate.path("tls"), file);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.gate.path(&format!("tls/{name}"))
    }

    /// A client that shows the certificate in `file`.
    fn ask(&self, host: &str, port: u16, file: &str, timeout: Duration) -> client::Gate {
        let (ca, certificate) = (self.path("gate-ca.pem"), self.path(&format!("{file}.pem")));
        let key = self.path(&format!("{file}.key"));
        let tls = Tls::new(host, port, Files { ca: &ca, certificate: &certificate, key: &key }).unwrap();
        let verdict = fs::read_to_string(self.gate.path("keys/verdict.pem.pub")).unwrap();
        client::Gate { endpoint: Endpoint::Tls(tls), key: VerdictKey::from_pem(&verdict).unwrap(), timeout }
    }
}

/// Serves on threads of this process until it is dropped.
struct Serving {
    server: Server,
    world: World,
    address: SocketAddr,
}

impl Serving {
    fn new(limits: &str) -> Self {
        Self::of(World::new(limits))
    }

    fn of(world: World) -> Self {
        let engine = Arc::new(Engine::open(world.gate.config()).unwrap());
        let socket = server::bind(&world.gate.path("gate.sock")).unwrap();
        let tls = server::bind_tls(engine.config().tls.as_ref().unwrap()).unwrap();
        let address = tls.address().unwrap();
        let server = Server::start(engine, Listeners { socket, tls: Some(tls), status: None, rcar: None });
        Self { server, world, address }
    }

    fn client(&self, file: &str) -> client::Gate {
        self.world.ask("localhost", self.address.port(), file, Duration::from_secs(20))
    }

    fn launch(&self, file: &str) -> Result<(), ClientError> {
        self.client(file).admit(self.world.gate.proposal("vm"))?.evidence(launched()).map(|_| ())
    }

    fn code(&self, file: &str) -> String {
        self.launch(file).unwrap_err().code().to_owned()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }
}

/// Reads what is left; how long that took.
fn cut(mut stream: TcpStream) -> Duration {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("it is not cut: {error}"),
    }
    began.elapsed()
}

fn clients_with_a_certificate_and_a_name_may_ask() {
    let gate = Serving::new("");
    gate.launch("good").unwrap();
    // By the second of its names; by its common name, which counts when there is no other.
    let clients = &gate.world.clients;
    gate.world.client("second", &issue("x", &Subject::Dns(&["other", "host-2"]), Some(clients), NOW));
    gate.launch("second").unwrap();
    gate.world.client("common", &issue("host-2", &Subject::CommonName, Some(clients), NOW));
    gate.launch("common").unwrap();
    // By address, as the certificate has it.
    let client = gate.world.ask("127.0.0.1", gate.address.port(), "good", Duration::from_secs(20));
    client.admit(gate.world.gate.proposal("vm")).unwrap().evidence(launched()).unwrap();
    // The Unix socket is there as before.
    let unix = client::Gate { endpoint: gate.world.gate.path("gate.sock").into(), ..client };
    unix.admit(gate.world.gate.proposal("vm")).unwrap().evidence(launched()).unwrap();
}

fn a_host_asks_about_its_own_vms_only() {
    let gate = Serving::new("");
    for name in ["host-a", "host-b"] {
        gate.world.client(name, &gate.world.issue(name));
    }
    let kept = |vm_id: &str| {
        let mut manifest = Manifest { vm_id: vm_id.into(), ..gate.world.gate.manifest.clone() };
        let (mode, pcr_banks) = ("in-process".into(), vec!["sha256".into(), "sha384".into()]);
        manifest.machine.vtpm = Some(Vtpm { mode, pcr_banks, state: true, identity: None });
        let proposal = gate.world.gate.proposal(vm_id);
        Proposal { manifest: serde_json::to_string(&manifest).unwrap(), ..proposal }
    };
    let (a, b) = (gate.client("host-a"), gate.client("host-b"));
    let own = a.prepare(&kept("a-1")).unwrap();
    let approved = a.admit(gate.world.gate.proposal("a-2")).unwrap();
    approved.evidence(launched()).unwrap();
    let denied = |result: Result<(), ClientError>| result.unwrap_err().code().to_owned();
    // The other host: while the VM runs, and when the connection of its host is gone. It even has the VM's
    // key.
    let key = own.keys()[0].clone();
    let epoch = own.epoch();
    assert_eq!(denied(b.prepare(&kept("a-1")).map(|_| ())), "gate.client");
    drop(own);
    assert_eq!(denied(b.prepare(&kept("a-1")).map(|_| ())), "gate.client");
    assert_eq!(denied(b.resume("a-1", epoch, &key).map(|_| ())), "gate.client");
    assert_eq!(denied(b.admit(gate.world.gate.proposal("a-2")).map(|_| ())), "gate.client");
    let Request::GuestChannel(channel) = gate.world.gate.channel("a-2") else { panic!() };
    let open = |client: &client::Gate| {
        let end = Instant::now() + Duration::from_secs(20);
        GuestConnection::open(&client.endpoint, &channel, end).map(|_| ())
    };
    assert_eq!(denied(open(&b)), "gate.client");
    open(&a).unwrap();
    b.admit(gate.world.gate.proposal("b-1")).unwrap().evidence(launched()).unwrap();
    let log = fs::read_to_string(gate.world.gate.path("audit.log")).unwrap();
    let lines = log.lines().filter(|line| line.contains("\"gate.client\""));
    assert_eq!(lines.filter(|line| line.contains("\"client\":\"host-b\"")).count(), 5, "{log}");
}

fn others_are_refused_and_told_why() {
    let gate = Serving::new("");
    let clients = &gate.world.clients;
    let other = issue("other authority", &Subject::Authority, None, NOW);
    let same_name = issue("client authority", &Subject::Authority, None, NOW);
    for (file, credential, code) in [
        ("stranger", issue("host-1", &Subject::Dns(&["host-1"]), Some(&other), NOW), "gate.tls"),
        ("impostor", issue("host-1", &Subject::Dns(&["host-1"]), Some(&same_name), NOW), "gate.tls"),
        ("itself", issue("host-1", &Subject::Dns(&["host-1"]), None, NOW), "gate.tls"),
        ("expired", issue("host-1", &Subject::Dns(&["host-1"]), Some(clients), (2019, 2020)), "gate.tls"),
        ("early", issue("host-1", &Subject::Dns(&["host-1"]), Some(clients), (2048, 2049)), "gate.tls"),
        ("authority", issue("host-1", &Subject::Authority, Some(clients), NOW), "gate.tls"),
        ("unnamed", issue("host-3", &Subject::Dns(&["host-3"]), Some(clients), NOW), "gate.peer"),
        ("part", issue("x", &Subject::Dns(&["host-1.example", "host"]), Some(clients), NOW), "gate.peer"),
        // With other names, the common name is only a label.
        ("label", issue("host-1", &Subject::Dns(&["host-3"]), Some(clients), NOW), "gate.peer"),
    ] {
        gate.world.client(file, &credential);
        let error = gate.launch(file).unwrap_err();
        assert_eq!(error.code(), code, "{file}: {error}");
        let text = error.to_string();
        assert!(code == "gate.peer" || text.contains("gate.client_certificate"), "{file}: {text}");
        let said = [("expired", "CertificateExpired"), ("stranger", "UnknownCA"), ("unnamed", "host-3")];
        assert!(said.iter().all(|(name, said)| *name != file || text.contains(said)), "{file}: {text}");
    }
    // Without any certificate, which our own client cannot be.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pem_der(&gate.world.path("gate-ca.pem"))).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let connection =
        rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, gate.connect());
    let error = stream.write_all(&[9, 0, 0, 0]).and_then(|()| stream.read_exact(&mut [0])).unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    gate.launch("good").unwrap();
}

fn pem_der(path: &Path) -> rustls::pki_types::CertificateDer<'static> {
    cvmm_tls_files::certificates(path).unwrap().remove(0)
}

fn revoked_clients_are_refused_and_so_is_everybody_under_an_old_list() {
    let world = World::new("");
    let config = fs::read_to_string(world.gate.path("gate.toml")).unwrap();
    let ca = "\nclient_ca = \"tls/client-ca.pem\"\n[[";
    assert!(config.contains(ca));
    let config = config.replace(ca, &ca.replace("[[", "client_crl = \"tls/crl.pem\"\n[["));
    fs::write(world.gate.path("gate.toml"), config).unwrap();
    let lost = world.issue("host-2");
    world.client("lost", &lost);
    fs::write(world.path("crl.pem"), world.clients.crl(&[], 2049)).unwrap();
    let gate = Serving::of(world);
    gate.launch("good").unwrap();
    gate.launch("lost").unwrap();
    let reload = |crl: &str, file: &str, admitted: bool| {
        fs::write(gate.world.path("crl.pem"), crl).unwrap();
        gate.server.tell(Control::Reload);
        let end = Instant::now() + Duration::from_secs(20);
        while gate.launch(file).is_ok() != admitted {
            assert!(Instant::now() < end, "{file} is {}", if admitted { "refused" } else { "admitted" });
            thread::sleep(Duration::from_millis(20));
        }
    };
    reload(&gate.world.clients.crl(&[&lost], 2049), "lost", false);
    assert!(gate.launch("lost").unwrap_err().to_string().contains("CertificateRevoked"));
    gate.launch("good").unwrap();
    // What cannot be read changes nothing.
    fs::write(gate.world.path("crl.pem"), "nonsense").unwrap();
    gate.server.tell(Control::Reload);
    thread::sleep(Duration::from_millis(200));
    gate.launch("good").unwrap();
    assert_eq!(gate.code("lost"), "gate.tls");
    reload(&gate.world.clients.crl(&[], 2025), "good", false);
}

fn the_gate_has_to_be_the_right_one() {
    let gate = Serving::new("");
    // Another name than its certificate's.
    let port = gate.address.port();
    let client = gate.world.ask("127.0.0.2", port, "good", Duration::from_secs(5));
    // (Unreachable, if it does not listen on all of 127/8.)
    let error = client.admit(gate.world.gate.proposal("vm")).unwrap_err();
    assert!(["gate.unreachable", "gate.tls"].contains(&error.code()), "{error}");
    // Another authority than ours.
    let other = issue("gate authority", &Subject::Authority, None, NOW);
    fs::write(gate.world.path("gate-ca.pem"), pem("CERTIFICATE", &other.der)).unwrap();
    let error = gate.launch("good").unwrap_err();
    assert_eq!(error.code(), "gate.tls");
    assert!(error.to_string().contains("gate.ca"), "{error}");
    // A name that only looks like its own.
    fs::copy(gate.world.path("client-ca.pem"), gate.world.path("gate-ca.pem")).unwrap();
    let wrong = issue("localhost", &Subject::Dns(&["localhost.example"]), Some(&gate.world.clients), NOW);
    gate.world.client("gate", &wrong);
    gate.server.tell(Control::Reload);
    let end = Instant::now() + Duration::from_secs(10);
    while !gate.launch("good").unwrap_err().to_string().contains("not valid for name") {
        assert!(Instant::now() < end, "{}", gate.launch("good").unwrap_err());
        thread::sleep(Duration::from_millis(20));
    }
}

fn invalid_handshakes_are_cut_off_in_time() {
    let gate = Serving::new("message_s = 1");
    let hello = client_hello(&gate);
    let mut old = hello.clone();
    old[0] = 0x99;
    for (sent, soon) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], true),
        (&[0x16, 3, 1, 0xff, 0xff], true),
        (&[0; 300], true),
        (&old, true),
        // Half a hello, all of it and then nothing, nothing at all.
        (&hello[..hello.len() / 2], false),
        (&hello, false),
        (&[], false),
    ] {
        let mut stream = gate.connect();
        stream.write_all(sent).unwrap();
        let took = cut(stream.try_clone().unwrap());
        assert!(took < Duration::from_secs(4), "{} bytes were waited for {took:?}", sent.len());
        assert!(!soon || took < Duration::from_millis(900), "{} bytes of garbage took {took:?}", sent.len());
    }
    // A byte at a time.
    let mut stream = gate.connect();
    let began = Instant::now();
    for byte in hello.iter().cycle() {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "a slow handshake is never cut");
        thread::sleep(Duration::from_millis(20));
    }
    gate.launch("good").unwrap();
}

/// What a client says first.
fn client_hello(gate: &Serving) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = gate.world.ask("localhost", port, "good", Duration::from_millis(500));
    let proposal = gate.world.gate.proposal("vm");
    let asking = thread::spawn(move || client.admit(proposal).unwrap_err().code().to_owned());
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut body).unwrap();
    drop(stream);
    assert_eq!(asking.join().unwrap(), "gate.closed");
    [&head[..], &body].concat()
}

fn silent_connections_do_not_keep_clients_out() {
    let gate = Serving::new("connections = 16\nmessage_s = 60");
    let approved = gate.client("good").admit(gate.world.gate.proposal("early")).unwrap();
    let hello = client_hello(&gate);
    let silent: Vec<_> = (0..400)
        .map(|number| {
            let mut stream = gate.connect();
            let _ = stream.write_all(&hello[..number % hello.len()]);
            stream
        })
        .collect();
    gate.launch("good").unwrap();
    // It was approved before them, and keeps its slot.
    approved.evidence(launched()).unwrap();
    drop(silent);
}

fn handshakes_that_are_not_completed_evict_no_client_that_has_completed_its_own() {
    let gate = Serving::new("connections = 4\nmessage_s = 60");
    let end = Instant::now() + Duration::from_secs(60);
    // Connected, and silent for longer than a new connection has at least.
    let mut waiting: Vec<_> = (0..4).map(|_| gate.client("good").endpoint.connect(end).unwrap()).collect();
    thread::sleep(Duration::from_millis(700));
    let hello = client_hello(&gate);
    let silent: Vec<_> = (0..64)
        .map(|number| {
            let mut stream = gate.connect();
            let _ = stream.write_all(&hello[..number % hello.len()]);
            stream
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    for stream in &mut waiting {
        assert!(!stream.is_over(), "a client that waits was evicted by a handshake");
    }
    drop(silent);
    // One that has shown who it is takes the slot of the one that was silent longest.
    gate.launch("good").unwrap();
    assert_eq!(waiting.iter_mut().filter_map(|stream| stream.is_over().then_some(())).count(), 1);
}

fn a_client_is_told_when_launches_use_all_slots() {
    let gate = Serving::new("connections = 2");
    let launch = || gate.client("good").admit(gate.world.gate.proposal("vm")).unwrap();
    let approved = [launch(), launch()];
    assert_eq!(gate.code("good"), "gate.busy");
    for approved in approved {
        approved.evidence(launched()).unwrap();
    }
}

fn many_at_once() {
    let gate = Serving::new("");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..10).for_each(|_| gate.launch("good").unwrap()));
        }
    });
}

fn the_gate_stops_when_launches_over_tls_are_done() {
    let gate = Serving::new("");
    let approved = gate.client("good").admit(gate.world.gate.proposal("vm")).unwrap();
    let silent = gate.connect();
    thread::sleep(Duration::from_millis(100));
    gate.server.tell(Control::Stop);
    assert!(cut(silent) < Duration::from_secs(2), "a silent connection keeps the gate");
    assert_eq!(gate.code("good"), "gate.unreachable");
    approved.evidence(launched()).unwrap();
}

fn a_client_waits_no_longer_than_its_timeout() {
    let world = World::new("");
    let within = Duration::from_millis(400);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Each: what the other side does with a connection, and what the client then says.
    type Act = fn(TcpStream);
    let acts: [(&str, Act); 6] = [
        ("gate.timeout", |mut stream| {
            // Takes everything, says nothing.
            let _ = stream.read_to_end(&mut Vec::new());
        }),
        ("gate.timeout", |mut stream| {
            // A record that never ends, a byte at a time.
            let _ = stream.write_all(&[0x16, 3, 3, 0x40, 0]);
            while stream.write_all(&[2]).is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        }),
        ("gate.tls", |mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            thread::sleep(Duration::from_millis(50));
        }),
        ("gate.tls", |mut stream| {
            let _ = stream.write_all(&[0xff; 200]);
            thread::sleep(Duration::from_millis(50));
        }),
        ("gate.tls", |mut stream| {
            // An alert: handshake_failure.
            let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 40]);
            thread::sleep(Duration::from_millis(50));
        }),
        ("gate.closed", drop),
    ];
    for (code, act) in acts {
        let client = world.ask("localhost", port, "good", within);
        let listener = listener.try_clone().unwrap();
        let other = thread::spawn(move || act(listener.accept().unwrap().0));
        let began = Instant::now();
        let error = client.admit(world.gate.proposal("vm")).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(began.elapsed() < within + Duration::from_secs(1), "{code}: {:?}", began.elapsed());
        other.join().unwrap();
    }
    drop(listener);
    let error = world.ask("localhost", port, "good", within).admit(world.gate.proposal("vm")).unwrap_err();
    assert_eq!(error.code(), "gate.unreachable");
    let error = world.ask("no-such-host.invalid", 9, "good", within).admit(world.gate.proposal("vm"));
    assert_eq!(error.unwrap_err().code(), "gate.unreachable");
}

/// `cvmm-gate serve`, ended with SIGKILL.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_gate_that_is_killed_or_stopped_in_a_session() {
    let world = World::new("");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = world.gate.path("gate.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))).unwrap();
    let start = || {
        let child = Command::new(env!("CARGO_BIN_EXE_cvmm-gate"))
            .args(["serve", "--config"])
            .arg(&path)
            .env("CVMM_GATE_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "it does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Program(child)
    };
    let timeout = Duration::from_secs(1);
    let client = world.ask("localhost", port, "good", timeout);
    let mut gate = start();
    let approved = client.admit(world.gate.proposal("vm")).unwrap();
    gate.0.kill().unwrap();
    gate.0.wait().unwrap();
    let began = Instant::now();
    assert_eq!(approved.evidence(launched()).unwrap_err().code(), "gate.closed");
    assert_eq!(client.admit(world.gate.proposal("vm")).unwrap_err().code(), "gate.unreachable");
    assert!(began.elapsed() < timeout);

    // It lives and does nothing.
    let gate = start();
    let approved = client.admit(world.gate.proposal("vm")).unwrap();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &gate.0.id().to_string()]).status().unwrap().success());
    };
    signal("-STOP");
    let began = Instant::now();
    assert_eq!(approved.evidence(launched()).unwrap_err().code(), "gate.timeout");
    assert_eq!(client.admit(world.gate.proposal("vm")).unwrap_err().code(), "gate.timeout");
    assert!(began.elapsed() < 2 * timeout + Duration::from_secs(1), "{:?}", began.elapsed());
    signal("-CONT");
    client.admit(world.gate.proposal("vm")).unwrap().evidence(launched()).unwrap();
}

fn files_are_checked_before_clients_are_served() {
    let world = World::new("");
    let load = || world.gate.config().tls.unwrap().load().map(drop).map_err(|error| error.to_string());
    load().unwrap();
    let key = world.path("gate.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(load().unwrap_err().contains("has mode 640"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let good = fs::read_to_string(&key).unwrap();
    fs::copy(world.path("good.key"), &key).unwrap();
    assert!(load().is_err(), "another certificate's key is taken");
    fs::write(&key, "nonsense").unwrap();
    assert!(load().unwrap_err().contains("no unencrypted private key"));
    fs::write(&key, good).unwrap();
    load().unwrap();
    for (name, content) in [
        ("gate.pem", ""),
        ("client-ca.pem", "nonsense"),
        ("client-ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        let path = world.path(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, content).unwrap();
        let error = load().unwrap_err();
        assert!(error.contains(name), "{error}");
        fs::write(&path, good).unwrap();
    }
    fs::remove_file(world.path("gate.pem")).unwrap();
    assert!(load().unwrap_err().contains("gate.pem"));
    // The same for the client's key.
    let (ca, certificate, key) =
        (world.path("client-ca.pem"), world.path("good.pem"), world.path("good.key"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    let error = Tls::new("gate", 1, Files { ca: &ca, certificate: &certificate, key: &key }).unwrap_err();
    assert!(error.to_string().contains("has mode 604"), "{error}");
}

fn certificates_are_made_as_the_documentation_says() -> suite::Result {
    needs::output("openssl", &["version"])?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/gate.md");
    let docs = fs::read_to_string(docs).unwrap();
    let script = docs.split("```sh\n").find(|block| block.starts_with("for ca in")).unwrap();
    let script = script.split("```").next().unwrap().replace("gate.example", "localhost");
    let world = World::new("");
    let output = Command::new("sh").args(["-ec", &script]).current_dir(world.path(".")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for kind in ["pem", "key"] {
        let at = |name: &str| world.path(&format!("{name}.{kind}"));
        fs::rename(at("localhost"), at("gate")).unwrap();
        fs::rename(at("host-1.example"), at("good")).unwrap();
    }
    let config = world.gate.path("gate.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("name = \"host-1\"", "name = \"host-1.example\"")).unwrap();
    Serving::of(world).launch("good").unwrap();
    Ok(())
}

suite!(
    handshakes_that_are_not_completed_evict_no_client_that_has_completed_its_own,
    clients_with_a_certificate_and_a_name_may_ask,
    a_host_asks_about_its_own_vms_only,
    others_are_refused_and_told_why,
    revoked_clients_are_refused_and_so_is_everybody_under_an_old_list,
    the_gate_has_to_be_the_right_one,
    invalid_handshakes_are_cut_off_in_time,
    silent_connections_do_not_keep_clients_out,
    a_client_is_told_when_launches_use_all_slots,
    many_at_once,
    the_gate_stops_when_launches_over_tls_are_done,
    a_client_waits_no_longer_than_its_timeout,
    a_gate_that_is_killed_or_stopped_in_a_session,
    files_are_checked_before_clients_are_served,
    certificates_are_made_as_the_documentation_says,
);

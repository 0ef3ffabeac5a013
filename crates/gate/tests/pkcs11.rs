// SPDX-License-Identifier: Apache-2.0
//! Keys in a token: SoftHSM, where it is installed (Debian: softhsm2), with a folder of its own for each
//! test. It is told of that folder by the environment, so it is always another process that uses it: the
//! gate's program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair,
};
use cvmm_gate_client::client::{self, ClientError};
use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_launch::id_block::Identity;
use cvmm_test_support::gate::{TestGate, launched};
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use cvmm_test_support::tls::pem;

const PIN: &str = "pin-of-the-token-5271";

/// A gate whose keys are in a token, and the token.
struct World {
    gate: TestGate,
}

fn module() -> Result<PathBuf, Missing> {
    let places =
        ["/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm", "/usr/lib64/pkcs11", "/usr/lib64/softhsm"];
    let module =
        places.iter().map(|place| Path::new(place).join("libsofthsm2.so")).find(|path| path.exists());
    let util = Command::new("softhsm2-util").arg("--version").output();
    module.filter(|_| util.is_ok()).ok_or_else(|| Missing::new("needs SoftHSM (Debian: softhsm2)"))
}

impl World {
    /// With an initialized token that has no keys.
    fn empty() -> Result<Self, Missing> {
        let module = module()?;
        let top = "sandbox = \"best-effort\"";
        let gate = TestGate::with(
            top,
            &format!(
                "\n[pkcs11]\nread = [\"softhsm.conf\"]\nwrite = [\"tokens\"]\nmodule = {:?}\ntoken = \"gate\"\npin_file = \"pin\"\nverdict = \"v\"\nid = \"i\"\nauthor = \"a\"\n",
                module.display().to_string()
            ),
        );
        let world = Self { gate };
        fs::create_dir(world.gate.path("tokens")).unwrap();
        fs::write(
            world.gate.path("softhsm.conf"),
            format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
                world.gate.path("tokens").display()
            ),
        )
        .unwrap();
        world.pin(PIN);
        for label in ["gate", "other"] {
            world.util(&["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", PIN]);
        }
        // There is nothing else to sign with.
        for name in ["verdict.pem", "verdict.pem.pub", "id.pem", "id.pem.pub"] {
            fs::remove_file(world.gate.path(&format!("keys/{name}"))).unwrap();
        }
        Ok(world)
    }

    /// With keys that were made in the token.
    fn with_keys() -> Result<Self, Missing> {
        let world = Self::empty()?;
        assert_eq!(world.good(&["keys", "generate"]), "v\ni\na\n");
        assert_eq!(world.good(&["keys", "generate"]), "", "keys are made a second time");
        Ok(world)
    }

    fn pin(&self, pin: &str) {
        let path = self.gate.path("pin");
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn util(&self, arguments: &[&str]) {
        let output = Command::new("softhsm2-util")
            .args(arguments)
            .env("SOFTHSM2_CONF", self.gate.path("softhsm.conf"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Puts a key of our own into the token; returns its public half.
    fn import(&self, label: &str, id: &str, algorithm: &'static EcdsaSigningAlgorithm) -> Vec<u8> {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let path = self.gate.path("import.pem");
        fs::write(&path, pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref())).unwrap();
        let path = path.display().to_string();
        self.util(&["--import", &path, "--token", "gate", "--label", label, "--id", id, "--pin", PIN]);
        pair.public_key().as_ref().to_vec()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm-gate"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.gate.path("gate.toml"))
            .env("SOFTHSM2_CONF", self.gate.path("softhsm.conf"))
            .env("CVMM_GATE_LOG", "debug")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!said.contains(PIN) && !said.contains("panicked"), "{said}");
        output
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Why the gate does not start.
    fn refused(&self) -> String {
        let output = self.run(&["check"]);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    }

    fn change(&self, from: &str, to: &str) {
        let path = self.gate.path("gate.toml");
        let text = fs::read_to_string(&path).unwrap();
        // Not what is commented out.
        let (from, to) = (format!("\n{from}"), format!("\n{to}"));
        assert!(text.contains(&from));
        fs::write(&path, text.replace(&from, &to)).unwrap();
    }

    fn client(&self) -> client::Gate {
        client::Gate {
            endpoint: self.gate.path("gate.sock").into(),
            key: VerdictKey::from_pem(&self.good(&["keys", "show", "--verdict-pem"])).unwrap(),
            timeout: Duration::from_secs(20),
        }
    }

    fn serve(&self) -> Program {
        let log = fs::File::create(self.gate.path("log")).unwrap();
        let program = Program(self.command(&["serve"]).stderr(log).spawn().unwrap(), self.gate.path("log"));
        let end = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.gate.path("gate.sock")).is_err() {
            let log = || fs::read_to_string(self.gate.path("log")).unwrap();
            assert!(Instant::now() < end, "it does not listen: {}", log());
            thread::sleep(Duration::from_millis(10));
        }
        program
    }

    fn launch(&self, client: &client::Gate) -> Result<Identity, ClientError> {
        let approved = client.admit(self.gate.proposal("vm"))?;
        // As the security processor would: little-endian numbers, signatures of both keys.
        let identity = Identity::from_bytes(approved.id_block(), approved.id_auth()).unwrap();
        approved.evidence(launched()).map(|_| identity)
    }
}

/// The program, and where it writes its messages.
struct Program(Child, PathBuf);

impl Program {
    fn stop(mut self) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}: {}", fs::read_to_string(&self.1).unwrap());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_token_signs_tickets_blocks_and_the_log() -> suite::Result {
    let world = World::with_keys()?;
    let client = world.client();
    let shown: serde_json::Value = serde_json::from_str(&world.good(&["keys", "show", "--json"])).unwrap();
    assert_eq!(shown["verdict"]["pem"], client.key.to_pem());
    let gate = world.serve();
    let identity = world.launch(&client).unwrap();
    assert_eq!(shown["id"]["digest"], identity.id_key_digest().to_string());
    assert_eq!(shown["author"]["digest"], identity.author_key_digest().unwrap().to_string());
    // More at a time than the token has sessions.
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                for _ in 0..8 {
                    world.launch(&client).unwrap();
                }
            });
        }
    });
    gate.stop();
    let log = world.gate.path("audit.log");
    let verified = cvmm_gate::audit::verify(&[log], std::slice::from_ref(&client.key)).unwrap();
    assert!(verified.end.seq > 190 && verified.signed == verified.end.seq, "{verified:?}");
    let log = fs::read_to_string(world.gate.path("log")).unwrap();
    assert!(!log.contains(PIN) && !log.contains("panicked") && !log.contains("taken out of it"), "{log}");
    Ok(())
}

fn a_key_that_is_imported_is_that_key() -> suite::Result {
    let world = World::empty()?;
    world.change("author = \"a\"\n", "");
    let point = world.import("v", "01", &ECDSA_P384_SHA384_FIXED_SIGNING);
    world.import("i", "02", &ECDSA_P384_SHA384_FIXED_SIGNING);
    let client = world.client();
    assert_eq!(client.key, VerdictKey::from_point(&point).unwrap());
    let gate = world.serve();
    let identity = world.launch(&client).unwrap();
    assert_eq!(identity.author_key_digest(), None);
    gate.stop();
    Ok(())
}

fn a_gate_without_its_keys_does_not_start() -> suite::Result {
    let world = World::with_keys()?;
    world.good(&["check"]);
    let config = fs::read_to_string(world.gate.path("gate.toml")).unwrap();
    world.import("p256", "03", &ECDSA_P256_SHA256_FIXED_SIGNING);
    world.import("twice", "04", &ECDSA_P384_SHA384_FIXED_SIGNING);
    world.import("twice", "05", &ECDSA_P384_SHA384_FIXED_SIGNING);
    let module = config.lines().find(|line| line.starts_with("module")).unwrap();
    for (from, to, said) in [
        ("token = \"gate\"", "token = \"gat\"", "expected one token labelled \"gat\", found 0"),
        ("token = \"gate\"", "slot = 4711", "expected one token in slot 4711, found 0"),
        ("token = \"gate\"", "", "either token or slot"),
        ("token = \"gate\"", "token = \"gate\"\nslot = 1", "either token or slot"),
        (
            "token = \"gate\"",
            "token = \"other\"",
            "expected one private key labelled \"v\" in the token, found 0",
        ),
        (
            "verdict = \"v\"",
            "verdict = \"x\"",
            "expected one private key labelled \"x\" in the token, found 0",
        ),
        ("id = \"i\"", "id = \"\"", "expected one private key labelled \"\" in the token, found 0"),
        ("author = \"a\"", "author = \"p256\"", "\"p256\" is not a P-384 key"),
        (
            "verdict = \"v\"",
            "verdict = \"twice\"",
            "expected one private key labelled \"twice\" in the token, found 2",
        ),
        ("pin_file = \"pin\"", "pin_file = \"none\"", "none: No such file"),
        ("pin_file = \"pin\"", "pin_file = \"gate.toml\"", "has mode 644"),
        ("verdict = \"v\"", "verdict = \"v\"\ntimeout_s = 0", "timeout_s has to be 1 to 60"),
        (module, "module = \"none.so\"", "cannot load the PKCS#11 module"),
        (module, "module = \"gate.toml\"", "cannot load the PKCS#11 module"),
        (module, "module = \"/lib/x86_64-linux-gnu/libm.so.6\"", "cannot load the PKCS#11 module"),
    ] {
        world.change(from, to);
        let error = world.refused();
        assert!(error.contains(said), "{to}: {error}");
        fs::write(world.gate.path("gate.toml"), &config).unwrap();
    }
    world.pin("wrong");
    let error = world.refused();
    assert!(error.contains("refused the PIN") && !error.contains("wrong"), "{error}");
    world.pin("");
    assert!(world.refused().contains("pin_file is empty"));
    world.pin(PIN);
    for mode in [0o640, 0o604] {
        fs::set_permissions(world.gate.path("pin"), fs::Permissions::from_mode(mode)).unwrap();
        assert!(world.refused().contains("must belong to the user of this process"));
    }
    world.pin(PIN);
    world.good(&["check"]);
    // The token is not there.
    fs::rename(world.gate.path("tokens"), world.gate.path("elsewhere")).unwrap();
    assert!(world.run(&["check"]).status.code() == Some(1));
    fs::create_dir(world.gate.path("tokens")).unwrap();
    assert!(world.refused().contains("expected one token labelled \"gate\", found 0"));
    Ok(())
}

fn a_token_that_goes_away_is_a_denial() -> suite::Result {
    let world = World::with_keys()?;
    let client = world.client();
    let gate = world.serve();
    world.launch(&client).unwrap();
    let approved = client.admit(world.gate.proposal("vm")).unwrap();
    fs::rename(world.gate.path("tokens"), world.gate.path("elsewhere")).unwrap();
    let error = approved.evidence(launched()).unwrap_err();
    assert_eq!(error.code(), "gate.key", "{error}");
    for _ in 0..8 {
        let error = world.launch(&client).unwrap_err();
        assert_eq!(error.code(), "gate.key", "{error}");
    }
    // SoftHSM finds it again only when it is started again; until then, whatever it says is a denial.
    fs::rename(world.gate.path("elsewhere"), world.gate.path("tokens")).unwrap();
    if let Err(error) = world.launch(&client) {
        assert_eq!(error.code(), "gate.key", "{error}");
    }
    gate.stop();
    let gate = world.serve();
    world.launch(&client).unwrap();
    gate.stop();
    let log = fs::read_to_string(world.gate.path("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}

suite!(
    a_token_signs_tickets_blocks_and_the_log,
    a_key_that_is_imported_is_that_key,
    a_gate_without_its_keys_does_not_start,
    a_token_that_goes_away_is_a_denial,
);

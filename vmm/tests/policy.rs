// SPDX-License-Identifier: Apache-2.0
//! `cvmm policy` as a person or a script uses it: the program's output, files and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use cvmm::admission::manifest::manifest;
use cvmm::config::{Checks, Config};
use cvmm::inputs::Inputs;
use cvmm_attest::claims::{FirmwareVersion, Product};
use cvmm_gate::config::Config as GateConfig;
use cvmm_gate::engine::{Engine, Session};
use cvmm_gate::keys::Signer;
use cvmm_gate::store::artifacts;
use cvmm_gate::{policies, setup};
use cvmm_gate_protocol::messages::{Admit, Evidence, PROTOCOL, Request, Response};
use cvmm_launch::samples::firmware::Image;
use cvmm_policy::{EvidenceClass, LaunchFacts, PlatformFacts, Policy};
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;
use cvmm_test_support::{artefacts, suite};
use serde_json::Value;
use tempfile::TempDir;

const MILAN: &[&str] = &["--vcpu-type", "EPYC-Milan", "--tcb", "4,0,22,213"];
/// When the vectors' verdicts were given.
const THEN: &str = "1795435200";

/// A folder with a guest that boots from a disk.
struct Lab(TempDir);

struct Ended(Output, String);

impl Lab {
    fn new() -> Self {
        let lab = Self(TempDir::new().unwrap());
        fs::write(lab.path("fw.fd"), Image::amdsev().bytes()).unwrap();
        fs::write(lab.path("disk.img"), vec![0; 1 << 20]).unwrap();
        lab.toml("vm.toml", 2, "");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn toml(&self, name: &str, vcpus: u32, more: &str) {
        let text = format!(
            "name = \"web\"\nvcpus = {vcpus}\nmemory = \"256MiB\"\nisolation = \"snp\"\nfirmware = \"fw.fd\"\n[boot]\nprofile = \"disk\"\n[[disk]]\npath = \"disk.img\"\n{more}"
        );
        self.write(name, &text);
    }

    fn cvmm(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm"));
        command.env_remove("CVMM_LOG").current_dir(self.0.path()).args(words);
        Ended(command.output().unwrap(), words.join(" "))
    }

    fn policy(&self, words: &[&str]) -> Ended {
        self.cvmm(&[&["policy"], words].concat())
    }

    fn measured(&self, config: &str, cpu: &str) -> Digest {
        self.cvmm(&["measure", "--config", config, "--vcpu-type", cpu]).ok().trim().parse().unwrap()
    }
}

impl Ended {
    /// Standard output of a success.
    #[track_caller]
    fn ok(&self) -> String {
        assert_eq!(self.0.status.code(), Some(0), "{}: {}", self.1, self.said());
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    /// Standard error of an end with `code`.
    #[track_caller]
    fn code(&self, code: i32) -> String {
        assert_eq!(self.0.status.code(), Some(code), "{}: {}", self.1, self.said());
        self.said()
    }

    fn said(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.0.stdout).unwrap()
    }
}

fn facts(digest: Digest) -> LaunchFacts<'static> {
    LaunchFacts {
        snp: true,
        profile: "disk",
        digest,
        policy: GuestPolicy(0x3_0000),
        vcpus: 2,
        memory: 256 << 20,
        debug: &[],
        vlek_only: false,
        cpuid_corrections: false,
    }
}

fn init_writes_a_policy_that_admits_the_guest_and_no_other() {
    let lab = Lab::new();
    let text = lab.policy(&[&["init", "--config", "vm.toml"], MILAN].concat()).ok();
    let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!((policy.id.as_str(), policy.version), ("web", 1));
    assert!(policy.warnings().is_empty());
    let digest = lab.measured("vm.toml", "EPYC-Milan");
    assert_eq!(policy.appraise_launch(&facts(digest)), []);
    let platform = PlatformFacts {
        class: EvidenceClass::IdBlock,
        product: Some(Product::Milan),
        firmware: FirmwareVersion { major: 1, minor: 55, build: 21 },
        reported_tcb: Some(TcbParts { fmc: None, bootloader: 4, tee: 0, snp: 22, microcode: 213 }),
    };
    assert_eq!(policy.appraise_platform(&platform), []);
    // Another number of vCPUs, another processor, a guest policy that allows more.
    lab.toml("other.toml", 3, "");
    for other in [lab.measured("other.toml", "EPYC-Milan"), lab.measured("vm.toml", "EPYC-Genoa")] {
        assert_eq!(policy.appraise_launch(&facts(other))[0].code, "policy.measurement");
    }
    for (bits, code) in [(0xb_0000, "policy.debug"), (0x23_0000, "policy.guest-policy")] {
        let reasons = policy.appraise_launch(&LaunchFacts { policy: GuestPolicy(bits), ..facts(digest) });
        assert_eq!(reasons[0].code, code);
    }
    // Into a file, under another name.
    let words = ["init", "-c", "vm.toml", "--id", "x", "-o", "x.toml"];
    assert_eq!(lab.policy(&[&words, MILAN].concat()).ok(), "");
    assert_eq!(Policy::parse(&lab.read("x.toml")).unwrap().id, "x");
    // What the guest has is in it.
    lab.toml(
        "more.toml",
        2,
        "[snp]\npolicy = 0x120000\nvlek_only = true\ncpuid_corrections = \"caches\"\n[debug]\nmtrr = false\n",
    );
    let text = lab.policy(&[&["init", "--config", "more.toml"], MILAN].concat());
    if text.0.status.success() {
        let policy = Policy::parse(&text.ok()).unwrap();
        let knobs = ["mtrr_hidden".to_owned()];
        let guest = LaunchFacts {
            policy: GuestPolicy(0x12_0000),
            debug: &knobs,
            vlek_only: true,
            cpuid_corrections: true,
            ..facts(lab.measured("more.toml", "EPYC-Milan"))
        };
        assert_eq!(policy.appraise_launch(&guest), []);
        let smt = policy.appraise_launch(&LaunchFacts { policy: GuestPolicy(0x13_0000), ..guest });
        assert_eq!(smt[0].code, "policy.guest-policy");
    } else {
        panic!("{}", text.said());
    }
}

/// The whole way: what `init` writes is signed, and a gate gives the guest of that `vm.toml` a ticket.
fn a_gate_admits_the_guest_that_init_was_given() {
    let lab = Lab::new();
    setup::init(&lab.path("gate")).unwrap();
    let config = GateConfig::load(&lab.path("gate/gate.toml")).unwrap();
    artifacts::import(&config.artifacts, &lab.path("fw.fd")).unwrap();
    lab.policy(&[&["init", "-c", "vm.toml", "-o", "gate/policies/web.toml"], MILAN].concat()).ok();
    let signer = Signer::load(&lab.path("gate/keys/policy.pem")).unwrap();
    policies::sign(&lab.path("gate/policies/web.toml"), &signer).unwrap();
    let engine = Engine::open(config).unwrap();
    let ask = |name: &str| {
        let config = Config::load_with(&lab.path(name), Checks { files: true, host: false }).unwrap();
        let manifest = manifest(&config, &Inputs::open(&config).unwrap(), "vm-1", 0xa0_0f11, 1).unwrap();
        let admit = Admit {
            protocol: PROTOCOL,
            policy: "web".to_owned(),
            manifest: serde_json::to_string(&manifest).unwrap(),
            digest: lab.measured(name, "EPYC-Milan").to_string(),
            nonce: "A".repeat(43) + "=",
        };
        let mut session = Session::new(cvmm_gate::clients::Client::own());
        let answer = engine.answer(&mut session, &serde_json::to_vec(&Request::Admit(admit)).unwrap());
        (session, answer)
    };
    let (mut session, Response::Approval(approval)) = ask("vm.toml") else { panic!("no approval") };
    let evidence = Evidence {
        session: approval.session,
        digest: lab.measured("vm.toml", "EPYC-Milan").to_string(),
        host_data: approval.host_data,
        // Firmware 1.55.21, initialised; the TCB that MILAN has. In base64.
        platform_status: "ATcBABUAAAAAAAAAAAAAAAAAAAAAAAAABAAAAAAAFtU=".to_owned(),
        report: None,
        key: None,
        certificates: None,
    };
    let answer = engine.answer(&mut session, &serde_json::to_vec(&Request::Evidence(evidence)).unwrap());
    assert!(matches!(answer, Response::Ticket(_)), "{answer:?}");
    // Another guest of the same files.
    lab.toml("other.toml", 3, "");
    let (_, Response::Denial(denied)) = ask("other.toml") else { panic!("no denial") };
    assert_eq!(denied.reasons[0].code, "policy.measurement");
}

/// What only the gate needs is not in this program, which has the guest's memory in its hands.
fn the_program_has_no_interpreter_in_it() {
    let words = ["tree", "--offline", "--locked", "-p", "cvmm", "-e", "normal,build", "--prefix", "none"];
    let output =
        Command::new(env!("CARGO")).args(words).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("cvmm-attest "), "{tree}{}", String::from_utf8_lossy(&output.stderr));
    for name in ["regorus", "cvmm-gate "] {
        assert!(!tree.lines().any(|line| line.starts_with(name)), "{name} is linked");
    }
}

fn init_writes_nothing_that_would_not_work() {
    let lab = Lab::new();
    lab.toml("debug.toml", 2, "[snp]\npolicy = 0xb0000\n");
    for (words, code, problem) in [
        (vec!["init", "--config", "debug.toml"], 2, "DEBUG"),
        (vec!["init", "--config", "none.toml"], 2, "none.toml"),
        (vec!["init", "--config", "vm.toml", "--id", "../x"], 2, "--id"),
        (vec!["init", "--config", "vm.toml", "-o", "none/x.toml"], 5, "cannot write none/x.toml"),
    ] {
        let said = lab.policy(&[&words, MILAN].concat()).code(code);
        assert!(said.contains(problem), "{said}");
    }
    let tcb = ["init", "--config", "vm.toml", "--vcpu-type", "EPYC-Milan", "--tcb"];
    assert!(lab.policy(&[&tcb[..], &["1,2,3"]].concat()).code(2).contains("four numbers"));
    assert!(lab.policy(&[&tcb[..], &["1,2,3,4,5"]].concat()).code(2).contains("does not fit a milan"));
    assert!(lab.policy(&["init", "--config", "vm.toml"]).code(2).contains("--vcpu-type"));
    let none = lab.read("vm.toml").replace("snp", "none");
    lab.write("plain.toml", &none);
    assert!(lab.policy(&[&["init", "--config", "plain.toml"], MILAN].concat()).code(2).contains("isolation"));
}

fn a_policy_is_checked_and_explained() {
    let lab = Lab::new();
    lab.policy(&[&["init", "-c", "vm.toml", "-o", "p.toml"], MILAN].concat()).ok();
    let check = lab.policy(&["check", "p.toml"]);
    assert_eq!(check.ok(), "p.toml: valid (policy web, version 1)\n");
    let explained = lab.policy(&["explain", "p.toml"]).ok();
    for line in
        ["policy web, version 1", "evidence: at least id-block", "guest policy, debugging by the host: never"]
    {
        assert!(explained.lines().any(|found| found == line), "no {line:?} in {explained}");
    }
    let report = lab.policy(&["explain", "p.toml", "--json"]).json();
    assert_eq!(report["sentences"][0], "policy web, version 1");
    assert_eq!(report["policy"]["platform"]["min_tcb"]["milan"]["snp"], 22);
    let report = lab.policy(&["check", "p.toml", "--json"]).json();
    assert_eq!(
        (&report["ok"], &report["id"], report["warnings"].as_array().map(Vec::len)),
        (&true.into(), &"web".into(), Some(1))
    );

    // A slip has its place, and an exit code.
    lab.write("bad.toml", &lab.read("p.toml").replace("measurements", "mesurements"));
    let said = lab.policy(&["check", "bad.toml"]).code(2);
    assert!(said.starts_with("error: bad.toml: ") && said.contains("mesurements"), "{said}");
    let ended = lab.policy(&["check", "bad.toml", "--json"]);
    ended.code(2);
    assert_eq!(ended.json()["ok"], false);
    assert!(lab.policy(&["check", "none.toml"]).code(5).contains("cannot read none.toml"));
    fs::write(lab.path("latin.toml"), b"id = \"\xff\"").unwrap();
    assert!(lab.policy(&["explain", "latin.toml"]).code(2).contains("UTF-8"));
}

fn what_lowers_the_floor_is_said_loudly_by_every_command() {
    let lab = Lab::new();
    lab.policy(&[&["init", "-c", "vm.toml", "-o", "p.toml"], MILAN].concat()).ok();
    let keys = [
        "unsafe_allow_debug",
        "unsafe_allow_migration_agent",
        "unsafe_any_measurement",
        "unsafe_isolation_none",
    ];
    let lines: String = keys.iter().map(|key| format!("{key} = true\n")).collect();
    lab.write("u.toml", &format!("{lines}{}", lab.read("p.toml")));
    for command in [&["check", "u.toml"][..], &["check", "u.toml", "--json"], &["explain", "u.toml"]] {
        let ended = lab.policy(command);
        ended.ok();
        for key in keys {
            let line = ended.said().lines().find(|line| line.contains(key)).map(str::to_owned);
            assert!(line.is_some_and(|line| line.contains("WARN")), "{command:?}, {key}: {}", ended.said());
        }
    }
    assert_eq!(
        lab.policy(&["check", "u.toml", "--json"]).json()["warnings"].as_array().map(Vec::len),
        // And what the boot profile of this guest does not prove.
        Some(5)
    );
}

/// Policies whose digests do not prove which code runs say so, each command, and in JSON.
fn what_a_digest_does_not_prove_is_said_by_every_command() {
    let lab = Lab::new();
    let init = lab.policy(&[&["init", "-c", "vm.toml", "-o", "p.toml"], MILAN].concat());
    init.ok();
    let disk = lab.read("p.toml");
    assert!(
        init.said().contains("WARN") && init.said().contains("the host chooses the disk"),
        "{}",
        init.said()
    );
    assert!(disk.contains("# Not proven, boot profile \"disk\""), "{disk}");
    lab.write("hashes.toml", &disk.replace("profiles = [\"disk\"]", "profiles = [\"hashes\", \"uki\"]"));
    lab.write("uki.toml", &disk.replace("profiles = [\"disk\"]", "profiles = [\"uki\"]"));
    for (file, says) in [
        ("p.toml", Some("the host chooses the disk")),
        ("hashes.toml", Some("unmeasured shim")),
        ("uki.toml", None),
    ] {
        for command in ["check", "explain"] {
            let ended = lab.policy(&[command, file]);
            ended.ok();
            match says {
                Some(says) => {
                    let said = ended.said();
                    assert!(
                        said.contains("WARN") && said.contains(says) && said.contains("Use the boot profile"),
                        "{said}"
                    );
                }
                None => assert_eq!(ended.said(), "", "{command} {file}"),
            }
            let json = lab.policy(&[command, file, "--json"]).json();
            let warnings = json["warnings"].as_array().unwrap();
            assert_eq!(warnings.len(), usize::from(says.is_some()), "{warnings:?}");
            assert!(says.is_none_or(|says| warnings[0].as_str().unwrap().contains(says)), "{warnings:?}");
        }
        let explained = lab.policy(&["explain", file]).ok();
        assert_eq!(explained.contains("not proven"), says.is_some(), "{explained}");
    }
}

fn a_vm_toml_stands_for_its_digests_until_the_policy_is_signed() {
    let lab = Lab::new();
    lab.toml("b.toml", 3, "");
    let source = "id = \"web\" # ours\nversion = 4\n[guest]\nprofiles = [\"disk\"]\n# both of them\nconfig = [\"vm.toml\", \"b.toml\"]\n\
                  vcpu_types = [\"EPYC-Milan\", \"0xa10f10\"]\n[platform]\nproducts = [\"milan\"]\n\
                  [platform.min_tcb.milan]\nbootloader = 0\ntee = 0\nsnp = 0\nmicrocode = 0\n";
    fs::create_dir(lab.path("policies")).unwrap();
    lab.write(
        "policies/source.toml",
        &source.replace("vm.toml", "../vm.toml").replace("\"b.toml", "\"../b.toml"),
    );
    let text = lab.policy(&["resolve", "policies/source.toml"]).ok();
    assert!(text.contains("# ours") && text.contains("# ../b.toml on 0xa10f10\n"), "{text}");
    let policy = Policy::parse(&text).unwrap();
    assert_eq!(policy.unresolved(), None);
    let wanted = [
        ("vm.toml", "EPYC-Milan"),
        ("vm.toml", "EPYC-Genoa"),
        ("b.toml", "EPYC-Milan"),
        ("b.toml", "EPYC-Genoa"),
    ];
    assert_eq!(policy.guest.measurements, wanted.map(|(config, cpu)| lab.measured(config, cpu)));
    // Again, into a file: nothing changes.
    lab.policy(&["resolve", "policies/source.toml", "-o", "out.toml"]).ok();
    assert_eq!(lab.policy(&["resolve", "out.toml"]).ok(), text);
    // The same text again loses nothing; over another file only if the user says so.
    lab.policy(&["resolve", "policies/source.toml", "-o", "out.toml"]).ok();
    lab.write("mine.toml", "a file of the user");
    let said = lab.policy(&["resolve", "policies/source.toml", "-o", "mine.toml"]).code(5);
    assert!(said.contains("mine.toml exists") && said.contains("--force"), "{said}");
    assert_eq!(lab.read("mine.toml"), "a file of the user");
    lab.policy(&["resolve", "policies/source.toml", "-o", "mine.toml", "--force"]).ok();
    assert_eq!(lab.read("mine.toml"), text);
    // One name, beside digests; what is known already is not written twice.
    let digest = lab.measured("vm.toml", "EPYC-Milan");
    let one = source
        .replace(
            "[\"vm.toml\", \"b.toml\"]",
            &format!("\"vm.toml\"\nmeasurements = [\"{digest}\", \"{}\"]", "ab".repeat(48)),
        )
        .replace(", \"0xa10f10\"", "");
    lab.write("one.toml", &one);
    let policy = Policy::parse(&lab.policy(&["resolve", "one.toml"]).ok()).unwrap();
    assert_eq!(policy.guest.measurements, [digest, Digest([0xab; 48])]);
    // The others measure on the fly.
    lab.policy(&["check", "one.toml"]).ok();
    assert!(lab.policy(&["explain", "policies/source.toml"]).ok().contains(&digest.to_string()));
    // A guest that is not there, is wrong, or that the policy refuses.
    lab.write("bad.toml", &source.replace("b.toml", "none.toml"));
    assert!(lab.policy(&["check", "bad.toml"]).code(2).contains("none.toml"));
    lab.write("bad.toml", &source.replace("\"disk\"", "\"uki\""));
    assert!(lab.policy(&["resolve", "bad.toml"]).code(2).contains("boot profile disk"));
    fs::remove_file(lab.path("fw.fd")).unwrap();
    assert!(lab.policy(&["check", "one.toml"]).code(2).contains("fw.fd"));
}

fn a_policy_is_tried_on_reports() -> suite::Result {
    let vectors = artefacts::vectors()?;
    let folder = vectors.to_str().unwrap();
    let lab = Lab::new();
    let tcb = |product: &str, fmc: &str| {
        format!("[platform.min_tcb.{product}]\n{fmc}bootloader = 0\ntee = 0\nsnp = 0\nmicrocode = 0\n")
    };
    let policy = format!(
        "id = \"all\"\nversion = 1\nunsafe_any_measurement = true\n[guest]\nmax_vmpl = 3\n[platform]\nproducts = [\"milan\", \"genoa\", \"turin\"]\n\
         crl = \"if-present\"\nallow_provisional = true\n{}{}{}",
        tcb("milan", ""),
        tcb("genoa", ""),
        tcb("turin", "fmc = 0\n")
    );
    lab.write("p.toml", &policy);
    let ended = lab.policy(&["test", "p.toml", folder, "--at", THEN]);
    assert!(ended.code(9).contains("unsafe_any_measurement"));
    let table = String::from_utf8(ended.0.stdout.clone()).unwrap();
    let row = |name: &str| {
        let found = table.lines().find(|line| line.split_whitespace().next() == Some(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {table}"))
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(row("tav-genoa"), "admitted");
    assert_eq!(row("gsg-milan-v2"), "refused policy.debug");
    // Without its roots nothing of the test PKI is believed; with them, as expected.
    assert!(row("synth/ok-milan-v3").starts_with("refused "));
    let all = lab.policy(&[
        "test",
        "p.toml",
        folder,
        "--at",
        THEN,
        "--test-roots",
        &format!("{folder}/synth/roots"),
        "--json",
    ]);
    assert!(all.code(9).contains("--test-roots"));
    let outcomes = all.json();
    let admitted = |name: &str| {
        outcomes.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()["admitted"].clone()
    };
    assert_eq!(admitted("synth/ok-milan-v3"), true);
    let manifest: Value =
        serde_json::from_slice(&fs::read(vectors.join("synth/manifest.json")).unwrap()).unwrap();
    let mut counted = (0, 0);
    for vector in manifest["vectors"].as_array().unwrap() {
        let (name, allow) = (vector["id"].as_str().unwrap(), vector["expected"] == "allow");
        // What only another policy refuses is not for this one.
        if !vectors.join(name).join("report.bin").is_file() || name.contains("/pol-") {
            continue;
        }
        assert_eq!(admitted(name), allow, "{name}: {vector}");
        counted = (counted.0 + u32::from(allow), counted.1 + u32::from(!allow));
    }
    assert!(counted.0 >= 10 && counted.1 >= 30, "{counted:?}");
    // One report alone, all of whose clauses hold.
    let good = format!("{folder}/tav-genoa");
    assert_eq!(
        lab.policy(&["test", "p.toml", &good, "--at", THEN]).ok(),
        ".  admitted\n1 admitted, 0 refused\n"
    );
    assert_eq!(lab.policy(&["test", "p.toml", &good, "--at", "0"]).0.status.code(), Some(9));
    // Rego code is not asked here, so nothing is certain.
    lab.write("x.rego", "package cvmm\n");
    let digest = "5c0f0a2a".repeat(12);
    lab.write("r.toml", &format!("{policy}[rego]\nfile = \"x.rego\"\nsha384 = \"{digest}\"\n"));
    let ended = lab.policy(&["test", "r.toml", &good, "--at", THEN]);
    ended.code(9);
    assert!(String::from_utf8(ended.0.stdout).unwrap().starts_with(".  refused   policy.rego\n"));
    assert!(lab.policy(&["check", "r.toml"]).code(2).contains("not rego.sha384"));
    // Nothing to try.
    assert!(lab.policy(&["test", "p.toml", "."]).code(2).contains("no report.bin"));
    assert!(lab.policy(&["test", "p.toml", "none"]).code(5).contains("cannot read none"));
    assert!(lab.policy(&["test", "p.toml", &good, "--test-roots", "."]).code(2).contains("no roots"));
    Ok(())
}

fn other_programs_policies_are_imported() {
    let lab = Lab::new();
    let measurement = "\\xaa".repeat(48);
    let text = format!(
        "policy: 0x30000 minimum_tcb: 0xd516000000000004 measurement: \"{measurement}\" product {{ name: SEV_PRODUCT_MILAN }}\n"
    );
    lab.write("web.textproto", &text);
    let words = ["import", "--from", "go-sev-guest", "web.textproto"];
    lab.policy(&[&words[..], &["-o", "web.toml"]].concat()).ok();
    assert_eq!(Policy::parse(&lab.read("web.toml")).unwrap().id, "web");
    lab.policy(&["check", "web.toml"]).ok();
    lab.write("mine.toml", "a file of the user");
    assert!(lab.policy(&[&words[..], &["-o", "mine.toml"]].concat()).code(5).contains("mine.toml exists"));
    assert_eq!(lab.read("mine.toml"), "a file of the user");
    lab.write("web.textproto", &format!("{text}minimum_build: 21\nreport_id: \"x\"\n"));
    let said = lab.policy(&words).code(2);
    assert!(
        said.contains("web.textproto is not imported: ")
            && said.contains("minimum_build: ")
            && said.contains("report_id: "),
        "{said}"
    );
    let leave = ["--leave-out", "minimum_build", "--leave-out", "report_id"];
    let ended = lab.policy(&[&words[..], &leave].concat());
    assert!(ended.ok().contains("# LEFT OUT by --leave-out: minimum_build\n"));
    assert!(ended.said().contains("LEFT OUT by --leave-out: report_id"));

    let claim =
        format!("{{\"claim\": \"x-ms-sevsnpvm-launchmeasurement\", \"equals\": \"{}\"}}", "ab".repeat(48));
    let skr = format!(
        "{{\"version\": \"1.0.0\", \"anyOf\": [{{\"authority\": \"https://a.example\", \"allOf\": [{claim}]}}]}}"
    );
    lab.write("key.json", &skr);
    let words = ["import", "--from", "azure-skr", "key.json", "--product", "milan", "--tcb", "4,0,22,213"];
    let text = lab.policy(&words).ok();
    assert_eq!(Policy::parse(&text).unwrap().guest.measurements, [Digest([0xab; 48])]);
    assert!(lab.policy(&words[..4]).code(2).contains("--product"));
    assert!(lab.policy(&["import", "--from", "azure-skr", "none.json"]).code(5).contains("none.json"));
}

suite!(
    init_writes_a_policy_that_admits_the_guest_and_no_other,
    a_gate_admits_the_guest_that_init_was_given,
    the_program_has_no_interpreter_in_it,
    init_writes_nothing_that_would_not_work,
    a_policy_is_checked_and_explained,
    what_lowers_the_floor_is_said_loudly_by_every_command,
    what_a_digest_does_not_prove_is_said_by_every_command,
    a_vm_toml_stands_for_its_digests_until_the_policy_is_signed,
    a_policy_is_tried_on_reports,
    other_programs_policies_are_imported,
);

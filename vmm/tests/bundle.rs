// SPDX-License-Identifier: Apache-2.0
//! `cvmm attest bundle` and `verify` as a person uses them: files of a guest that the software security
//! processor launched, and of a TPM that is libtpms; and all that might be shown instead.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_gate::tpm_ca::{PublicKey, TpmCa, TpmKeys};
use cvmm_gate_protocol::binding::{self, QuoteBinding};
use cvmm_gate_protocol::manifest::{TpmIdentity, Vtpm};
use cvmm_gate_protocol::messages::quote::from_values;
use cvmm_snp::digest::Digest;
use cvmm_test_support::gate::World;
use cvmm_test_support::gate::quote::{EventLog, ForgingKey, QuoteParts, Tpm};
use cvmm_tpm::public::{Key, Name};
use serde_json::Value;

const NONCE: [u8; 32] = [0x5a; 32];
const LAUNCH_NONCE: [u8; 32] = [3; 32];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exit code and output of `cvmm attest` with these words.
fn cvmm(words: &[&str]) -> (i32, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_cvmm")).arg("attest").args(words).output().unwrap();
    // An error has nothing on standard output; what is there may have warnings beside it.
    let text = if ended.stdout.is_empty() { ended.stderr } else { ended.stdout };
    (ended.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// A guest that was launched with a TPM, and the files that it leaves.
struct Lab {
    world: World,
    folder: tempfile::TempDir,
    /// Words that make a bundle of them.
    words: Vec<String>,
    ak: Name,
}

impl Lab {
    /// The TPM says what `show` makes of the qualifyingData; the manifest has the key `known`.
    fn new(ak: &cvmm_tpm::Public, known: &Name, show: impl FnOnce(&[u8]) -> QuoteParts) -> Self {
        let world = World::new();
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = world.gate.manifest.clone();
        manifest.machine.vtpm = Some(Vtpm {
            mode: "in-process".into(),
            pcr_banks: vec!["sha256".into(), "sha384".into()],
            state: true,
            identity: Some(TpmIdentity {
                ek_rsa: String::new(),
                ek_ecc: String::new(),
                ak: known.to_string(),
                epoch: 1,
            }),
        });
        let manifest = serde_json::to_string(&manifest).unwrap();
        let policy = fs::read(world.gate.path("policies/p.toml")).unwrap();
        let digest: Digest =
            hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, &policy).as_ref()).parse().unwrap();
        let host_data = binding::host_data(manifest.as_bytes(), &LAUNCH_NONCE, &digest);
        let mut guest = world.launch_as(None, host_data);
        let shown = show(&binding::quote_data(&NONCE, &[]));
        let name = ak.name();
        let quoted =
            QuoteBinding { ak_name: name.as_bytes(), attest: &shown.attest, signature: &shown.signature };
        let report = guest.report(&binding::quoted_report_data(&NONCE, "vm", &[], &quoted));
        let chip = fs::read_dir(world.gate.path("certificates/vcek")).unwrap().flatten().next().unwrap();
        let vek = fs::read_dir(chip.path()).unwrap().flatten().next().unwrap().path();
        let pcrs = serde_json::to_vec(&from_values(&shown.pcrs)).unwrap();
        let mut lab = Self { world, folder, words: vec![], ak: name };
        lab.word("--vm-id", "vm");
        for (option, bytes) in [
            ("--report", &report),
            ("--ak", &ak.to_bytes()),
            ("--quote", &shown.attest),
            ("--signature", &shown.signature),
            ("--pcrs", &pcrs),
            ("--manifest", &manifest.into_bytes()),
            ("--launch-policy", &policy),
        ] {
            lab.file(option, bytes);
        }
        if let Some(log) = &shown.log {
            lab.file("--event-log", log);
        }
        lab.word("--vek", vek.to_str().unwrap());
        lab.word("--launch-nonce", &hex(&LAUNCH_NONCE));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn word(&mut self, option: &str, value: &str) {
        self.words.extend([option.to_owned(), value.to_owned()]);
    }

    fn file(&mut self, option: &str, bytes: &[u8]) {
        let path = self.path(option.trim_start_matches('-'));
        fs::write(&path, bytes).unwrap();
        self.word(option, path.to_str().unwrap());
    }

    /// Makes the bundle.
    fn bundle(&self) -> PathBuf {
        let path = self.path("bundle.json");
        let output = ["bundle", "-o", path.to_str().unwrap()];
        let words: Vec<_> = output.into_iter().chain(self.words.iter().map(String::as_str)).collect();
        let (code, text) = cvmm(&words);
        assert_eq!(code, 0, "{text}");
        // Another bundle may be replaced, another file may not.
        let other = self.path("mine.json");
        fs::write(&other, "{\"format\": \"of the user\"}").unwrap();
        let output = ["bundle", "-o", other.to_str().unwrap()];
        let words: Vec<_> = output.into_iter().chain(self.words.iter().map(String::as_str)).collect();
        let (code, text) = cvmm(&words);
        assert!(code == 5 && text.contains("mine.json exists"), "{code}: {text}");
        fs::copy(&path, &other).unwrap();
        let (code, text) = cvmm(&words);
        assert_eq!(code, 0, "{text}");
        path
    }

    fn verify(&self, bundle: &Path, more: &[&str]) -> (i32, String) {
        let roots = self.world.gate.path("roots");
        let nonce = hex(&NONCE);
        let words =
            ["verify", bundle.to_str().unwrap(), "--nonce", &nonce, "--test-roots", roots.to_str().unwrap()];
        cvmm(&[&words[..], more].concat())
    }

    /// The codes of the reasons against a bundle, after `change`.
    fn codes(&self, more: &[&str], change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut bundle: Value = serde_json::from_slice(&fs::read(self.path("bundle.json")).unwrap()).unwrap();
        change(&mut bundle);
        let path = self.path("changed.json");
        fs::write(&path, bundle.to_string()).unwrap();
        let (code, text) = self.verify(&path, &[&["--json"], more].concat());
        let verdict: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        assert_eq!(code, if verdict["accepted"] == true { 0 } else { 9 });
        let reasons = verdict["reasons"].as_array().unwrap();
        reasons.iter().map(|reason| reason["code"].as_str().unwrap().to_owned()).collect()
    }
}

/// libtpms in a VM that was launched with it.
fn real() -> Lab {
    let mut tpm = Tpm::new();
    let ak = tpm.public.clone();
    Lab::new(&ak, &ak.name(), |data| tpm.quote(data))
}

/// A made-up TPM, whose words can be any.
fn forged(known: Option<&Name>, change: impl FnOnce(&mut cvmm_tpm::Attest)) -> Lab {
    let forger = ForgingKey::new();
    let name = known.cloned().unwrap_or_else(|| forger.public.name());
    Lab::new(&forger.public, &name, |data| forger.quote(data, change))
}

#[test]
fn all_that_a_guest_shows_is_judged_from_one_file() {
    let lab = real();
    let bundle = lab.bundle();
    let (code, text) = lab.verify(&bundle, &["--events"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("verified\n"), "{text}");
    for words in [
        "vouched for by     the manifest of the launch",
        "event log          8 events",
        "PCR  4 sha384      ",
        ", matches the event log",
    ] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    // A row for each event: PCR, type, the start of its digest, and what it says about itself.
    let table: Vec<Vec<_>> = text
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("PCR  event"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(table.len(), 9, "{text}");
    let row = &table[5];
    assert_eq!((row[0], row[1], row[3]), ("4", "EV_ACTION", "\"part"), "{table:?}");
    assert!(row[2].len() > 16 && row[2].ends_with('\u{2026}'), "{table:?}");
    let (_, text) = lab.verify(&bundle, &["--json"]);
    let verdict: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&verdict["believed"], &verdict["accepted"]), (&true.into(), &true.into()));
    assert_eq!(verdict["tpm"]["ak_name"], lab.ak.to_string());
    assert_eq!(verdict["tpm"]["pcrs"].as_array().unwrap().len(), 32);
    assert_eq!(verdict["tpm"]["event_log"]["events"][0]["name"], "EV_ACTION");
    assert_eq!(verdict["claims"]["requested_by"], "guest");

    // By a policy of the gate.
    let pcr4 = verdict["tpm"]["pcrs"].as_array().unwrap().iter().find(|pcr| pcr["index"] == 4).unwrap();
    let policy = lab.path("policy.toml");
    let write = |value: &str| {
        let text = fs::read_to_string(lab.world.gate.path("policies/p.toml")).unwrap();
        let vtpm = format!(
            "[vtpm]\nquote = \"require\"\nevent_log = \"require\"\n[vtpm.pcr.sha256]\n4 = [\"{value}\"]\n"
        );
        fs::write(&policy, format!("{text}{vtpm}")).unwrap();
    };
    let policy = policy.to_str().unwrap();
    write(pcr4["value"].as_str().unwrap());
    let same = |_: &mut Value| {};
    assert!(lab.codes(&["--policy", policy], same).is_empty());
    write(&"00".repeat(32));
    assert_eq!(lab.codes(&["--policy", policy], same), ["policy.pcr"]);
    let quoteless =
        lab.codes(&["--policy", policy], |bundle| drop(bundle.as_object_mut().unwrap().remove("tpm")));
    assert_eq!(quoteless, ["policy.report-data", "policy.quote"]);

    // Another question, another VM, another launch.
    let other = hex(&[1; 32]);
    let (code, text) = cvmm(&[
        "verify",
        bundle.to_str().unwrap(),
        "--nonce",
        &other,
        "--test-roots",
        lab.world.gate.path("roots").to_str().unwrap(),
    ]);
    assert_eq!(code, 9);
    assert!(text.contains("policy.report-data: ") && text.contains("quote.nonce: "), "{text}");
    assert_eq!(
        lab.codes(&[], |bundle| bundle["vm_id"] = "vn".into()),
        ["policy.report-data", "bundle.launch", "bundle.identity"]
    );
    let launch = |bundle: &mut Value| bundle["launch"]["nonce"] = STANDARD.encode([4; 32]).into();
    assert_eq!(lab.codes(&[], launch), ["bundle.launch", "bundle.identity"]);
    let log = |bundle: &mut Value| {
        let mut log = EventLog::new();
        log.add(4, b"another boot");
        bundle["tpm"]["quote"]["event_log"] = STANDARD.encode(log.0).into();
    };
    assert_eq!(lab.codes(&[], log), ["eventlog.replay"]);
    let pcrs = |bundle: &mut Value| bundle["tpm"]["quote"]["pcrs"][0]["value"] = "00".repeat(32).into();
    assert_eq!(lab.codes(&[], pcrs), ["quote.pcrs"]);
    // Without AMD's or the test PKI's word there is nothing.
    let (code, text) = cvmm(&["verify", bundle.to_str().unwrap(), "--nonce", &hex(&NONCE)]);
    assert!(code == 9 && text.starts_with("not verified"), "{text}");
}

#[test]
fn a_quote_counts_only_if_its_key_is_vouched_for() {
    let lab = forged(None, |_| {});
    lab.bundle();
    let same = |_: &mut Value| {};
    assert!(lab.codes(&[], same).is_empty());
    let name = lab.ak.to_string();
    let alone = |bundle: &mut Value| drop(bundle.as_object_mut().unwrap().remove("launch"));
    assert_eq!(lab.codes(&[], alone), ["bundle.identity"]);
    assert!(lab.codes(&["--ak-name", &name], alone).is_empty());
    assert_eq!(lab.codes(&["--ak-name", &format!("000c{}", "00".repeat(48))], same), ["bundle.identity"]);
    // The manifest belongs to a different TPM.
    let other = forged(Some(&lab.ak), |_| {});
    other.bundle();
    assert_eq!(other.codes(&[], same), ["bundle.identity"]);

    // The gate's authority.
    let folder = lab.path("authority");
    fs::create_dir(&folder).unwrap();
    TpmCa::generate(&folder, 1_700_000_000).unwrap();
    let ca = TpmCa::load(&folder).unwrap();
    let public = cvmm_tpm::Public::parse(&fs::read(lab.path("ak")).unwrap()).unwrap();
    let Key::Ecc { x, y, .. } = &public.key else { panic!() };
    let ak = PublicKey::P384 { x, y };
    let certify = |vm_id: &str, keys: TpmKeys<'_>| ca.certify(vm_id, &keys, 1_700_000_000).unwrap();
    let good = certify("vm", TpmKeys { ek_rsa: ak, ek_ecc: ak, ak });
    let of_another_vm = certify("vn", TpmKeys { ek_rsa: ak, ek_ecc: ak, ak }).ak;
    let forger = ForgingKey::new();
    let Key::Ecc { x, y, .. } = &forger.public.key else { panic!() };
    let of_another_key = certify("vm", TpmKeys { ek_rsa: ak, ek_ecc: ak, ak: PublicKey::P384 { x, y } }).ak;
    let certificate = folder.join("tpm-ca.crt");
    let authority = ["--tpm-ca", certificate.to_str().unwrap()];
    let with = |certificate: &[u8], authority: &[&str]| {
        lab.codes(authority, |bundle| {
            alone(bundle);
            bundle["tpm"]["ak_certificate"] = STANDARD.encode(certificate).into();
        })
    };
    assert!(with(&good.ak, &authority).is_empty());
    let mut changed = good.ak.clone();
    *changed.last_mut().unwrap() ^= 1;
    for wrong in [&changed, &of_another_vm, &of_another_key, &good.ek_ecc, &vec![]] {
        assert_eq!(with(wrong, &authority), ["bundle.identity"]);
    }
    assert_eq!(
        with(&good.ak, &["--tpm-ca", authority[1], "--at", "1600000000"]).first().map(String::as_str),
        Some("chain.not-yet-valid")
    );
    let stranger = lab.path("stranger");
    fs::create_dir(&stranger).unwrap();
    TpmCa::generate(&stranger, 1_700_000_000).unwrap();
    let stranger = stranger.join("tpm-ca.crt");
    assert_eq!(with(&good.ak, &["--tpm-ca", stranger.to_str().unwrap()]), ["bundle.identity"]);
}

#[test]
fn invalid_bundles_are_reported_and_forged_quotes_refused() {
    let lab = forged(None, |attest| attest.magic = 0);
    let bundle = lab.bundle();
    let same = |_: &mut Value| {};
    assert_eq!(lab.codes(&[], same), ["quote.magic"]);
    let format = |change: fn(&mut Value)| assert_eq!(lab.codes(&[], change), ["bundle.format"]);
    format(|bundle| bundle["version"] = 2.into());
    format(|bundle| bundle["more"] = 2.into());
    format(|bundle| bundle["report"] = "?".into());
    format(|bundle| bundle["tpm"]["ak"] = "AAAA".into());
    format(|bundle| bundle["tpm"]["quote"]["pcrs"][0]["bank"] = "md5".into());
    format(|bundle| bundle["launch"]["nonce"] = "AAAA".into());
    format(|bundle| bundle["launch"]["manifest"] = "{}".into());
    // Files with other content are not valid bundles.
    let text = fs::read_to_string(&bundle).unwrap();
    let from = |words: &[&str]| cvmm(&[&["bundle", "--from", bundle.to_str().unwrap()], words].concat());
    let (code, again) = from(&[]);
    assert_eq!((code, again.trim()), (0, text.trim()));
    let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
    let parts = |ak: &str, log: &str| {
        from(&[
            "--ak",
            ak,
            "--quote",
            &path("quote"),
            "--signature",
            &path("signature"),
            "--pcrs",
            &path("pcrs"),
            "--event-log",
            log,
        ])
    };
    let (code, text) = parts(&path("quote"), &path("quote"));
    assert!(code != 0 && text.contains("type at byte 0 is "), "{code}: {text}");
    let (code, text) = parts(&path("ak"), &path("quote"));
    assert!(code != 0 && text.contains("event log"), "{code}: {text}");
    assert_eq!(from(&["--manifest", &path("manifest")]).0, 2, "a manifest needs what it was approved with");
    assert_eq!(cvmm(&["verify", &path("nothing"), "--nonce", &hex(&NONCE)]).0, 5);
    assert_eq!(cvmm(&["verify", &path("nothing"), "--nonce", "00"]).0, 2);
}

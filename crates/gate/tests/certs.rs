// SPDX-License-Identifier: Apache-2.0
//! The certificate store: what enters it and under which name, what is refused, and how both are shown. With
//! AMD's own certificates (and those of the test PKI) from the published vectors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cvmm_attest::claims::SigningKey;
use cvmm_attest::roots::Trust;
use cvmm_attest::verify::hint;
use cvmm_gate::engine::trust;
use cvmm_gate::setup;
use cvmm_gate::store::certificates::Store;
use cvmm_gate::store::certificates::import::{ImportResult, import};
use cvmm_gate::store::certificates::list::list;
use cvmm_psp::{Authority, Pki, Product};
use cvmm_test_support::artefacts::vectors;
use cvmm_test_support::attest::NOW;
use cvmm_test_support::psp::keys_folder;
use cvmm_test_support::{needs, suite};
use serde_json::Value;
use tempfile::TempDir;

fn code(imported: &[ImportResult]) -> &str {
    match imported {
        [one] => one.refused.as_ref().map_or("stored", |reason| &reason.code),
        other => panic!("{other:?}"),
    }
}

fn synth(vectors: &Path) -> Trust {
    trust(Some(&vectors.join("synth/roots"))).unwrap()
}

fn certificates_of_real_chips_are_stored_where_the_gate_looks() -> suite::Result {
    let vectors = vectors()?;
    let (store, amd) = (tempfile::tempdir().unwrap(), Trust::amd().unwrap());
    let manifest: Value = serde_json::from_slice(&fs::read(vectors.join("manifest.json")).unwrap()).unwrap();
    let mut stored = 0;
    let mut refused = Vec::new();
    for vector in manifest["vectors"].as_array().unwrap() {
        let folder = vectors.join(vector["id"].as_str().unwrap());
        let (Ok(report), Ok(vek)) = (fs::read(folder.join("report.bin")), fs::read(folder.join("vek.der")))
        else {
            continue;
        };
        let imported = import(store.path(), &folder.join("vek.der"), None, &amd, NOW);
        if code(&imported) != "stored" {
            refused.push(code(&imported).to_owned());
            continue;
        }
        stored += 1;
        // What the report asks for is found, unless it is another's.
        let Ok(hint) = hint(&report) else { continue };
        if hint.subjects().is_empty() {
            continue;
        }
        let found = Store::new(store.path()).vek(&hint);
        if vector["expected"].as_str().unwrap().starts_with("allow") {
            assert_eq!(found.as_deref(), Ok(vek.as_slice()), "{}", vector["id"]);
        }
    }
    assert!(stored >= 20, "{stored}");
    // Forged and expired ones are among the vectors.
    for expected in ["chain.signature", "chain.expired"] {
        assert!(refused.iter().any(|code| code == expected), "{expected}: {refused:?}");
    }
    let listed = list(store.path(), &amd, NOW).unwrap();
    assert!(listed.iter().all(|entry| entry.state == "good"), "{listed:?}");
    assert!(listed.iter().any(|entry| entry.tcb.is_some_and(|tcb| tcb.fmc.is_some())), "no Turin");
    assert!(listed.iter().filter(|entry| entry.what == Some("vcek")).all(|entry| entry.chip.is_some()));
    // In a hundred years none is.
    let later = list(store.path(), &amd, NOW + 100 * 366 * 86_400).unwrap();
    assert!(later.iter().all(|entry| entry.state == "expired"));
    assert_eq!(later[0].problem.as_ref().unwrap().code, "chain.expired");
    Ok(())
}

fn certificates_without_a_trusted_issuer_are_refused() -> suite::Result {
    let vectors = vectors()?;
    let (store, amd) = (tempfile::tempdir().unwrap(), Trust::amd().unwrap());
    let synthetic = synth(&vectors);
    let inputs = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = inputs.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let import = |path: &Path, trust: &Trust| import(store.path(), path, None, trust, NOW);
    let from = |name: &str| vectors.join("synth").join(name);
    // A test PKI's, without saying so.
    assert_eq!(code(&import(&from("ok-milan-v3/vek.der"), &amd)), "chain.signature");
    assert_eq!(code(&import(&from("crl-vcek-revoked/crl.der"), &amd)), "crl.signature");
    // Each of them is a certificate that some verifier takes.
    for (name, expected) in [
        ("ch-pkcs1", "chain.algorithm"),
        ("ch-sha256", "chain.algorithm"),
        ("ch-spl-negative", "vek.malformed"),
        ("ch-missing-hwid", "vek.malformed"),
        ("ch-missing-fmc", "vek.malformed"),
        ("ch-hwid-and-csp", "vek.malformed"),
        ("ch-notyet-vcek", "chain.not-yet-valid"),
        ("ch-expired-vlek", "chain.expired"),
        ("ch-vcek-by-asvk", "chain.issuer"),
    ] {
        assert_eq!(code(&import(&from(&format!("{name}/vek.der")), &synthetic)), expected, "{name}");
    }
    let good = fs::read(from("ok-milan-v3/vek.der")).unwrap();
    let root = fs::read(vectors.join("synth/roots/milan_ark.der")).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (bytes, expected) in [
        (&flipped[..], "chain.signature"),
        (&good[..good.len() - 1], "vek.malformed"),
        (&[&good[..], &[0]].concat(), "vek.malformed"),
        (b"", "gate.certificate"),
        (b"hello", "gate.certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "gate.certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "gate.certificate"),
        ("-----BEGIN X-----\n".repeat(17).as_bytes(), "gate.certificate"),
        (&vec![0x30; 2 << 20], "gate.certificate"),
    ] {
        assert_eq!(
            code(&import(&put("x", bytes), &synthetic)),
            expected,
            "{:?}",
            &bytes[..bytes.len().min(30)]
        );
    }
    assert_eq!(code(&import(&put("root", &root), &amd)), "chain.intermediate");
    assert_eq!(code(&import(&inputs.path().join("none"), &amd)), "gate.certificate");
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0, "something was stored");
    Ok(())
}

fn a_revocation_list_says_whose_it_is_and_never_goes_back() -> suite::Result {
    let vectors = vectors()?;
    let (store, trust) = (tempfile::tempdir().unwrap(), synth(&vectors));
    let crl = vectors.join("synth/crl-vcek-revoked/crl.der");
    let import = |crl_for, at| import(store.path(), &crl, crl_for, &trust, at);
    // Its name does not tell, its content cannot.
    assert_eq!(code(&import(None, NOW)), "gate.certificate");
    assert_eq!(code(&import(Some(SigningKey::Vcek), 0)), "crl.future");
    assert_eq!(code(&import(Some(SigningKey::Vcek), NOW)), "stored");
    assert!(store.path().join("crl/milan-vcek.der").is_file());
    assert_eq!(code(&import(Some(SigningKey::Vlek), NOW)), "stored");
    assert!(store.path().join("crl/milan-vlek.der").is_file());
    let again = import(Some(SigningKey::Vcek), NOW);
    assert_eq!(again[0].note.as_deref(), Some("already stored"));
    // What it revokes stays so when it is overdue; that is said.
    let late = import(Some(SigningKey::Vcek), NOW + 20 * 366 * 86_400);
    assert!(late[0].note.as_ref().unwrap().contains("overdue"), "{late:?}");
    let listed = list(store.path(), &trust, NOW + 20 * 366 * 86_400).unwrap();
    assert!(listed.iter().all(|entry| entry.state == "overdue" && entry.revoked == Some(1)), "{listed:?}");
    Ok(())
}

fn an_older_revocation_list_does_not_replace_a_newer_one() {
    let (store, keys) = (tempfile::tempdir().unwrap(), keys_folder());
    let pki = Pki::open(keys.path()).unwrap();
    let roots = tempfile::tempdir().unwrap();
    for (who, name) in [(Authority::Ark, "ark"), (Authority::Ask, "ask")] {
        let der = pki.authority(who, Product::Milan).unwrap();
        fs::write(roots.path().join(format!("milan_{name}.der")), der).unwrap();
    }
    let trust = trust(Some(roots.path())).unwrap();
    let list = |name: &str| {
        let path = roots.path().join(name);
        fs::write(&path, pki.crl(Product::Milan, &[Authority::Ask]).unwrap()).unwrap();
        path
    };
    let old = list("milan-vcek-1.der");
    thread::sleep(Duration::from_millis(1100)); // their times have seconds
    let new = list("milan-vcek-2.der");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + 1;
    let import = |path: &Path| import(store.path(), path, None, &trust, now);
    assert_eq!(code(&import(&old)), "stored");
    assert_eq!(import(&new)[0].note.as_deref(), Some("replaced a different one"));
    let refused = import(&old);
    assert!(refused[0].refused.as_ref().unwrap().message.contains("is newer than this list"), "{refused:?}");
    assert_eq!(fs::read(store.path().join("crl/milan-vcek.der")).unwrap(), fs::read(new).unwrap());
}

fn authorities_are_built_in() -> suite::Result {
    let vectors = vectors()?;
    let (store, amd) = (tempfile::tempdir().unwrap(), Trust::amd().unwrap());
    let chain = store.path().join("chain.pem");
    for line in ["milan", "genoa", "turin"] {
        let read = |name: &str| fs::read(vectors.join(format!("roots/{line}_{name}.pem"))).unwrap();
        fs::write(&chain, [read("asvk"), read("ask"), read("ark")].concat()).unwrap();
        let imported = import(store.path(), &chain, None, &amd, NOW);
        assert_eq!(imported.len(), 3, "{imported:?}");
        for entry in imported {
            assert_eq!((entry.what, entry.stored, entry.refused), (Some("authority"), None, None));
        }
    }
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 1, "something was stored");
    Ok(())
}

fn gate() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    setup::init(folder.path()).unwrap();
    let config = folder.path().join("gate.toml");
    (folder, config)
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cvmm-gate")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn the_commands_say_it_as_text_and_as_json() -> suite::Result {
    let vectors = vectors()?;
    let (folder, config) = gate();
    let config = config.to_str().unwrap();
    let vek = vectors.join("oak-turin-oc/vek.der");
    let forged = folder.path().join("forged.der");
    let mut bytes = fs::read(&vek).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&forged, bytes).unwrap();
    let (vek, forged) = (vek.to_str().unwrap(), forged.to_str().unwrap());

    let output = program(&["certs", "import", "-c", config, "--json", vek, forged]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let imported: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(imported[0]["stored"].as_str().unwrap().contains("_fmc"), "{imported}");
    assert_eq!(imported[1]["refused"]["code"], "chain.signature");
    let output = program(&["certs", "import", "-c", config, vek]);
    assert!(output.status.success() && text(&output).contains("already stored"), "{}", text(&output));

    let output = program(&["certs", "list", "-c", config]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("good   vcek  turin"), "{}", text(&output));
    let output = program(&["certs", "list", "-c", config, "--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((listed[0]["state"].as_str(), listed[0]["product"].as_str()), (Some("good"), Some("turin")));
    let chip = listed[0]["chip"].as_str().unwrap().to_owned();

    // A file that was copied there by hand.
    fs::write(folder.path().join("certificates/vcek").join(&chip).join("vcek2.der"), fs::read(vek).unwrap())
        .unwrap();
    fs::create_dir_all(folder.path().join("certificates/crl")).unwrap();
    fs::write(folder.path().join("certificates/crl/turin-vcek.der"), "x").unwrap();
    let output = program(&["certs", "list", "-c", config]);
    assert_eq!(output.status.code(), Some(3));
    let shown = text(&output);
    assert!(shown.contains("misplaced") && shown.contains("the gate looks for it as vcek/"), "{shown}");
    assert!(shown.contains("bad") && shown.contains("neither DER nor PEM"), "{shown}");

    // What to fetch for a report is what it was signed with.
    let report = vectors.join("oak-turin-oc/report.bin");
    let output = program(&["certs", "urls", "--json", "--report", report.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    let urls: Value = serde_json::from_slice(&output.stdout).unwrap();
    let url = urls[0]["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("https://kdsintf.amd.com/vcek/v1/Turin/{chip}?blSPL=")), "{url}");
    assert!(url.contains("&fmcSPL="), "{url}");
    let old = vectors.join("gsg-milan-v2/report.bin");
    let output = program(&["certs", "urls", "--report", old.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("--product"), "{}", text(&output));
    let output = program(&["certs", "urls", "--product", "milan", "--report", old.to_str().unwrap()]);
    assert!(output.status.success() && text(&output).contains("/vcek/v1/Milan/"), "{}", text(&output));
    let (chip, tcb) = ("00".repeat(63) + "01", "bootloader=4,tee=0,snp=22,microcode=213");
    let output = program(&["certs", "urls", "--product", "genoa", "--chip", &chip, "--tcb", tcb]);
    assert!(text(&output).contains(&format!("Genoa/{chip}?blSPL=04&teeSPL=00&snpSPL=22&ucodeSPL=213'")));
    Ok(())
}

fn without_a_security_processor_urls_need_a_report() -> suite::Result {
    needs::require(!Path::new("/dev/sev").exists(), "needs a host without /dev/sev")?;
    let output = program(&["certs", "urls"]);
    assert!(output.status.code() == Some(1) && text(&output).contains("/dev/sev"), "{}", text(&output));
    Ok(())
}

fn keys_are_shown_by_their_public_halves() {
    let (folder, config) = gate();
    let config = config.to_str().unwrap();
    let public = fs::read_to_string(folder.path().join("keys/verdict.pem.pub")).unwrap();
    let output = program(&["keys", "show", "-c", config, "--verdict-pem"]);
    assert_eq!(text(&output), public);
    let output = program(&["keys", "show", "-c", config, "--json"]);
    let keys: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(keys["verdict"]["pem"], public.as_str());
    assert_eq!(keys["id"]["digest"].as_str().unwrap().len(), 96);
    assert!(keys["author"].is_null());
    // A new one, which is not made twice.
    let (new, folder) = (folder.path().join("new.pem"), folder.path());
    assert!(program(&["keys", "new", new.to_str().unwrap()]).status.success());
    assert!(cvmm_gate::keys::Signer::load(&new).is_ok() && folder.join("new.pem.pub").is_file());
    assert_eq!(program(&["keys", "new", new.to_str().unwrap()]).status.code(), Some(1));
    let shown = text(&program(&["keys", "show", "-c", config]));
    assert!(shown.contains(keys["id"]["digest"].as_str().unwrap()) && !shown.contains("PRIVATE"), "{shown}");
}

fn manual_completions_and_exit_codes() {
    for (command, part) in [
        (&[][..], "Exit codes:"),
        (&["certs", "import"], ".TH cvmm-gate-certs-import"),
        (&["keys", "show"], ".TH cvmm-gate-keys-show"),
    ] {
        let page = text(&program(&[&["man"], command].concat()));
        assert!(page.contains(".TH cvmm-gate") && page.contains(part), "{part} is missing:\n{page}");
    }
    for shell in ["bash", "fish", "zsh"] {
        assert!(text(&program(&["completions", shell])).contains("cvmm-gate"), "{shell}");
    }
    assert_eq!(program(&["certs"]).status.code(), Some(2));
    let (_folder, config) = gate();
    let content = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("sandbox = \"maybe\"\n{content}")).unwrap();
    let output = program(&["check", "-c", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("best-effort"), "{}", text(&output));
}

suite!(
    certificates_of_real_chips_are_stored_where_the_gate_looks,
    certificates_without_a_trusted_issuer_are_refused,
    a_revocation_list_says_whose_it_is_and_never_goes_back,
    an_older_revocation_list_does_not_replace_a_newer_one,
    authorities_are_built_in,
    the_commands_say_it_as_text_and_as_json,
    without_a_security_processor_urls_need_a_report,
    keys_are_shown_by_their_public_halves,
    manual_completions_and_exit_codes,
);

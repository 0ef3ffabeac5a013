// SPDX-License-Identifier: Apache-2.0
//! Commands from their words to their output and exit code, with a machine made of paper.

use cvmm_launch::samples::firmware::Image;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use cvmm_timeline::{Phase, Recording};

use super::timeline::label;
use super::*;
use crate::config::Checks;

#[derive(Debug, thiserror::Error)]
#[error("the machine broke")]
struct Broken(#[source] io::Error);

impl ExitReport for Broken {
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::TripleFault
    }
}

struct Ended;

impl ExitReport for Ended {
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::Success
    }

    fn exits(&self) -> Option<BTreeMap<String, u64>> {
        Some(BTreeMap::from([("io.0x3f8".to_owned(), 5), ("hlt".to_owned(), 9)]))
    }
}

/// Runs a command; gives exit status, standard output and standard error.
fn cvmm(
    words: &[&str],
    run: impl FnOnce(Config, RunOptions) -> Result<Ended, Broken>,
) -> (ExitStatus, String, String) {
    let cli = Cli::try_parse_from(std::iter::once(&"cvmm").chain(words)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut session = Session { out: &mut out, err: &mut err, format: cli.log_format };
    let status = session.execute(cli.command, Arc::new(Timeline::start()), run);
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn idle(words: &[&str]) -> (ExitStatus, String, String) {
    cvmm(words, |_, _| panic!("runs nothing"))
}

const VM: &str = r#"name = "example"
vcpus = 2
memory = "1GiB"
low_memory = "256MiB"
isolation = "none"
firmware = "OVMF.fd"
[boot]
profile = "disk"
[[disk]]
path = "disk.img"
"#;

/// A firmware image with an empty OVMF GUID table, which is all that is asked of it without isolation.
fn firmware() -> Vec<u8> {
    const TABLE: [u8; 18] = [
        18, 0, 0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d,
    ];
    let mut image = vec![0; 8192];
    image[8142..8160].copy_from_slice(&TABLE);
    image
}

/// A folder with a vm.toml whose files can be used.
fn machine() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("OVMF.fd"), firmware()).unwrap();
    fs::write(folder.path().join("disk.img"), [0; 4096]).unwrap();
    let path = folder.path().join("vm.toml");
    fs::write(&path, VM).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn the_grammar_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_run_passes_its_options_and_writes_its_timeline() {
    let (folder, toml) = machine();
    let file = folder.path().join("t.json");
    let words =
        ["run", "--config", &toml, "--timeline", file.to_str().unwrap(), "--exit-stats", "--grace", "7"];
    let (status, out, err) = cvmm(&words, |config, options| {
        assert_eq!((config.vcpus, options.grace, options.exit_stats), (2, Duration::from_secs(7), true));
        assert!(options.timeline.reached(Phase::Config).is_some());
        assert!(options.timeline.mark(Phase::FirstRun));
        Ok(Ended)
    });
    assert_eq!((status, out.as_str()), (ExitStatus::Success, ""));
    let lines: Vec<_> = err.lines().map(str::trim).collect();
    assert_eq!(lines, ["14 exits", "9 hlt", "5 io.0x3f8"]);
    let recording = Recording::read(&file).unwrap();
    assert_eq!(recording.vm, "example");
    let names: Vec<_> = recording.phases.iter().map(|mark| mark.name.as_str()).collect();
    assert_eq!(names, ["process_start", "config", "first_run", "exit"]);
    assert_eq!(recording.exits.unwrap()["hlt"], 9);
    let (status, svg, _) = idle(&["timeline", file.to_str().unwrap()]);
    assert_eq!(status, ExitStatus::Success);
    assert!(svg.starts_with("<svg") && svg.contains(">14 exits</text>"));
}

#[test]
fn a_failed_run_gives_its_code_and_causes_and_still_a_timeline() {
    let (folder, toml) = machine();
    let file = folder.path().join("t.json");
    let fail = |_, _| Err(Broken(io::Error::other("no such luck")));
    let (status, _, err) = cvmm(&["run", "-c", &toml, "--timeline", file.to_str().unwrap()], fail);
    assert_eq!((status, err.as_str()), (ExitStatus::TripleFault, "error: the machine broke: no such luck\n"));
    let recording = Recording::read(&file).unwrap();
    assert_eq!((recording.ended_in.as_deref(), recording.exit_code), (Some("launch plan"), Some(10)));
    let in_firmware = |_, options: RunOptions| {
        assert!(options.timeline.mark(Phase::FirstRun) && options.timeline.mark(Phase::Firmware));
        assert!(options.timeline.mark(Phase::PowerOff));
        Err(Broken(io::Error::other("no such luck")))
    };
    cvmm(&["run", "-c", &toml, "--timeline", file.to_str().unwrap()], in_firmware);
    let (_, text, _) = idle(&["timeline", "--text", file.to_str().unwrap()]);
    assert!(text.contains("firmware (ended)") && text.contains("ended in: firmware, exit code 10"), "{text}");
    assert!(!text.contains("user space"), "{text}");
    let (_, svg, _) = idle(&["timeline", file.to_str().unwrap()]);
    assert!(svg.contains("ended in: firmware, exit code 10"), "{svg}");
    let folder = folder.path().to_str().unwrap();
    let (status, _, err) =
        cvmm(&["run", "-c", &toml, "--timeline", folder], |_, _| -> Result<Ended, Broken> {
            panic!("ran although its timeline cannot be written")
        });
    assert_eq!(status, ExitStatus::File);
    assert!(err.contains("timeline: cannot write"), "{err}");
}

#[test]
fn a_timeline_replaces_a_timeline_and_nothing_else() {
    let (folder, toml) = machine();
    let mine = folder.path().join("mine.json");
    fs::write(&mine, "{\"a file\": \"of the user\"}").unwrap();
    let words = ["run", "-c", &toml, "--timeline", mine.to_str().unwrap()];
    let (status, _, err) = cvmm(&words, |_, _| -> Result<Ended, Broken> {
        panic!("ran although its timeline cannot be written")
    });
    assert_eq!(status, ExitStatus::File);
    assert!(err.contains("mine.json exists and was not written by this command"), "{err}");
    assert_eq!(fs::read_to_string(&mine).unwrap(), "{\"a file\": \"of the user\"}");

    let json = folder.path().join("t.json");
    let json = json.to_str().unwrap();
    for _ in 0..2 {
        let (status, _, err) = cvmm(&["run", "-c", &toml, "--timeline", json], |_, _| Ok(Ended));
        assert_eq!(status, ExitStatus::Success, "{err}");
    }
    let svg = folder.path().join("t.svg");
    for (content, options, wanted) in [
        ("", &[][..], ExitStatus::Success),
        // The drawing that is there now.
        ("same", &[], ExitStatus::Success),
        ("<svg >a drawing of the user</svg>", &[], ExitStatus::File),
        ("<svg >a drawing of the user</svg>", &["--force"], ExitStatus::Success),
    ] {
        if content != "same" {
            fs::write(&svg, content).unwrap();
        }
        let words = [&["timeline", json, "--output", svg.to_str().unwrap()], options].concat();
        let (status, _, err) = idle(&words);
        assert_eq!(status, wanted, "{content:?} {options:?}: {err}");
        let is = fs::read_to_string(&svg).unwrap();
        if wanted == ExitStatus::Success {
            assert!(is.ends_with("</svg>\n") && !is.contains("of the user"), "{is}");
        } else {
            assert!(err.contains("t.svg exists") && err.contains("--force"), "{err}");
            assert_eq!(is, content);
        }
    }
    // A trace replaces a trace, and a drawing stays.
    let trace = folder.path().join("t.trace.json");
    for _ in 0..2 {
        let words = ["timeline", "--trace", json, "--output", trace.to_str().unwrap()];
        assert_eq!(idle(&words).0, ExitStatus::Success);
    }
    let (status, printed, _) = idle(&["timeline", "--trace", json]);
    assert_eq!((status, printed), (ExitStatus::Success, fs::read_to_string(&trace).unwrap()));
    let (status, _, err) = idle(&["timeline", "--trace", json, "--output", svg.to_str().unwrap()]);
    assert_eq!(status, ExitStatus::File, "{err}");
    assert!(fs::read_to_string(&svg).unwrap().starts_with("<svg "));
}

/// Each option that names a file or folder to be written. A new one needs a test that it overwrites no file
/// of the user: those of `run` and `timeline` are above, the others' in vmm/tests (measure.rs, policy.rs,
/// bundle.rs), and `state` makes new files only.
#[test]
fn every_option_that_names_an_output_is_known() {
    fn collect(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        for arg in command.get_arguments() {
            let (Some(name), help) = (arg.get_long(), arg.get_help().map(ToString::to_string)) else {
                continue;
            };
            let help = help.unwrap_or_default().to_lowercase();
            let value = arg.get_action().takes_values();
            if value
                && (name.contains("out") && name != "output-format" && !name.ends_with("timeout")
                    || help.contains("write"))
            {
                found.push(format!("{path} --{name}"));
            }
        }
        for inner in command.get_subcommands() {
            collect(inner, &format!("{path} {}", inner.get_name()), found);
        }
    }
    let mut found = Vec::new();
    collect(&Cli::command(), "cvmm", &mut found);
    found.retain(|option| !option.contains("--leave-out"));
    found.sort();
    assert_eq!(
        found,
        [
            "cvmm attest bundle --output",
            // Written with O_EXCL, and tested in cvmm-manual.
            "cvmm man --out",
            "cvmm measure --id-auth",
            "cvmm measure --id-block",
            "cvmm measure --write-firmware",
            "cvmm measure --write-igvm",
            "cvmm measure --write-keys",
            "cvmm policy import --output",
            "cvmm policy init --output",
            "cvmm policy resolve --output",
            "cvmm run --timeline",
            "cvmm state export --out",
            "cvmm timeline --output",
            "cvmm uki build --output",
        ]
    );
}

#[test]
fn nothing_runs_with_a_wrong_configuration() {
    let (_folder, toml) = machine();
    fs::write(&toml, fs::read_to_string(&toml).unwrap().replace("= \"none\"", "= \"some\"")).unwrap();
    let (status, _, err) = idle(&["run", "--config", &toml]);
    assert_eq!(status, ExitStatus::Usage);
    assert!(err.contains("error[config.isolation.value]"), "{err}");
    let (status, _, err) = idle(&["run", "--config", "/nonexistent/vm.toml"]);
    assert_eq!(status, ExitStatus::Usage);
    assert!(err.contains("/nonexistent/vm.toml"), "{err}");
}

#[test]
fn check_tells_people_and_programs() {
    let (folder, toml) = machine();
    let (status, out, err) = idle(&["config", "check", "--no-host", &toml]);
    assert_eq!((status, err.as_str()), (ExitStatus::Success, ""));
    assert!(out.ends_with("this host was not checked (VM \"example\")\n"), "{out}");
    let (_, out, _) = idle(&["config", "check", "--no-host", "--json", &toml]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["ok"], &report["config"]["low_memory"]), (&true.into(), &(256 << 20).into()));
    // What was printed is a vm.toml.
    let again = folder.path().join("again.toml");
    fs::write(&again, toml::to_string(&report["config"]).unwrap()).unwrap();
    let (_, repeated, _) = idle(&["config", "check", "--no-host", "--json", again.to_str().unwrap()]);
    assert_eq!(repeated, out);
    fs::remove_file(folder.path().join("disk.img")).unwrap();
    let (status, out, err) = idle(&["config", "check", "--no-host", &toml]);
    assert_eq!((status, out.as_str()), (ExitStatus::Usage, ""));
    assert!(err.starts_with("error[config.disk.path.unreadable]"), "{err}");
    let (status, out, _) = idle(&["config", "check", "--json", &toml]);
    assert_eq!(status, ExitStatus::Usage);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let problem = &report["problems"][0];
    assert_eq!(problem["code"], "config.disk.path.unreadable");
    assert_eq!(problem["location"]["line"], 10);
    assert_eq!(idle(&["config", "check", "--offline", &toml]).0, ExitStatus::Success);
}

#[test]
fn check_looks_into_the_files() {
    let (folder, toml) = machine();
    let at = |name: &str| folder.path().join(name);
    let check = |text: &str| {
        fs::write(&toml, text).unwrap();
        let (status, out, _) = idle(&["config", "check", "--no-host", "--json", &toml]);
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        let problems = report["problems"].as_array().cloned().unwrap_or_default();
        let places = problems.iter().map(|problem| {
            (problem["code"].as_str().unwrap().to_owned(), problem["location"]["line"].as_u64().unwrap())
        });
        (status, places.collect::<Vec<_>>())
    };
    let one = |code: &str, line| vec![(code.to_owned(), line)];
    fs::write(at("passwd"), "root:x:0:0:root:/root:/bin/bash\n".repeat(40)).unwrap();
    let passwd = VM.replace("OVMF.fd", "passwd");
    assert_eq!(check(&passwd), (ExitStatus::LaunchRefused, one("config.firmware.content", 6)));

    let uki = "profile = \"uki\"\nuki = \"passwd\"";
    let both = passwd.replace("profile = \"disk\"", uki);
    let expected =
        [("config.firmware.content".to_owned(), 6), ("config.boot.uki.content".to_owned(), 9)].to_vec();
    assert_eq!(check(&both), (ExitStatus::LaunchRefused, expected));

    fs::write(at("disk.img"), [b"KDMV".as_slice(), &[0; 65_536]].concat()).unwrap();
    assert_eq!(check(VM), (ExitStatus::Usage, one("config.disk.path.foreign", 10)));
    let (_, _, err) = idle(&["config", "check", "--no-host", &toml]);
    assert!(err.contains("qemu-img convert -f vmdk -O raw") && err.contains("format = \"raw\""), "{err}");
    // Not even a run that would find out later.
    let (status, _, err) = idle(&["run", &toml]);
    assert_eq!((status, err.contains("[config.disk.path.foreign]")), (ExitStatus::Usage, true), "{err}");
    assert_eq!(check(&format!("{VM}format = \"raw\"\n")).1, one("config.disk.path.alignment", 10));
    fs::write(at("disk.img"), [b"KDMV".as_slice(), &[0; 65_532]].concat()).unwrap();
    assert_eq!(check(&format!("{VM}format = \"raw\"\n")).0, ExitStatus::Success);

    let snp = VM.replace("\"none\"", "\"snp\"");
    let gate = format!(
        "{snp}format = \"raw\"\n[gate]\nurl = \"tls://gate:1\"\nca = \"passwd\"\nclient_certificate = \"passwd\"\n\
         client_key = \"passwd\"\nverdict_key = \"passwd\"\npolicy = \"p\"\n"
    );
    // An image of an ordinary build cannot start an SNP guest.
    let (status, places) = check(&format!("{snp}format = \"raw\"\n"));
    assert_eq!((status, &places[0]), (ExitStatus::LaunchRefused, &("config.firmware.content".to_owned(), 6)));
    let tables = Image { size: 0x1000, ..Image::amdsev() }.bytes();
    fs::write(at("OVMF.fd"), [vec![0xff; (4 << 20) - 0x1000], tables].concat()).unwrap();
    let (status, places) = check(&gate);
    assert_eq!((status, &places[0].0), (ExitStatus::File, &"config.gate.verdict_key.content".to_owned()));
    let key = "-----BEGIN PUBLIC KEY-----\n\
               MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEqofKIr6LBTeOscce8yCtdG4dO2KLp5uY\n\
               WfdB4IJUKjhVAvJdv1UpbDpUXjhydgq3NhfeSpYmLG9dnpi/kpLcKfj0Hb0omhR8\n\
               6doxE7XwuMAKYLHOHX6BnXpDHXyQ6g5f\n-----END PUBLIC KEY-----\n";
    fs::write(at("verdict.pem"), key).unwrap();
    let keyed = gate.replace("verdict_key = \"passwd\"", "verdict_key = \"verdict.pem\"");
    let (status, places) = check(&keyed);
    assert_eq!((status, &places[0]), (ExitStatus::File, &("config.gate.ca.content".to_owned(), 14)));

    fs::write(at("tpm.vmgs"), "not a state file").unwrap();
    let stateful = keyed.replace(
        "url = \"tls://gate:1\"\nca = \"passwd\"\nclient_certificate = \"passwd\"\nclient_key = \"passwd\"",
        "socket = \"s\"",
    ) + "[vtpm]\nmode = \"in-process\"\nstate = \"tpm.vmgs\"\n";
    let (status, places) = check(&stateful);
    assert!(status == ExitStatus::State || status == ExitStatus::LaunchRefused, "{places:?}");
    assert!(places.contains(&("config.vtpm.state.content".to_owned(), 18)), "{places:?}");
}

#[test]
fn check_looks_at_this_host() {
    let config = |isolation: &str| {
        let text = VM.replace("\"none\"", isolation);
        Config::parse("vm.toml", &text, Path::new("/base"), Checks::OFFLINE).unwrap()
    };
    let report = || cvmm_doctor::examine(Path::new("/"));
    // Whatever this host is, what the doctor says of it is said here.
    let findings = crate::run::check::host(&config("\"snp\""), report);
    let fatal = report().fatal;
    assert_eq!(findings.is_empty(), fatal == 0, "{findings:?}");
    let code = |finding: &crate::run::check::Finding| finding.problem.code.clone();
    assert!(findings.iter().all(|finding| code(finding) == "config.isolation.host"), "{findings:?}");
    assert!(findings.iter().all(|finding| finding.status == ExitStatus::Host));
    if fatal > 0 {
        assert_eq!(findings.len(), fatal);
        assert!(findings[0].problem.message.contains("cannot launch SNP guests"));
    }
    // An ordinary guest needs KVM and nothing else.
    let findings = crate::run::check::host(&config("\"none\""), || panic!("the doctor was asked"));
    assert_eq!(findings.is_empty(), cvmm_kvm::host::open(2).is_ok(), "{findings:?}");
    let (_folder, toml) = machine();
    let (status, out, err) = idle(&["config", "check", &toml]);
    assert_eq!(status == ExitStatus::Success, findings.is_empty(), "{err}");
    assert_eq!(out.contains("this host can run it"), findings.is_empty(), "{out}");
}

#[test]
fn a_run_takes_its_file_with_or_without_the_option_but_once() {
    let (_folder, toml) = machine();
    for words in [&["run", &toml][..], &["run", "--config", &toml], &["run", "-c", &toml]] {
        assert_eq!(
            cvmm(words, |config, _| {
                assert_eq!(config.name, "example");
                Ok(Ended)
            })
            .0,
            ExitStatus::Success
        );
    }
    for words in [&["cvmm", "run", &toml, "--config", &toml][..], &["cvmm", "run", &toml, &toml]] {
        assert!(Cli::try_parse_from(words).unwrap_err().use_stderr(), "{words:?}");
    }
}

#[test]
fn a_wrong_command_line_is_json_for_who_asked_for_json() {
    let wants = |words: &[&str]| wants_json(words.iter().map(OsString::from));
    assert!(wants(&["cvmm", "--log-format", "json", "run"]));
    assert!(wants(&["cvmm", "run", "--nonsense", "--log-format=json"]));
    assert!(!wants(&["cvmm", "--log-format", "text", "json"]));
    assert!(!wants(&["cvmm", "run", "--", "--log-format", "json"]));
}

#[test]
fn every_printing_command_prints() {
    let (_, schema, _) = idle(&["config", "schema"]);
    assert_eq!(schema, config::schema());
    let (_, example, _) = idle(&["config", "example", "--profile", "disk"]);
    assert!(example.contains("profile = \"disk\""));
    let (_, bash, _) = idle(&["completions", "bash"]);
    assert!(bash.contains("--exit-stats"));
    let (_, man, _) = idle(&["man"]);
    assert!(man.contains(".TH cvmm") && man.contains("guest triple fault"), "{man}");
    let (_, man, _) = idle(&["man", "run"]);
    assert!(man.contains(".TH cvmm-run") && man.contains("exit\\-stats"), "{man}");
    let (_, man, _) = idle(&["man", "config", "check"]);
    assert!(man.contains(".TH cvmm-config-check") && !man.contains("guest triple fault"), "{man}");
    assert_eq!(idle(&["man", "nothing"]).0, ExitStatus::Usage);
    let folder = tempfile::tempdir().unwrap();
    let (_, written, _) = idle(&["man", "--out", folder.path().to_str().unwrap()]);
    for page in ["cvmm.1", "cvmm-run.1", "cvmm-policy-init.1", "cvmm-state-export.1"] {
        assert!(written.contains(&format!("/{page}\n")) && folder.path().join(page).is_file(), "{written}");
    }
    assert_eq!(idle(&["man", "--out", folder.path().to_str().unwrap()]).0, ExitStatus::File);
}

#[test]
fn wrong_words_are_usage_errors() {
    for words in [
        &["cvmm"][..],
        &["cvmm", "run"],
        &["cvmm", "run", "--config", "a", "--grace", "-1"],
        &["cvmm", "run", "--config", "a", "--grace", "86401"],
        &["cvmm", "timeline"],
        &["cvmm", "config", "example", "--profile", "floppy"],
        &["cvmm", "--log-format", "xml", "man"],
    ] {
        let error = Cli::try_parse_from(words).unwrap_err();
        assert!(error.use_stderr(), "{words:?}");
    }
    let (status, _, err) = idle(&["timeline", "/nonexistent/t.json"]);
    assert_eq!(status, ExitStatus::File);
    assert!(err.starts_with("error: cannot read timeline /nonexistent/t.json"), "{err}");
}

#[test]
fn a_report_is_judged_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.bin");
    let report = report.to_str().unwrap();
    let words = ["attest", "report", report];
    assert_eq!(idle(&words).0, ExitStatus::File);
    fs::write(report, [3; 1184]).unwrap();
    let (status, out, err) = idle(&words);
    assert_eq!((status, err.as_str()), (ExitStatus::NotMet, ""));
    assert!(out.starts_with("not verified\n  report.version: "), "{out}");
    let (status, out, _) = idle(&["attest", "report", report, "--json"]);
    let verdict: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &verdict["believed"]), (ExitStatus::NotMet, &false.into()));
    assert_eq!(verdict["reasons"][0]["code"], "report.version");
    for data in ["00", "zz", &"é".repeat(64)] {
        Cli::try_parse_from(["cvmm", "attest", "report", report, "--report-data", data]).unwrap_err();
    }
    Cli::try_parse_from(["cvmm", "attest", "report", report, "--report-data", &"0f".repeat(64)]).unwrap();
}

#[test]
fn timelines_with_the_same_name_are_told_apart() {
    let all = [PathBuf::from("a/t.json"), PathBuf::from("b/t.json"), PathBuf::from("b/u.json")];
    let labels: Vec<_> = all.iter().map(|file| label(file, &all)).collect();
    assert_eq!(labels, ["a/t.json", "b/t.json", "u"]);
}

#[test]
fn a_state_file_from_its_making_to_its_refusal() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, key, other) = (path("web.vmgs"), path("key"), path("other"));
    for (path, byte) in [(&key, 1), (&other, 2)] {
        fs::write(path, [byte; 32]).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(idle(&["state", "create", "--key", &key, "--vm-id", "web", &file]).0, ExitStatus::Success);
    let (status, _, err) = idle(&["state", "create", "--key", &key, "--vm-id", "web", &file]);
    assert_eq!(status, ExitStatus::File);
    assert!(err.contains("state.exists"), "{err}");
    let (status, out, _) = idle(&["state", "info", &file]);
    assert_eq!(status, ExitStatus::Success);
    assert!(out.contains("AES-256-GCM, 1 key(s)") && out.contains("35 meta"), "{out}");
    let (_, out, _) = idle(&["state", "info", "--json", &file]);
    let info: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&info["encrypted"], &info["size"]), (&true.into(), &((4 << 20) + 512).into()));

    let (status, out, err) = idle(&["state", "export", "--key", &key, "--out", &path("none"), &file]);
    assert_eq!((status, out.as_str()), (ExitStatus::Success, ""));
    assert!(err.contains("holds no state yet"), "{err}");
    let key_of = |path| cvmm_guest_state::StateKey::from_file(Path::new(path)).unwrap();
    let mut store = cvmm_guest_state::Store::open_any(Path::new(&file), &[key_of(&key)], true).unwrap();
    store.begin(3).unwrap();
    store.store(cvmm_guest_state::Kind::TpmPermanent, 0x902, b"seeds").unwrap();
    let (status, _, err) = idle(&["state", "check", "--key", &key, &file]);
    assert_eq!(status, ExitStatus::File);
    assert!(err.contains("state.locked"), "{err}");
    drop(store);

    let (status, out, _) =
        idle(&["state", "check", "--key", &key, "--vm-id", "web", "--least-epoch", "3", &file]);
    assert_eq!(status, ExitStatus::Success);
    assert!(out.contains("VM web, epoch 3, 3 changes") && out.contains("tpm-permanent"), "{out}");
    for (more, code) in [
        (&["--vm-id", "db"][..], "state.vm"),
        (&["--least-epoch", "4"], "state.rollback"),
        (&["--least-counter", "9"], "state.rollback"),
    ] {
        let words = [&["state", "check", "--json", "--key", &key][..], more, &[&file]].concat();
        let (status, out, err) = idle(&words);
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((status, &report["code"]), (ExitStatus::State, &code.into()));
        assert!(err.contains(code), "{err}");
    }
    let (status, _, err) = idle(&["state", "check", "--key", &other, &file]);
    assert_eq!(status, ExitStatus::State);
    assert!(err.contains("state.key"), "{err}");

    let out_folder = path("out");
    let (status, out, _) = idle(&["state", "export", "--key", &key, "--out", &out_folder, &file]);
    assert_eq!((status, out), (ExitStatus::Success, format!("{out_folder}/tpm-permanent.bin\n")));
    assert_eq!(fs::read(format!("{out_folder}/tpm-permanent.bin")).unwrap(), b"seeds");
    assert_eq!(idle(&["state", "export", "--key", &key, "--out", &out_folder, &file]).0, ExitStatus::File);
    let words = ["state", "export", "--key", &key, "--kind", "tpm-volatile", "--out", &out_folder, &file];
    assert_eq!(idle(&words).0, ExitStatus::Usage);

    assert_eq!(idle(&["state", "rekey", "--key", &key, "--new-key", &other, &file]).0, ExitStatus::Success);
    assert_eq!(idle(&["state", "rekey", "--key", &key, "--new-key", &other, &file]).0, ExitStatus::Success);
    assert_eq!(idle(&["state", "check", "--key", &key, &file]).0, ExitStatus::State);
    let (_, out, _) = idle(&["state", "check", "--json", "--key", &other, &file]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["counter"], &report["key_slots"]), (&3.into(), &1.into()));

    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(idle(&["state", "check", "--key", &key, &file]).0, ExitStatus::Usage);
    assert_eq!(idle(&["state", "info", &key]).0, ExitStatus::State);
    assert_eq!(idle(&["state", "info", &path("none")]).0, ExitStatus::File);
}

/// The smallest vmlinux: a segment of 64 bytes.
fn vmlinux() -> Vec<u8> {
    let mut file = vec![0; 0x100];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[32] = 64;
    file[54..58].copy_from_slice(&[56, 0, 1, 0]);
    file[64] = 1;
    for (at, value) in
        [(24, 16 << 20), (72, 0xc0), (80, 0xffff_ffff_8100_0000), (88, 16 << 20), (96, 0x40), (104, 0x40_u64)]
    {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    file
}

#[test]
fn uki_build_writes_an_image_that_can_be_started_and_nothing_over_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (kernel, initrd, image) = (file("vmlinux"), file("initrd"), file("guest.efi"));
    fs::write(&kernel, vmlinux()).unwrap();
    fs::write(&initrd, [7; 5000]).unwrap();
    let words =
        ["uki", "build", "--kernel", &kernel, "--initrd", &initrd, "--cmdline", "quiet", "-o", &image];
    let (status, out, err) = idle(&words);
    assert_eq!((status, err.as_str()), (ExitStatus::Success, ""));
    assert!(out.contains("physical address only"), "{out}");
    let first = fs::read(&image).unwrap();
    let blob = cvmm_launch::blob::Blob::open(Path::new(&image)).unwrap();
    cvmm_launch::kernel::Kernel::recognise(blob).unwrap().require_uki().unwrap();
    // Its own image again, with a command line out of a file.
    let cmdline = file("cmdline");
    fs::write(&cmdline, "quiet\n").unwrap();
    let mut again = words;
    let from_file = format!("@{cmdline}");
    again[7] = &from_file;
    assert_eq!(idle(&again).0, ExitStatus::Success);
    assert!(fs::read(&image).unwrap() == first, "the same inputs give other bytes");
    fs::write(&image, "a file of the user").unwrap();
    let (status, _, err) = idle(&words);
    assert_eq!(status, ExitStatus::File);
    assert!(err.contains("--force"), "{err}");
    assert_eq!(fs::read_to_string(&image).unwrap(), "a file of the user");
    assert_eq!(idle(&[&words[..], &["--force"]].concat()).0, ExitStatus::Success);

    fs::write(&initrd, "").unwrap();
    let (status, _, err) = idle(&words);
    assert_eq!(status, ExitStatus::LaunchRefused);
    assert!(err.contains("[uki.initrd]"), "{err}");
    fs::write(&kernel, "no kernel").unwrap();
    let (status, _, err) = idle(&words);
    assert_eq!(status, ExitStatus::LaunchRefused);
    assert!(err.contains("[kernel.format]") && err.contains("vmlinuz"), "{err}");
}

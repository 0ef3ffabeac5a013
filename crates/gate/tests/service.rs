// SPDX-License-Identifier: Apache-2.0
//! What `scripts/package/` has for systemd: the unit is one, it leaves little, and its folders are those of its gate.toml.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cvmm_gate::config::Config;
use cvmm_gate::sandbox::Mode;

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/package").join(name)
}

fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {program} cannot be run ({error})");
            None
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The unit in a folder, with the program that was built.
fn unit(folder: &Path) -> String {
    let unit = fs::read_to_string(dist("cvmm-gate.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/cvmm-gate serve --config /etc/cvmm-gate/gate.toml\n"));
    let path = folder.join("cvmm-gate.service");
    fs::write(&path, unit.replace("/usr/bin/cvmm-gate", env!("CARGO_BIN_EXE_cvmm-gate"))).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    let Some(output) = run("systemd-analyze", &["verify", "--man=no", &unit]) else { return };
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("cvmm-gate.service:"), "{}", text(&output));
}

#[test]
fn the_unit_leaves_little() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    // Tenths of what systemd-analyze prints; what runs as root with nothing set has 96.
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=20", &unit];
    let Some(output) = run("systemd-analyze", &arguments) else { return };
    let said = text(&output);
    if said.contains("unrecognized option") {
        println!("skipped: this systemd-analyze judges no files");
        return;
    }
    assert!(output.status.success(), "{said}");
    println!("{}", said.lines().last().unwrap_or_default());
}

#[test]
fn the_log_rotation_is_that_of_the_docs_and_never_truncates() {
    let rotation = fs::read_to_string(dist("cvmm-gate.logrotate")).unwrap();
    let config = Config::load(&dist("gate.toml")).unwrap();
    let body = &rotation[rotation.find("/var/log").unwrap()..];
    assert!(body.starts_with(&format!("{} {{\n", config.audit.display())));
    assert!(body.contains("\n    create ") && !body.contains("truncate"));
    assert!(include_str!("../../../docs/guide/gate.md").contains(body));
    // What it runs is a command of this program.
    let arguments = body.split("cvmm-gate audit ").nth(1).unwrap().lines().next().unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_cvmm-gate")).arg("audit").args(arguments.split(' ')).output();
    assert_eq!(output.unwrap().status.code(), Some(2), "it has no such gate.toml, and says so");
}

#[test]
fn the_folders_of_gate_toml_are_those_that_systemd_makes() {
    let config = Config::load(&dist("gate.toml")).unwrap();
    assert_eq!(config.sandbox, Mode::Require);
    assert!(!config.unsafe_run_as_root);
    let unit = fs::read_to_string(dist("cvmm-gate.service")).unwrap();
    for (line, path) in [
        ("RuntimeDirectory=cvmm-gate\n", config.socket.parent().unwrap() == Path::new("/run/cvmm-gate")),
        ("StateDirectory=cvmm-gate\n", config.state == Path::new("/var/lib/cvmm-gate")),
        ("LogsDirectory=cvmm-gate\n", config.audit.parent().unwrap() == Path::new("/var/log/cvmm-gate")),
    ] {
        assert!(unit.contains(line) && path, "{line}");
    }
    let root = tempfile::tempdir().unwrap();
    let at = format!("--root={}", root.path().display());
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("skipped: only root can make users and their folders");
        return;
    }
    fs::create_dir(root.path().join("etc")).unwrap();
    let (users, folders) = (dist("cvmm-gate.sysusers"), dist("cvmm-gate.tmpfiles"));
    let Some(output) = run("systemd-sysusers", &[&at, users.to_str().unwrap()]) else { return };
    assert!(output.status.success(), "{}", text(&output));
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let user = passwd.lines().find(|line| line.starts_with("cvmm-gate:")).unwrap();
    let uid: u32 = user.split(':').nth(2).unwrap().parse().unwrap();
    let Some(output) = run("systemd-tmpfiles", &[&at, "--create", folders.to_str().unwrap()]) else { return };
    assert!(output.status.success(), "{}", text(&output));
    let inside = |path: &Path| root.path().join(path.strip_prefix("/").unwrap());
    for path in
        [&config.policies, &config.artifacts, &config.certificates, config.policy_keys[0].parent().unwrap()]
    {
        let metadata = fs::metadata(inside(path)).unwrap();
        assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (0, 0o755), "{}", path.display());
    }
    for path in [config.keys, config.state.join("vms"), config.state.join("versions"), config.state] {
        let metadata = fs::metadata(inside(&path)).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.permissions().mode() & 0o777),
            (uid, 0o700),
            "{}",
            path.display()
        );
    }
}

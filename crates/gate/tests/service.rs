// SPDX-License-Identifier: Apache-2.0
//! What `scripts/package/` has for systemd: the unit is one, it leaves little, and its folders are those of
//! its gate.toml.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cvmm_gate::config::Config;
use cvmm_gate::sandbox::Mode;
use cvmm_test_support::needs;
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;

fn package(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/package").join(name)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The unit in a folder, with the program that was built.
fn unit(folder: &Path) -> String {
    let unit = fs::read_to_string(package("cvmm-gate.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/cvmm-gate serve --config /etc/cvmm-gate/gate.toml\n"));
    let path = folder.join("cvmm-gate.service");
    fs::write(&path, unit.replace("/usr/bin/cvmm-gate", env!("CARGO_BIN_EXE_cvmm-gate"))).unwrap();
    path.to_str().unwrap().to_owned()
}

fn systemd_understands_every_line_of_the_unit() -> suite::Result {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    let output = needs::output("systemd-analyze", &["verify", "--man=no", &unit])?;
    assert!(output.status.success(), "{}", text(&output));
    assert!(!text(&output).contains("cvmm-gate.service:"), "{}", text(&output));
    Ok(())
}

fn the_unit_leaves_little() -> suite::Result {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit(folder.path());
    // Tenths of what systemd-analyze prints; what runs as root with nothing set has 96.
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=20", &unit];
    let output = needs::output("systemd-analyze", &arguments)?;
    let said = text(&output);
    if said.contains("unrecognized option") {
        return Err(Missing::new("needs a systemd-analyze that reads files offline"));
    }
    assert!(output.status.success(), "{said}");
    println!("{}", said.lines().last().unwrap_or_default());
    Ok(())
}

fn the_log_rotation_is_that_of_the_docs_and_never_truncates() {
    let rotation = fs::read_to_string(package("cvmm-gate.logrotate")).unwrap();
    let config = Config::load(&package("gate.toml")).unwrap();
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

fn the_unit_names_the_folders_of_gate_toml() {
    let config = Config::load(&package("gate.toml")).unwrap();
    assert_eq!(config.sandbox, Mode::Require);
    assert!(!config.unsafe_run_as_root);
    let unit = fs::read_to_string(package("cvmm-gate.service")).unwrap();
    for (line, path) in [
        ("RuntimeDirectory=cvmm-gate\n", config.socket.parent().unwrap() == Path::new("/run/cvmm-gate")),
        ("StateDirectory=cvmm-gate\n", config.state == Path::new("/var/lib/cvmm-gate")),
        ("LogsDirectory=cvmm-gate\n", config.audit.parent().unwrap() == Path::new("/var/log/cvmm-gate")),
    ] {
        assert!(unit.contains(line) && path, "{line}");
    }
}

fn systemd_makes_the_folders_of_gate_toml() -> suite::Result {
    needs::root()?;
    let config = Config::load(&package("gate.toml")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let at = format!("--root={}", root.path().display());
    fs::create_dir(root.path().join("etc")).unwrap();
    let (users, folders) = (package("cvmm-gate.sysusers"), package("cvmm-gate.tmpfiles"));
    let output = needs::output("systemd-sysusers", &[&at, users.to_str().unwrap()])?;
    assert!(output.status.success(), "{}", text(&output));
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let user = passwd.lines().find(|line| line.starts_with("cvmm-gate:")).unwrap();
    let uid: u32 = user.split(':').nth(2).unwrap().parse().unwrap();
    let output = needs::output("systemd-tmpfiles", &[&at, "--create", folders.to_str().unwrap()])?;
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
    Ok(())
}

suite!(
    systemd_understands_every_line_of_the_unit,
    the_unit_leaves_little,
    the_log_rotation_is_that_of_the_docs_and_never_truncates,
    the_unit_names_the_folders_of_gate_toml,
    systemd_makes_the_folders_of_gate_toml,
);

// SPDX-License-Identifier: Apache-2.0
//! The command line as an operator meets it: errors, files that are nothing for the gate, root on the
//! service's gate, secrets of the process, and the guides' commands as they are printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cvmm_gate::setup;
use cvmm_test_support::gate::{Program, TestGate, firmware};
use cvmm_test_support::memory::{Occurrences, search};
use cvmm_test_support::{needs, program, suite};

const GATE: &str = env!("CARGO_BIN_EXE_cvmm-gate");

fn run(arguments: &[&str]) -> Output {
    Command::new(GATE).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file below a folder, with its owner.
fn tree(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push((path.clone(), path.symlink_metadata().unwrap().uid()));
        if path.is_dir() {
            found.extend(tree(&path));
        }
    }
    found.sort();
    found
}

fn init() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    setup::init(folder.path()).unwrap();
    folder
}

fn errors_are_one_plain_line() {
    let output = run(&["check", "--config", "/nonexistent/gate.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        stderr(&output),
        "error: cannot read /nonexistent/gate.toml: No such file or directory (os error 2)\n"
    );
    let folder = init();
    fs::remove_file(folder.path().join("keys/id.pem")).unwrap();
    let output = run(&["keys", "show", "--config", text(&folder.path().join("gate.toml"))]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("error: cannot read ") && said.lines().count() == 1, "{said}");
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
    assert!(!said.contains('\u{1b}'), "colours on a pipe: {said}");
}

fn only_what_the_gate_can_use_becomes_an_artifact() {
    let folder = init();
    let config = folder.path().join("gate.toml");
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let good = put("good.fd", &firmware());
    // A kernel as a distribution has it starts like a program too, and is not a UKI.
    let mut kernel = vec![0; 0x1000];
    kernel[..2].copy_from_slice(b"MZ");
    for bad in [
        PathBuf::from("/etc/passwd"),
        put("empty", b""),
        put("zeros.fd", &[0; 0x20_0000]),
        put("vmlinuz", &kernel),
    ] {
        let output = run(&["artifact", "import", "--config", text(&config), text(&bad), text(&good)]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.starts_with(&format!("error: artifact.kind: {} ", bad.display())), "{said}");
        assert!(said.contains("SEV metadata") && said.contains("unified kernel images"), "{said}");
        // The good one of the two is there, and nothing else.
        assert!(String::from_utf8_lossy(&output.stdout).contains("good.fd"));
        assert_eq!(fs::read_dir(folder.path().join("artifacts")).unwrap().count(), 1);
    }
    let output = run(&["artifact", "import", "--config", text(&config), text(&good)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

fn root_is_told_to_be_the_gates_user_and_leaves_nothing() -> suite::Result {
    needs::root()?;
    const NOBODY: u32 = 65_534;
    let folder = init();
    let (key, policy) = (folder.path().join("keys/policy.pem"), folder.path().join("policies/web.toml"));
    fs::write(&policy, "id = \"web\"\n").unwrap();
    fs::write(folder.path().join("audit.log"), "").unwrap();
    for (path, _) in tree(folder.path()) {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let before = tree(folder.path());
    let config = folder.path().join("gate.toml");
    let (config, new) = (text(&config), folder.path().join("keys/new.pem"));
    for arguments in [
        &["check", "-c", config][..],
        &["artifact", "import", "-c", config, "/etc/passwd"],
        &["certs", "import", "-c", config, "/etc/passwd"],
        &["keys", "show", "-c", config],
        &["keys", "rcar", "-c", config],
        &["keys", "generate", "-c", config],
        &["keys", "new", text(&new)],
        &["policy", "sign", "--key", text(&key), text(&policy)],
        &["audit", "rotate", "-c", config],
        &["audit", "rotate", "-c", config, "--lost"],
        &["state-keys", "init", "-c", config],
        &["state-keys", "show", "-c", config, "vm"],
        &["state-keys", "export", "-c", config, "vm", "-o", text(&new)],
        &["state-keys", "forget", "-c", config, "vm"],
    ] {
        let output = run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let command = format!("runuser -u nobody -- {GATE} {}\n", arguments.join(" "));
        assert!(said.starts_with("error: ") && said.ends_with(&command), "{arguments:?}: {said}");
        assert_eq!(tree(folder.path()), before, "{arguments:?}");
    }
    Ok(())
}

fn a_gate_that_serves_can_leave_no_core_file_and_has_locked_pages() {
    let program = Program::serve(GATE, TestGate::new(""));
    let proc = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", program.pid())).unwrap();
    let limits = proc("limits");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
    let status = proc("status");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    assert!(!locked.trim().starts_with("0 "), "no page is locked: {locked}");
}

fn the_store_key_of_a_gate_that_serves_is_only_in_locked_pages() -> suite::Result {
    needs::root()?;
    let program = Program::serve(GATE, TestGate::new(""));
    let key = fs::read(program.gate().path("keys/store.key")).unwrap();
    let Occurrences { exposed, locked } = search(program.pid(), &key);
    assert_eq!(exposed, 0, "the store key is outside of the locked pages");
    assert!(locked > 0, "the search finds nothing, so it proves nothing");
    Ok(())
}

/// The shell commands of a page: its blocks that are marked as such.
fn commands(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sh") => block = Some(String::new()),
            (Some(text), "```") => {
                blocks.push(std::mem::take(text));
                block = None;
            }
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

fn the_guides_commands_work_as_they_are_printed() {
    // The service's layout below a folder; who becomes another user or tells systemd something only says so.
    let root = init();
    let at = |path: &str| root.path().join(path);
    for folder in ["etc", "var/lib/cvmm-gate-artifacts", "var/log/cvmm-gate", "run/cvmm-gate", "bin", "work"]
    {
        fs::create_dir_all(at(folder)).unwrap();
    }
    let moved = tempfile::tempdir().unwrap();
    setup::init(&moved.path().join("gate")).unwrap();
    fs::rename(moved.path().join("gate"), at("etc/cvmm-gate")).unwrap();
    fs::rename(at("etc/cvmm-gate/state"), at("var/lib/cvmm-gate")).unwrap();
    fs::create_dir(at("etc/cvmm-gate/policy-keys")).unwrap();
    fs::rename(at("etc/cvmm-gate/keys/policy.pem.pub"), at("etc/cvmm-gate/policy-keys/policy.pem.pub"))
        .unwrap();
    let here = |text: &str| {
        ["/etc/cvmm-gate", "/var/lib/cvmm-gate", "/var/log/cvmm-gate", "/run/cvmm-gate"]
            .iter()
            .fold(text.to_owned(), |text, path| {
                text.replace(path, &format!("{}{path}", root.path().display()))
            })
    };
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/package/gate.toml");
    fs::write(at("etc/cvmm-gate/gate.toml"), here(&fs::read_to_string(dist).unwrap())).unwrap();
    let script = |name: &str, content: &str| program::script(at("bin").join(name), content);
    script("runuser", "#!/bin/sh\n[ \"$1 $2 $3\" = '-u cvmm-gate --' ] || exit 9\nshift 3\nexec \"$@\"\n");
    script(
        "systemctl",
        "#!/bin/sh\ncase \"$1 $2\" in 'stop cvmm-gate' | 'start cvmm-gate' | 'restart cvmm-gate') ;; *) exit 9 ;; esac\n",
    );
    let programs = Path::new(GATE).parent().unwrap();
    let path = format!("{}:{}:{}", at("bin").display(), programs.display(), std::env::var("PATH").unwrap());
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide");
    for (page, least) in [("gate-certificates.md", 1), ("gate-keys.md", 2), ("gate-backup.md", 2)] {
        let blocks = commands(&fs::read_to_string(guide.join(page)).unwrap());
        assert!(blocks.len() >= least, "{page} has {} blocks", blocks.len());
        for block in blocks {
            let output = Command::new("sh")
                .args(["-euc", &here(&block)])
                .env("PATH", &path)
                .current_dir(at("work"))
                .output()
                .unwrap();
            assert!(output.status.success(), "{page}:\n{block}\n{}", stderr(&output));
        }
    }
    // They did what the pages say.
    let new = fs::read_to_string(at("work/verdict-new.pem")).unwrap();
    assert_eq!(new, fs::read_to_string(at("etc/cvmm-gate/keys/verdict.pem.pub")).unwrap());
    assert_ne!(new, fs::read_to_string(at("etc/cvmm-gate/keys/verdict.old.pem.pub")).unwrap());
    let config = fs::read_to_string(at("etc/cvmm-gate/gate.toml")).unwrap();
    assert!(config.contains("policy-2.pem.pub\"]"), "{config}");
    assert_eq!(fs::metadata(at("work/gate-backup.tar")).unwrap().permissions().mode() & 0o777, 0o600);
}

suite!(
    errors_are_one_plain_line,
    only_what_the_gate_can_use_becomes_an_artifact,
    root_is_told_to_be_the_gates_user_and_leaves_nothing,
    a_gate_that_serves_can_leave_no_core_file_and_has_locked_pages,
    the_store_key_of_a_gate_that_serves_is_only_in_locked_pages,
    the_guides_commands_work_as_they_are_printed,
);

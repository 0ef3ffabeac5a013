// SPDX-License-Identifier: Apache-2.0
//! Modules that a running guest can reach log with a limit. In crates that consist of such code, clippy sees
//! to it (`.clippy.toml`).
#![expect(clippy::unwrap_used, reason = "a test helper that fails shall say where")]

use std::fs;
use std::path::{Path, PathBuf};

/// Below `src/`.
const REACHABLE: [&str; 6] = ["admission", "control.rs", "machine", "progress.rs", "run", "vtpm"];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_owned());
        return;
    }
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// Lines that log without a limit, with their numbers.
fn unlimited(source: &str) -> Vec<(usize, &str)> {
    let logs = |line: &&str| {
        let code = line.split("//").next().unwrap_or_default();
        ["tracing::", "log::", "println!", "eprintln!", "eprint!"].iter().any(|word| {
            code.match_indices(word).any(|(at, _)| {
                // Part of a longer name is another name.
                !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            })
        })
    };
    (1..).zip(source.lines()).filter(|(_, line)| logs(line)).collect()
}

#[test]
fn what_a_guest_can_cause_is_logged_with_a_limit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for module in REACHABLE {
        sources(&root.join(module), &mut files);
    }
    assert!(files.len() > 30, "the list of modules is out of date: {} files", files.len());
    let mut limited = 0;
    let mut wrong = Vec::new();
    for path in &files {
        let source = fs::read_to_string(path).unwrap();
        limited += source.matches("cvmm_log_limit::").count();
        for (number, line) in unlimited(&source) {
            wrong.push(format!("{}:{number}: {}", path.display(), line.trim()));
        }
    }
    assert!(limited > 20, "{limited} limited lines: the macros have another name now");
    assert!(wrong.is_empty(), "use cvmm_log_limit's macros:\n{}", wrong.join("\n"));
}

#[test]
fn the_search_finds_what_it_looks_for() {
    for line in
        ["tracing::warn!(x);", "    tracing::event!(Level::INFO)", "use tracing::info;", "eprintln!()"]
    {
        assert_eq!(unlimited(line).len(), 1, "{line}");
    }
    for line in ["cvmm_log_limit::warn!(x);", "// tracing::warn!", "catalog::new()", "writeln!(file)"] {
        assert_eq!(unlimited(line), [], "{line}");
    }
}

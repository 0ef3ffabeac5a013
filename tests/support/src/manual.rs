// SPDX-License-Identifier: Apache-2.0
//! Manual pages and completions, which each of our programs prints, and the page of their exit codes.

use std::fs;
use std::process::{Command, Output};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Checks `man`, `man COMMAND`, `man --out` and `completions` of the program at `path`, which has these
/// commands among others.
pub fn prints_its_manual(path: &str, name: &str, commands: &[&str]) {
    let run = |arguments: &[&str]| Command::new(path).args(arguments).output().unwrap();
    let done = |arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert!(output.stderr.is_empty(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let refused = |arguments: &[&str], why: &str| {
        let Output { status, stdout, stderr } = run(arguments);
        assert!(!status.success() && stdout.is_empty(), "{arguments:?}: {status}");
        assert!(text(&stderr).contains(why), "{arguments:?}: {}", text(&stderr));
    };
    let own = done(&["man"]);
    assert!(own.contains(&format!(".TH {name} 1")), "{own}");
    for command in commands {
        let page = done(&["man", command]);
        assert!(page.contains(&format!(".TH {name}-{command} 1")), "{page}");
        // roff writes a hyphen that is to be copied as \-.
        assert!(own.contains(&format!("{name}-{command}").replace('-', r"\-")), "{command} is not in: {own}");
    }
    refused(&["man", "nonsense"], "there is no command 'nonsense'");

    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let listed = done(&["man", "--out", pages.to_str().unwrap()]);
    let page = |command: &str| pages.join(format!("{name}{command}.1"));
    let mut expected = vec![page("")];
    expected.extend(commands.iter().map(|command| page(&format!("-{command}"))));
    for file in expected {
        assert!(fs::read_to_string(&file).unwrap().contains(".TH "), "{}", file.display());
        assert!(listed.lines().any(|line| line == file.to_str().unwrap()), "{listed}");
    }
    // A file that exists is kept.
    fs::write(page(""), "a file of the user").unwrap();
    refused(&["man", "--out", pages.to_str().unwrap()], &format!("{name}.1"));
    assert_eq!(fs::read_to_string(page("")).unwrap(), "a file of the user");

    for shell in ["bash", "fish", "zsh"] {
        let script = done(&["completions", shell]);
        for word in commands {
            assert!(script.contains(name) && script.contains(word), "{shell} does not complete {word}");
        }
    }
    refused(&["completions", "nonsense"], "nonsense");
}

/// Checks that docs/reference/exit-codes.md has these codes of `program`, no row more and none less.
pub fn documents_exit_codes(program: &str, codes: &[(u8, &str)]) {
    let page = include_str!("../../../docs/reference/exit-codes.md");
    let (_, section) = page.split_once(&format!("\n## {program}\n")).unwrap();
    let (_, section) = section.split_once("| code | meaning |\n|---|---|\n").unwrap();
    let rows: Vec<_> = section.lines().take_while(|line| !line.is_empty()).collect();
    let expected: Vec<_> = codes.iter().map(|(code, meaning)| format!("| {code} | {meaning} |")).collect();
    assert_eq!(rows, expected, "docs/reference/exit-codes.md");
}

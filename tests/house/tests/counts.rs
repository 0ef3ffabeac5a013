// SPDX-License-Identifier: Apache-2.0
//! Figures, habits of language, and the ratchet.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use cvmm_house::figures::File;
use cvmm_house::habits::{habits, is_ours};
use cvmm_house::ratchet::{self, Counts};

fn count(name: &str, text: &str) -> usize {
    let habits = habits().unwrap();
    let habit = habits.iter().find(|habit| habit.name == name).unwrap();
    habit.lines(text).map(|(_, count)| count).sum()
}

#[test]
fn habits_are_found_and_proper_use_is_not() {
    for (name, bad, good) in [
        (
            "is_no",
            "it is no certificate and was no list",
            "there is no certificate; it is no longer valid; Is it a list? No.",
        ),
        ("of_another", "the evidence is of another VM", "a certificate of another chip; another VM"),
        (
            "words",
            "Nobody waits for ever, whoever\nlikewise anew",
            "const NOBODY: u32 = 65_534; runuser -u nobody; renewed",
        ),
        ("archaic", "Besides, meanwhile", "beside"),
        ("double_genitive", "a key of the gate's", "the gate's key"),
        (
            "names",
            "struct Kept; const MOST: u32 = 1; const MOST_BYTES: u32 = 1; enum Shown {}",
            "struct Keeper; const MAX_BYTES: u32 = 1; fn most() {}",
        ),
        ("he", "what he learns from his report", "the host, this, She"),
    ] {
        assert!(count(name, bad) >= 1, "{name}: {bad}");
        assert_eq!(count(name, good), 0, "{name}: {good}");
    }
    assert_eq!(count("words", "Nobody waits for ever, whoever\nlikewise anew"), 5);
}

#[test]
fn scripts_are_told_by_their_first_line() {
    assert!(is_ours(Path::new("scripts/test"), "#!/usr/bin/env bash\n"));
    assert!(is_ours(Path::new("docs/gate.md"), "# Gate"));
    assert!(!is_ours(Path::new("Cargo.lock"), ""));
    assert!(!is_ours(Path::new("LICENSE"), "Apache License"));
}

#[test]
fn figures_leave_tests_out() {
    let text = "fn f() {\n    unsafe { g() }\n    x.unwrap();\n    y.expect(\"text\");\n    der.expect(TAG);\n    \
        println!(\"{}\", z.unwrap());\n}\n#[cfg(test)]\nmod tests {\n    fn t() { x.unwrap(); unsafe {} }\n}\n";
    let file = File::of(text, &syn::parse_file(text).unwrap());
    assert_eq!(file, File { lines: 7, unsafe_blocks: 1, unwraps: 3 });
}

#[test]
fn counts_only_go_down() {
    let counts = |pairs: &[(&str, usize)]| {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Counts>()
    };
    let accepted = ratchet::parse("a = 3 # why\nb = 2\n").unwrap();
    assert_eq!(ratchet::compare(&accepted, &counts(&[("a", 3), ("b", 1)])), Vec::<String>::new());
    assert_eq!(ratchet::compare(&accepted, &counts(&[("a", 4), ("b", 2)])), ["a is 4, accepted is 3"]);
    assert_eq!(
        ratchet::compare(&accepted, &counts(&[("a", 1), ("c", 0)])),
        ["c is 0, and ratchet.toml does not have it", "ratchet.toml has b, which is not counted"]
    );
    let lowered = ratchet::lowered("a = 3 # why\nb = 2\n", &counts(&[("a", 1), ("b", 5)])).unwrap();
    assert_eq!(lowered, "a = 1 # why\nb = 2\n");
}

// SPDX-License-Identifier: Apache-2.0
//! The check finds what it is for: crates made up for the purpose, each with one rule broken.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cvmm_house::imports::{Import, imports};
use cvmm_house::known::{Known, unknown};
use cvmm_house::modules::Tree;
use cvmm_house::rings::rings;
use cvmm_house::workspace::Workspace;
use cvmm_house::{Problem, rules};
use serde_json::{Value, json};

/// A crate in memory: its files by path.
struct Crate(BTreeMap<&'static str, &'static str>);

impl Crate {
    fn tree(&self) -> Tree {
        let read = |path: &Path| self.0.get(path.to_str()?).map(|text| (*text).to_owned());
        Tree::load(Path::new("a/src/lib.rs"), &read).unwrap()
    }

    fn imports(&self) -> BTreeSet<Import> {
        imports(&self.tree())
    }

    /// The imports as the check prints them.
    fn lines(&self) -> Vec<String> {
        self.imports().iter().map(rules::describe).collect()
    }

    /// The files of each ring.
    fn rings(&self) -> Vec<Vec<String>> {
        let names = |ring: cvmm_house::rings::Ring| {
            ring.files.iter().map(|file| file.display().to_string()).collect()
        };
        rings(&self.imports()).into_iter().map(names).collect()
    }
}

fn files<const N: usize>(files: [(&'static str, &'static str); N]) -> Crate {
    Crate(files.into())
}

#[test]
fn two_files_that_import_each_other_are_a_ring() {
    let ring = files([
        ("a/src/lib.rs", "mod one; mod two;"),
        ("a/src/one.rs", "use crate::two::Two;\npub struct One;"),
        ("a/src/two.rs", "pub struct Two;\nfn one() -> super::one::One { super::one::One }"),
    ]);
    assert_eq!(ring.rings(), [["a/src/one.rs", "a/src/two.rs"]]);
    let text = rules::no_rings(&rings(&ring.imports()))[0].to_string();
    assert!(text.contains("a/src/one.rs:1 imports crate::two::Two from a/src/two.rs"), "{text}");
    assert!(text.contains("a/src/two.rs:2 imports super::one::One from a/src/one.rs"), "{text}");
}

#[test]
fn a_ring_may_go_around_several_files() {
    let ring = files([
        ("a/src/lib.rs", "mod one; mod two; mod three;"),
        ("a/src/one.rs", "use crate::two::Two; pub struct One;"),
        ("a/src/two.rs", "use crate::three::{self, Three}; pub struct Two;"),
        ("a/src/three/mod.rs", "mod inner; pub use inner::Three;"),
        ("a/src/three/inner.rs", "use super::super::one; pub struct Three; type T = one::One;"),
    ]);
    // The re-export is not in the way of the ring, and `three/mod.rs` only by `self`.
    assert_eq!(ring.rings(), [["a/src/one.rs", "a/src/three/inner.rs", "a/src/two.rs"]]);
}

#[test]
fn a_module_and_those_below_it_are_not_a_ring_of_their_own() {
    let parent = files([
        ("a/src/lib.rs", "mod one; mod two; pub struct Options;"),
        ("a/src/one.rs", "mod inner; use inner::Inner; pub struct Error; use crate::Options;"),
        ("a/src/one/inner.rs", "use super::Error; use crate::Options; pub struct Inner;"),
        ("a/src/two.rs", "use crate::one::Error; pub struct Two;"),
    ]);
    assert_eq!(parent.rings(), Vec::<Vec<String>>::new());
    // But a ring may go through both.
    let mut around = parent.0.clone();
    around.insert("a/src/one/inner.rs", "use super::Error; use crate::two::Two; pub struct Inner;");
    assert_eq!(Crate(around).rings(), [["a/src/one/inner.rs", "a/src/one.rs", "a/src/two.rs"]]);
}

#[test]
fn one_way_is_not_a_ring() {
    let line = files([
        ("a/src/lib.rs", "mod one; mod two; pub use one::One; fn f() { two::g() }"),
        ("a/src/one.rs", "use crate::two::*; pub struct One(Two);"),
        ("a/src/two.rs", "pub struct Two; pub fn g() {}"),
    ]);
    assert_eq!(line.rings(), Vec::<Vec<String>>::new());
    assert_eq!(
        line.lines(),
        [
            "a/src/lib.rs:1 imports two::g from a/src/two.rs",
            "a/src/one.rs:1 imports crate::two from a/src/two.rs",
        ]
    );
}

#[test]
fn what_only_tests_import_does_not_count() {
    let tested = files([
        ("a/src/lib.rs", "mod one; mod two; #[cfg(all(unix, test))] mod fixtures;"),
        ("a/src/one.rs", "use crate::two::Two; pub struct One;"),
        (
            "a/src/two.rs",
            "pub struct Two; #[cfg(test)] mod tests { use crate::one::One; } #[cfg(test)] use crate::one::One;",
        ),
        ("a/src/fixtures.rs", "use crate::one::One;"),
    ]);
    assert_eq!(tested.rings(), Vec::<Vec<String>>::new());
    let compiled = files([
        ("a/src/lib.rs", "mod one; mod two;"),
        ("a/src/one.rs", "use crate::two::Two; pub struct One;"),
        ("a/src/two.rs", "pub struct Two; #[cfg(not(test))] use crate::one::One;"),
    ]);
    assert_eq!(compiled.rings().len(), 1);
}

#[test]
fn names_are_found_in_macros_inline_modules_and_renamed_imports() {
    let odd = files([
        ("a/src/lib.rs", "mod one; mod two; mod inline { pub mod deep; }"),
        (
            "a/src/one.rs",
            "use crate::two as other;\nfn f() { println!(\"{}\", other::VALUE); assert!(crate::inline::deep::yes()) }",
        ),
        ("a/src/two.rs", "pub const VALUE: u32 = 1;"),
        ("a/src/inline/deep.rs", "pub fn yes() -> bool { super::super::two::VALUE == 1 }"),
    ]);
    assert_eq!(
        odd.lines(),
        [
            "a/src/inline/deep.rs:1 imports super::super::two::VALUE from a/src/two.rs",
            "a/src/one.rs:1 imports crate::two from a/src/two.rs",
            "a/src/one.rs:2 imports crate::inline::deep::yes from a/src/inline/deep.rs",
            "a/src/one.rs:2 imports other::VALUE from a/src/two.rs",
        ]
    );
}

#[test]
fn the_vmms_modules_import_downwards() {
    let vmm = files([
        ("a/src/lib.rs", "mod cli; mod run; mod machine; mod admission; mod inputs; mod config;"),
        ("a/src/cli.rs", "use crate::run::run; use crate::config::Config;"),
        ("a/src/run.rs", "use crate::machine::Machine; use crate::admission::Admission; pub fn run() {}"),
        ("a/src/machine.rs", "use crate::inputs::Inputs; pub struct Machine;"),
        ("a/src/admission.rs", "use crate::inputs::Inputs; pub struct Admission;"),
        ("a/src/inputs.rs", "use crate::config::Config; pub struct Inputs;"),
        ("a/src/config.rs", "pub struct Config;"),
    ]);
    assert_eq!(rules::layers(&vmm.imports()), []);
    for (file, text, expected) in [
        (
            "a/src/machine.rs",
            "use crate::admission::Admission; pub struct Machine;",
            "machine may not import admission",
        ),
        (
            "a/src/admission.rs",
            "use crate::machine::Machine; pub struct Admission;",
            "admission may not import machine",
        ),
        (
            "a/src/machine.rs",
            "fn f() { crate::run::run() } pub struct Machine;",
            "machine may not import run",
        ),
        ("a/src/config.rs", "use crate::cli; pub struct Config;", "config may not import cli"),
    ] {
        let mut changed = vmm.0.clone();
        changed.insert(file, text);
        let problems = rules::layers(&Crate(changed).imports());
        assert!(problems.iter().any(|problem| problem.text.contains(expected)), "{expected}: {problems:?}");
        assert!(problems.iter().all(|problem| problem.subjects == [file]), "{problems:?}");
    }
}

#[test]
fn a_pure_crate_forbids_unsafe_code_and_has_no_sockets() {
    let pure = files([("a/src/lib.rs", "#![forbid(unsafe_code)] use std::fs::File;")]);
    assert_eq!(rules::purity("cvmm-snp", &pure.tree()), []);
    let denies = files([("a/src/lib.rs", "#![deny(unsafe_code)]")]);
    assert_eq!(rules::purity("cvmm-snp", &denies.tree())[0].rule, "pure-crate-forbids-unsafe");
    let socket = files([(
        "a/src/lib.rs",
        "#![forbid(unsafe_code)]\nfn f() { std::os::unix::net::UnixStream::connect(\"x\"); }\n#[cfg(test)] use std::net::TcpStream;",
    )]);
    let problems = rules::purity("cvmm-snp", &socket.tree());
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].text.contains("a/src/lib.rs:2 imports std::os::unix::net::UnixStream"),
        "{problems:?}"
    );
}

#[test]
fn path_attributes_stay_in_their_crate() {
    let check = |text: &'static str| {
        let read = move |_: &Path| Some(text.to_owned());
        rules::path_attributes(Path::new("a"), Path::new("a/tests/x.rs"), &read)
    };
    assert_eq!(check("#[path = \"common/mod.rs\"] mod common;"), []);
    assert_eq!(check("#[path = \"../../a/tests/common.rs\"] mod common;"), []);
    let problems = check("mod inner {\n    #[path = \"../../b/tests/common.rs\"]\n    mod common;\n}");
    assert!(problems[0].text.starts_with("a/tests/x.rs:3 imports b/tests/common.rs"), "{problems:?}");
}

#[test]
fn a_test_that_a_suite_does_not_run_is_found() {
    let manifest =
        "[package]\nname = \"a\"\n[[test]]\nname = \"x\"\nharness = false\n[[test]]\nname = \"y\"\n";
    assert_eq!(rules::suites(manifest).unwrap(), ["x".to_owned()].into());
    let suite = files([("a/src/lib.rs", "fn listed() {}\n#[test]\nfn forgotten() {}\nsuite!(listed);")]);
    let read = |path: &Path| suite.0.get(path.to_str()?).map(|text| (*text).to_owned());
    let problems = rules::listed_tests(&suite.tree(), &read);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].text.starts_with("a/src/lib.rs:2: "), "{problems:?}");
}

/// `cargo metadata` of packages in these folders, with dependencies: from, to, kind.
fn workspace(packages: &[(&str, &str)], dependencies: &[(&str, &str, Option<&str>)]) -> Workspace {
    let package = |(name, folder): &(&str, &str)| {
        json!({
            "id": name, "name": name, "manifest_path": format!("/w/{folder}/Cargo.toml"),
            "targets": [{ "name": name, "kind": ["lib"], "src_path": format!("/w/{folder}/src/lib.rs") }],
        })
    };
    let node = |(name, _): &(&str, &str)| {
        let own = dependencies.iter().filter(|(from, ..)| from == name);
        let deps: Vec<Value> =
            own.map(|(_, to, kind)| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] })).collect();
        json!({ "id": name, "deps": deps })
    };
    let members: Vec<_> =
        packages.iter().filter(|(_, folder)| !folder.starts_with("registry")).map(|(name, _)| name).collect();
    let metadata = json!({
        "packages": packages.iter().map(package).collect::<Vec<_>>(),
        "workspace_members": members,
        "workspace_root": "/w",
        "resolve": { "nodes": packages.iter().map(node).collect::<Vec<_>>() },
    });
    Workspace::parse(&serde_json::to_vec(&metadata).unwrap()).unwrap()
}

const PACKAGES: [(&str, &str); 9] = [
    ("cvmm-launch", "crates/launch"),
    ("cvmm-kvm-snp", "crates/kvm-snp"),
    ("cvmm-gate", "crates/gate"),
    ("cvmm-devices", "crates/devices"),
    ("cvmm-log-limit", "crates/log-limit"),
    ("cvmm-psp", "tests/psp"),
    ("libc", "registry/libc"),
    ("rustls", "registry/rustls"),
    ("kvm-ioctls", "registry/kvm-ioctls"),
];

#[test]
fn forbidden_dependencies_are_found() {
    let fine = [
        ("cvmm-kvm-snp", "cvmm-launch", None),
        ("cvmm-kvm-snp", "kvm-ioctls", None),
        ("cvmm-gate", "rustls", None),
        ("cvmm-devices", "cvmm-log-limit", None),
        ("cvmm-launch", "cvmm-psp", Some("dev")),
        ("cvmm-launch", "libc", Some("dev")),
    ];
    assert_eq!(rules::dependencies(&workspace(&PACKAGES, &fine)), []);
    for (from, to, kind, rule, text) in [
        ("cvmm-launch", "libc", None, "pure-crate", "cvmm-launch is pure and depends on libc"),
        (
            "cvmm-launch",
            "cvmm-devices",
            None,
            "pure-crate",
            "cvmm-launch is pure and depends on cvmm-devices",
        ),
        ("cvmm-launch", "rustls", None, "kvm-snp-no-tls", "cvmm-kvm-snp -> cvmm-launch -> rustls"),
        ("cvmm-gate", "cvmm-kvm-snp", None, "gate-no-kvm", "cvmm-gate -> cvmm-kvm-snp"),
        ("cvmm-devices", "cvmm-launch", None, "devices-alone", "cvmm-devices depends on cvmm-launch"),
        ("cvmm-gate", "cvmm-psp", Some("build"), "no-tests-in-production", "cvmm-gate depends on cvmm-psp"),
    ] {
        let mut dependencies = fine.to_vec();
        dependencies.push((from, to, kind));
        let problems = rules::dependencies(&workspace(&PACKAGES, &dependencies));
        assert!(
            problems.iter().any(|problem| problem.rule == rule && problem.text.contains(text)),
            "{from} -> {to}: {problems:?}"
        );
    }
}

#[test]
fn the_known_list_hides_what_it_names_and_no_more() {
    let problem = |subjects: &[&str]| {
        let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        Problem { rule: "no-rings", subjects, text: "x".into() }
    };
    let known = [
        Known { rule: "no-rings", subject: "a.rs", reason: "" },
        Known { rule: "no-rings", subject: "mended.rs", reason: "" },
    ];
    let left = unknown(vec![problem(&["0.rs", "a.rs"]), problem(&["b.rs"])], &known);
    let subjects: Vec<_> = left.iter().map(|problem| (problem.rule, problem.subjects[0].as_str())).collect();
    assert_eq!(subjects, [("no-rings", "b.rs"), ("known", "mended.rs")]);
}

// SPDX-License-Identifier: Apache-2.0
//! What crates and modules may import, and which attributes they need.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::Problem;
use crate::imports::Import;
use crate::modules::{Read, Tree, path_attribute};
use crate::rings::Ring;
use crate::workspace::Workspace;

/// Crates that compute and do nothing else: no system calls, sockets or unsafe code.
pub const PURE: [&str; 13] = [
    "cvmm-snp",
    "cvmm-tpm",
    "cvmm-launch",
    "cvmm-measure",
    "cvmm-attest",
    "cvmm-policy",
    "cvmm-appraise",
    "cvmm-gate-protocol",
    "cvmm-acpi",
    "cvmm-boot-image",
    "cvmm-igvm",
    "cvmm-secure-boot",
    "cvmm-timeline",
];
/// What of ours the pure crates may use beside each other.
const PURE_HELPERS: [&str; 5] =
    ["cvmm-first-stage", "cvmm-first-stage-embed", "cvmm-kernel-stub", "cvmm-output", "cvmm-reason"];
/// What a pure crate does not depend on: system calls, sockets, runtimes.
const IMPURE: [&str; 12] = [
    "event-manager",
    "io-uring",
    "kvm-bindings",
    "kvm-ioctls",
    "libc",
    "mio",
    "nix",
    "rustix",
    "rustls",
    "socket2",
    "tokio",
    "vmm-sys-util",
];
/// Modules of std that a pure crate does not name.
const SOCKETS: [&str; 4] = ["std::net", "std::os::unix::net", "std::os::fd", "std::process"];
/// What of ours the devices may use: helpers without an opinion about the machine.
const DEVICE_HELPERS: [&str; 3] = ["cvmm-disk-image", "cvmm-log-limit", "cvmm-metrics"];
/// The VMM's modules from the command line down. A module imports from rows below its own only.
const LAYERS: [&[&str]; 4] = [&["cli"], &["run"], &["admission", "machine"], &["inputs", "config"]];

fn problem(rule: &'static str, subject: impl Into<String>, text: String) -> Problem {
    Problem { rule, subjects: vec![subject.into()], text }
}

/// Dependencies of packages.
pub fn dependencies(workspace: &Workspace) -> Vec<Problem> {
    let mut problems = Vec::new();
    let members: BTreeSet<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    for name in PURE.iter().filter(|name| workspace.package(name).is_some()) {
        for impure in workspace.direct(name).iter().filter(|direct| IMPURE.contains(direct)) {
            let text = format!("{name} is pure and depends on {impure}; move the system calls to its caller");
            problems.push(problem("pure-crate", *name, text));
        }
        let impure = |direct: &&str| !PURE.contains(direct) && !PURE_HELPERS.contains(direct);
        for other in workspace.direct(name).intersection(&members).copied().filter(impure) {
            let text = format!("{name} is pure and depends on {other}, which is not");
            problems.push(problem("pure-crate", *name, text));
        }
    }
    let mut forbid = |rule, name: &str, wanted: &dyn Fn(&str) -> bool, why: &str| {
        if workspace.package(name).is_none() {
            return;
        }
        if let Some(chain) = workspace.chain(name, wanted) {
            problems.push(problem(rule, name, format!("{} ({why})", chain.join(" -> "))));
        }
    };
    forbid(
        "kvm-snp-no-tls",
        "cvmm-kvm-snp",
        &|name| name == "rustls",
        "the SNP ioctl layer does not link TLS",
    );
    let kvm = |name: &str| name.starts_with("kvm-") || name.starts_with("cvmm-kvm");
    forbid("gate-no-kvm", "cvmm-gate", &kvm, "the gate does not run guests");
    for direct in workspace.direct("cvmm-devices") {
        if members.contains(direct) && !DEVICE_HELPERS.contains(&direct) {
            let text = format!("cvmm-devices depends on {direct}; devices import only pure helpers of ours");
            problems.push(problem("devices-alone", "cvmm-devices", text));
        }
    }
    let tests: BTreeSet<&str> = workspace
        .packages
        .iter()
        .filter(|package| package.folder.starts_with("tests"))
        .map(|package| package.name.as_str())
        .collect();
    for package in workspace.packages.iter().filter(|package| !package.folder.starts_with("tests")) {
        for direct in workspace.direct(&package.name).intersection(&tests) {
            let text =
                format!("{} depends on {direct}; only a dev-dependency may be in tests/", package.name);
            problems.push(problem("no-tests-in-production", package.name.clone(), text));
        }
    }
    problems
}

/// `#![forbid(unsafe_code)]` at the root of a pure crate, and no sockets in it.
pub fn purity(package: &str, tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Some(root) = tree.modules.first() else { return problems };
    let forbids = tree.files.get(&root.file).is_some_and(|file| {
        file.attrs.iter().any(|attribute| match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("forbid") => {
                list.tokens.to_string().split(',').any(|lint| lint.trim() == "unsafe_code")
            }
            _ => false,
        })
    });
    if !forbids {
        let text = format!("{}: add #![forbid(unsafe_code)], {package} is pure", root.file.display());
        problems.push(problem("pure-crate-forbids-unsafe", package, text));
    }
    for module in &tree.modules {
        let uses = module.uses.iter().map(|item| (&item.path, item.line));
        for (path, line) in uses.chain(module.paths.iter().map(|(path, line)| (path, *line))) {
            let name = path.join("::");
            let sockets = SOCKETS.iter().any(|socket| {
                name.strip_prefix(socket).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            });
            if sockets {
                let text = format!("{}:{line} imports {name}, {package} is pure", module.file.display());
                problems.push(problem("pure-crate-no-sockets", package, text));
            }
        }
    }
    problems
}

/// The VMM's modules import downwards, and admission and machine do not see each other.
pub fn layers(imports: &BTreeSet<Import>) -> Vec<Problem> {
    let row = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut problems = Vec::new();
    for import in imports {
        let (from, to) = (&import.modules.0, &import.modules.1);
        let (Some(above), Some(below)) = (row(from), row(to)) else { continue };
        if from != to && above >= below && !(above == below && above == LAYERS.len() - 1) {
            let text = format!("{} ({from} may not import {to})", describe(import));
            problems.push(problem("vmm-layers", import.from.display().to_string(), text));
        }
    }
    problems
}

/// Rings of files.
pub fn no_rings(rings: &[Ring]) -> Vec<Problem> {
    let describe_all = |ring: &Ring| {
        let lines: Vec<_> = ring.imports.iter().map(|import| format!("\n    {}", describe(import))).collect();
        format!("{} files import each other:{}", ring.files.len(), lines.concat())
    };
    rings
        .iter()
        .map(|ring| Problem {
            rule: "no-rings",
            subjects: ring.files.iter().map(|file| file.display().to_string()).collect(),
            text: describe_all(ring),
        })
        .collect()
}

/// An import as the check prints it.
pub fn describe(import: &Import) -> String {
    format!("{}:{} imports {} from {}", import.from.display(), import.line, import.what, import.to.display())
}

/// The test targets of a manifest that have their own `main`.
///
/// # Errors
///
/// The manifest is not TOML.
pub fn suites(manifest: &str) -> Result<BTreeSet<String>, toml::de::Error> {
    let table: toml::Table = toml::from_str(manifest)?;
    let tests = table.get("test").and_then(toml::Value::as_array).into_iter().flatten();
    let own_main = tests.filter(|test| test.get("harness").and_then(toml::Value::as_bool) == Some(false));
    Ok(own_main.filter_map(|test| test.get("name")?.as_str().map(str::to_owned)).collect())
}

/// A suite lists its tests: the compiler leaves out what has `#[test]`, without a word.
pub fn listed_tests(tree: &Tree, read: Read<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in tree.files.keys() {
        for (number, line) in (1..).zip(read(file).unwrap_or_default().lines()) {
            if line.trim() == "#[test]" {
                let text = format!(
                    "{}:{number}: list the test in suite!(), #[test] never runs here",
                    file.display()
                );
                problems.push(problem("suite-lists-its-tests", file.display().to_string(), text));
            }
        }
    }
    problems
}

/// `#[path]` stays within its crate. `folder` is the crate's, `file` in it.
pub fn path_attributes(folder: &Path, file: &Path, read: Read<'_>) -> Vec<Problem> {
    let Some(text) = read(file) else { return Vec::new() };
    let Ok(parsed) = syn::parse_file(&text) else { return Vec::new() };
    let mut problems = Vec::new();
    let mut todo: Vec<&syn::Item> = parsed.items.iter().collect();
    while let Some(item) = todo.pop() {
        let syn::Item::Mod(module) = item else { continue };
        todo.extend(module.content.iter().flat_map(|(_, items)| items));
        let Some(path) = path_attribute(&module.attrs) else { continue };
        let target = normal(&file.parent().unwrap_or(file).join(&path));
        if !target.starts_with(folder) {
            let line = module.ident.span().start().line;
            let text = format!(
                "{}:{line} imports {} by #[path]; share code through a crate, fixtures through tests/support",
                file.display(),
                target.display()
            );
            problems.push(problem("no-path-out-of-crate", file.display().to_string(), text));
        }
    }
    problems
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

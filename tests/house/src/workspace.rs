// SPDX-License-Identifier: Apache-2.0
//! Packages of the workspace and what they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// `cargo metadata --format-version 1`, as far as it is used.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<RawPackage>,
    workspace_members: Vec<String>,
    workspace_root: PathBuf,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct RawPackage {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<RawTarget>,
}

#[derive(Debug, Deserialize)]
struct RawTarget {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// A file from which a compiler starts.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Relative to the workspace.
    pub root: PathBuf,
    /// Whether it is a library, a program or a build script, and not a test, an example or a benchmark.
    pub production: bool,
}

/// A member of the workspace.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the workspace.
    pub folder: PathBuf,
    /// What is compiled of it.
    pub targets: Vec<Target>,
}

/// The packages, and what each is built from.
#[derive(Debug)]
pub struct Workspace {
    /// Its folder.
    pub root: PathBuf,
    /// Its members, by name.
    pub packages: Vec<Package>,
    /// Names of the direct dependencies of each package, members or not, without those for tests.
    direct: BTreeMap<String, BTreeSet<String>>,
}

impl Workspace {
    /// Asks cargo about the workspace of a folder.
    ///
    /// # Errors
    ///
    /// Cargo cannot be run, or does not understand the workspace.
    pub fn load(folder: &Path) -> Result<Self> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(folder)
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        Self::parse(&output.stdout)
    }

    /// From the JSON that `cargo metadata` prints.
    ///
    /// # Errors
    ///
    /// It is not that JSON.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let metadata: Metadata =
            serde_json::from_slice(json).context("unexpected output of cargo metadata")?;
        let names: BTreeMap<_, _> =
            metadata.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
        let mut direct: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &metadata.resolve.nodes {
            let dependencies = node
                .deps
                .iter()
                .filter(|dependency| {
                    dependency.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
                })
                .filter_map(|dependency| names.get(dependency.pkg.as_str()).map(|name| (*name).to_owned()));
            let name = names.get(node.id.as_str()).context("a node without a package")?;
            direct.entry((*name).to_owned()).or_default().extend(dependencies);
        }
        let root = metadata.workspace_root;
        let relative = |path: &Path| path.strip_prefix(&root).unwrap_or(path).to_owned();
        let members: BTreeSet<_> = metadata.workspace_members.into_iter().collect();
        let mut packages: Vec<_> = metadata
            .packages
            .into_iter()
            .filter(|package| members.contains(&package.id))
            .map(|package| Package {
                folder: relative(package.manifest_path.parent().unwrap_or(&package.manifest_path)),
                targets: package
                    .targets
                    .into_iter()
                    .map(|target| Target {
                        root: relative(&target.src_path),
                        production: !target
                            .kind
                            .iter()
                            .any(|kind| ["test", "example", "bench"].contains(&kind.as_str())),
                        name: target.name,
                    })
                    .collect(),
                name: package.name,
            })
            .collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { root, packages, direct })
    }

    /// The member of this name.
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// What a package depends on directly, for its production code or its build script.
    pub fn direct(&self, name: &str) -> BTreeSet<&str> {
        self.direct.get(name).into_iter().flatten().map(String::as_str).collect()
    }

    /// A chain of such dependencies from a package to one for which `wanted` holds.
    pub fn chain(&self, from: &str, wanted: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([from]);
        while let Some(name) = queue.pop_front() {
            if name != from && wanted(name) {
                let mut chain = vec![name.to_owned()];
                let mut at = name;
                while let Some(before) = came_from.get(at) {
                    chain.push((*before).to_owned());
                    at = before;
                }
                chain.reverse();
                return Some(chain);
            }
            for next in self.direct(name) {
                if next != from && !came_from.contains_key(next) {
                    came_from.insert(next, name);
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Files that import each other, directly or around several: the strongly connected components of the
//! imports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::imports::Import;

/// Files of which each can be reached from each.
#[derive(Debug)]
pub struct Ring {
    /// The files.
    pub files: BTreeSet<PathBuf>,
    /// The imports between them.
    pub imports: Vec<Import>,
}

/// All rings of two files or more.
pub fn rings(imports: &BTreeSet<Import>) -> Vec<Ring> {
    let mut next: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
    for import in imports {
        next.entry(&import.from).or_default().insert(&import.to);
    }
    let reach: BTreeMap<&Path, BTreeSet<&Path>> =
        next.keys().map(|file| (*file, reachable(&next, file))).collect();
    let mut rings: Vec<Ring> = Vec::new();
    for (file, reached) in &reach {
        if !reached.contains(file) || rings.iter().any(|ring| ring.files.contains(*file)) {
            continue;
        }
        let files: BTreeSet<PathBuf> = reached
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
            .map(|other| other.to_path_buf())
            .collect();
        let within = |import: &&Import| files.contains(&import.from) && files.contains(&import.to);
        let imports = imports.iter().filter(within).cloned().collect();
        rings.push(Ring { files, imports });
    }
    rings
}

fn reachable<'a>(next: &BTreeMap<&'a Path, BTreeSet<&'a Path>>, from: &Path) -> BTreeSet<&'a Path> {
    let mut found = BTreeSet::new();
    let mut todo: Vec<&Path> = next.get(from).into_iter().flatten().copied().collect();
    while let Some(file) = todo.pop() {
        if found.insert(file) {
            todo.extend(next.get(file).into_iter().flatten());
        }
    }
    found
}

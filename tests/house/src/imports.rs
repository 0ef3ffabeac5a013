// SPDX-License-Identifier: Apache-2.0
//! Which file of a crate imports which. A name is followed through re-exports to the file that defines it, so
//! a module that only re-exports is not in the way. What a module takes from those it is in (`super::Error`)
//! does not count: a module and what is below it are one to the rest of the crate.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::modules::Tree;

/// How far re-exports of re-exports are followed.
const MAX_DEPTH: usize = 16;

/// An import from another file of the same crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The importing file, relative to the workspace.
    pub from: PathBuf,
    /// Its line.
    pub line: usize,
    /// The file that defines what is imported.
    pub to: PathBuf,
    /// The path as written.
    pub what: String,
    /// Top-level modules of both; empty for the root.
    pub modules: (String, String),
}

/// All imports between files of a target.
pub fn imports(tree: &Tree) -> BTreeSet<Import> {
    let mut found = BTreeSet::new();
    for (index, module) in tree.modules.iter().enumerate() {
        let uses = module.uses.iter().filter_map(|item| {
            let target = resolve(tree, index, &item.path, item.name.is_none(), 0)?;
            // A public `use` of a descendant only forwards its names.
            let forwards = item.public && is_below(tree, target, index);
            (!forwards).then_some((&item.path, item.line, target))
        });
        let paths = module.paths.iter().filter_map(|(path, line)| {
            let glob = path.last().is_some_and(|last| last == "*");
            let names = if glob { &path[..path.len() - 1] } else { &path[..] };
            resolve(tree, index, names, glob, 0).map(|target| (path, *line, target))
        });
        for (path, line, target) in uses.chain(paths) {
            let Some(other) = tree.modules.get(target) else { continue };
            if other.file != module.file && !is_below(tree, index, target) {
                found.insert(Import {
                    from: module.file.clone(),
                    line,
                    to: other.file.clone(),
                    what: path.join("::"),
                    modules: (top(tree, index), top(tree, target)),
                });
            }
        }
    }
    found
}

/// The name of the top-level module that a module is in.
fn top(tree: &Tree, mut index: usize) -> String {
    while let Some(module) = tree.modules.get(index) {
        match module.parent {
            Some(parent) if parent != 0 => index = parent,
            _ => return module.name.clone(),
        }
    }
    String::new()
}

fn is_below(tree: &Tree, mut index: usize, above: usize) -> bool {
    while let Some(parent) = tree.modules.get(index).and_then(|module| module.parent) {
        if parent == above {
            return true;
        }
        index = parent;
    }
    false
}

/// The module that defines the end of a path, or that a glob takes its names from. `None` for what is not in
/// this crate.
fn resolve(tree: &Tree, at: usize, path: &[String], glob: bool, depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (first, mut rest) = path.split_first()?;
    let module = tree.modules.get(at)?;
    let start = match first.as_str() {
        "crate" => 0,
        "self" => at,
        "super" => {
            let mut above = module.parent?;
            while let Some((next, after)) = rest.split_first()
                && next == "super"
            {
                above = tree.modules.get(above)?.parent?;
                rest = after;
            }
            above
        }
        // A bare name is one of this module's: a child, or what a `use` has brought.
        name => {
            let child = module.children.get(name).copied();
            let used = || {
                let item = module.uses.iter().find(|item| item.name.as_deref() == Some(name))?;
                // `use x::x` of another crate would be found again and again.
                if item.path == path {
                    return None;
                }
                lookup_path(tree, at, &item.path, depth + 1)
            };
            child.or_else(used)?
        }
    };
    walk(tree, start, rest, glob, depth)
}

/// The module that a path names as a module.
fn lookup_path(tree: &Tree, at: usize, path: &[String], depth: usize) -> Option<usize> {
    let found = resolve(tree, at, path, false, depth)?;
    // The path of an item is not a module that can be followed further.
    let last = path.last()?;
    tree.modules.get(found).filter(|module| &module.name == last).map(|_| found)
}

fn walk(tree: &Tree, start: usize, path: &[String], glob: bool, depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    let module = tree.modules.get(start)?;
    let Some((name, rest)) = path.split_first() else { return Some(start) };
    if let Some(child) = module.children.get(name) {
        return walk(tree, *child, rest, glob, depth);
    }
    if module.items.contains(name) {
        return Some(start);
    }
    if let Some(item) = module.uses.iter().find(|item| item.name.as_deref() == Some(name)) {
        let path: Vec<String> = item.path.iter().chain(rest).cloned().collect();
        return resolve(tree, start, &path, glob, depth + 1);
    }
    for item in module.uses.iter().filter(|item| item.name.is_none()) {
        if let Some(source) = resolve(tree, start, &item.path, true, depth + 1)
            && source != start
            && has(tree, source, name)
        {
            return walk(tree, source, path, glob, depth + 1);
        }
    }
    // What a macro has made.
    Some(start)
}

fn has(tree: &Tree, index: usize, name: &str) -> bool {
    tree.modules.get(index).is_some_and(|module| {
        module.items.contains(name)
            || module.children.contains_key(name)
            || module.uses.iter().any(|item| item.public && item.name.as_deref() == Some(name))
    })
}

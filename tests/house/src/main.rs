// SPDX-License-Identifier: Apache-2.0
//! `cvmm-house`: checks the rules of the workspace and prints its figures.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use cvmm_house::figures::{self, Figures};
use cvmm_house::imports::imports;
use cvmm_house::known::{KNOWN, unknown};
use cvmm_house::modules::Tree;
use cvmm_house::ratchet::{self, Counts};
use cvmm_house::rings::rings;
use cvmm_house::workspace::Workspace;
use cvmm_house::{Problem, habits, rules};

const RATCHET: &str = "tests/house/ratchet.toml";
const MAX_WIDTH: usize = 110;

#[derive(Parser)]
#[command(about = "Check the rules of the workspace and print its figures")]
struct Arguments {
    /// Write lower counts to ratchet.toml
    #[arg(long)]
    lower: bool,
    /// Print each line that a count of ratchet.toml counts; all of them without a name
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    lines: Option<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let workspace = Workspace::load(Path::new("."))?;
    let files = tracked(&workspace.root)?;
    let read = |path: &Path| std::fs::read_to_string(workspace.root.join(path)).ok();

    let (problems, figures, in_rings) = code(&workspace, &files, &read)?;
    let listing =
        |name: &str| arguments.lines.as_deref().is_some_and(|wanted| wanted.is_empty() || wanted == name);
    let mut counts = text(&files, &read, &listing)?;
    counts.insert("unsafe_blocks".to_owned(), figures.unsafe_blocks());
    counts.insert("unwraps".to_owned(), figures.unwraps());
    print(&figures, &counts, in_rings, &problems);

    let mut left = unknown(problems, KNOWN);
    let path = workspace.root.join(RATCHET);
    let written = std::fs::read_to_string(&path).with_context(|| format!("cannot read {RATCHET}"))?;
    let accepted = ratchet::parse(&written)?;
    for wrong in ratchet::compare(&accepted, &counts) {
        let text = format!("{wrong}; cvmm-house --lines NAME shows where");
        left.push(Problem { rule: "ratchet", subjects: vec![RATCHET.to_owned()], text });
    }
    if arguments.lower {
        std::fs::write(&path, ratchet::lowered(&written, &counts)?)?;
    } else {
        for (name, limit, count) in ratchet::improved(&accepted, &counts) {
            println!("{name} is {count}, {RATCHET} still accepts {limit}: cvmm-house --lower");
        }
    }
    for problem in &left {
        eprintln!("{problem}");
    }
    Ok(if left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files of the repository, with those that were not added yet.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout).context("file names")?;
    Ok(text.lines().map(PathBuf::from).filter(|path| root.join(path).is_file()).collect())
}

type Reader<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// The rules of packages and modules, the figures of production code, and how many files are in rings.
fn code(
    workspace: &Workspace,
    files: &[PathBuf],
    read: Reader<'_>,
) -> Result<(Vec<Problem>, Figures, usize)> {
    let mut problems = rules::dependencies(workspace);
    let mut figures = Figures::default();
    let mut in_rings = 0;
    for package in &workspace.packages {
        let mut all = BTreeSet::new();
        for target in package.targets.iter().filter(|target| target.production) {
            let tree = Tree::load(&target.root, read)?;
            all.extend(imports(&tree));
            if rules::PURE.contains(&package.name.as_str()) && target.root.ends_with("src/lib.rs") {
                problems.extend(rules::purity(&package.name, &tree));
            }
            if !package.folder.starts_with("tests") {
                for (path, parsed) in &tree.files {
                    let text = read(path).unwrap_or_default();
                    figures.add(path, figures::File::of(&text, parsed));
                }
            }
        }
        let manifest = read(&package.folder.join("Cargo.toml")).unwrap_or_default();
        let suites = rules::suites(&manifest).context("a manifest")?;
        for target in
            package.targets.iter().filter(|target| !target.production && suites.contains(&target.name))
        {
            problems.extend(rules::listed_tests(&Tree::load(&target.root, read)?, read));
        }
        if package.name == "cvmm" {
            problems.extend(rules::layers(&all));
        }
        let rings = rings(&all);
        in_rings += rings.iter().map(|ring| ring.files.len()).sum::<usize>();
        problems.extend(rules::no_rings(&rings));
    }
    for root in alone(workspace, files) {
        let tree = Tree::load(&root, read)?;
        for (path, parsed) in &tree.files {
            figures.add(path, figures::File::of(&read(path).unwrap_or_default(), parsed));
        }
    }
    problems.extend(paths(files, read));
    Ok((problems, figures, in_rings))
}

/// The root files of packages that are workspaces of their own, such as the first stage's image.
fn alone(workspace: &Workspace, files: &[PathBuf]) -> Vec<PathBuf> {
    let member = |folder: &Path| workspace.packages.iter().any(|package| package.folder == folder);
    let folders = files.iter().filter(|path| path.ends_with("Cargo.toml")).filter_map(|path| path.parent());
    let outside = folders.filter(|folder| !member(folder) && !folder.starts_with("tests"));
    let roots = outside.flat_map(|folder| ["src/main.rs", "src/lib.rs"].map(|root| folder.join(root)));
    roots.filter(|root| files.contains(root)).collect()
}

/// `#[path]` in all files, also those of the fuzz targets and other workspaces.
fn paths(files: &[PathBuf], read: Reader<'_>) -> Vec<Problem> {
    let manifests: Vec<_> = files.iter().filter(|path| path.ends_with("Cargo.toml")).collect();
    let folder = |file: &Path| {
        let folders = manifests.iter().filter_map(|manifest| manifest.parent());
        folders.filter(|folder| file.starts_with(folder)).max_by_key(|folder| folder.components().count())
    };
    let rust = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.flat_map(|file| {
        folder(file).map(|folder| rules::path_attributes(folder, file, read)).unwrap_or_default()
    })
    .collect()
}

/// Counts over the text of all files.
fn text(files: &[PathBuf], read: Reader<'_>, listing: &dyn Fn(&str) -> bool) -> Result<Counts> {
    let habits = habits::habits()?;
    let mut counts: Counts = habits.iter().map(|habit| (habit.name.to_owned(), 0)).collect();
    counts.insert("long_lines".to_owned(), 0);
    for path in files {
        let Some(text) = read(path) else { continue };
        let mut add = |name: &str, line: usize, count: usize| {
            if let Some(sum) = counts.get_mut(name) {
                *sum += count;
            }
            if listing(name) {
                println!(
                    "{name} {}:{line}: {}",
                    path.display(),
                    text.lines().nth(line - 1).unwrap_or_default().trim()
                );
            }
        };
        if path.extension().is_some_and(|extension| extension == "rs") {
            for (number, line) in (1..).zip(text.lines()) {
                if line.chars().count() > MAX_WIDTH {
                    add("long_lines", number, 1);
                }
            }
        }
        if habits::is_ours(path, &text) {
            for habit in &habits {
                for (line, count) in habit.lines(&text) {
                    add(habit.name, line, count);
                }
            }
        }
    }
    Ok(counts)
}

fn print(figures: &Figures, counts: &Counts, in_rings: usize, problems: &[Problem]) {
    let row = |name: &str, value: String| println!("{name:<34} {value}");
    let outside = problems.iter().filter(|problem| problem.rule == "no-path-out-of-crate").count();
    let (all, vmm) = (figures.lines(Path::new("")), figures.lines(Path::new("vmm")));
    row("files in rings", in_rings.to_string());
    row("production files", figures.count().to_string());
    row("production lines", all.to_string());
    if let Some((path, lines)) = figures.largest() {
        row("largest production file", format!("{lines} lines, {}", path.display()));
    }
    row("median production file", format!("{} lines", figures.median()));
    row("share of vmm", format!("{:.1} % (goal: at most 18 %)", 100.0 * vmm as f64 / all.max(1) as f64));
    row("#[path] out of a crate", outside.to_string());
    for (name, count) in counts {
        row(name, count.to_string());
    }
}

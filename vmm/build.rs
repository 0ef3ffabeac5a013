// SPDX-License-Identifier: Apache-2.0
//! Tells the program which commit it was built from.
//!
//! Only in optimised builds: a development build would be compiled again after each commit. `CVMM_COMMIT`
//! names the commit where the source has no history, as in a package. The same source gives the same program:
//! there is no time of building in it.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CVMM_COMMIT");
    println!("cargo::rustc-env=CVMM_COMMIT={}", commit());
}

fn commit() -> String {
    if let Ok(given) = std::env::var("CVMM_COMMIT") {
        // It is printed: one word.
        let word: String = given.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
        if !word.is_empty() {
            return word;
        }
    }
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return "unknown (development build)".to_owned();
    }
    from_git().unwrap_or_else(|| "unknown (built without git)".to_owned())
}

/// The commit of the source tree, marked when the tree differs from it.
fn from_git() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    // A tree without history inside another repository has that one's commits.
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    for path in ["crates", "vmm", "firmware", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(root, &["rev-parse", "--path-format=absolute", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(root, &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { format!("{commit}-dirty") } else { commit })
}

fn git(folder: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(folder).args(words).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

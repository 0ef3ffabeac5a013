// SPDX-License-Identifier: Apache-2.0
//! Programs that a test makes in order to run them.
//!
//! Another process writes them. If this one did, a child that another thread forks at that moment would
//! inherit the descriptor that is open for writing, and until that child calls exec, running the program
//! fails with ETXTBSY.

use std::path::Path;
use std::process::Command;

/// Copies the program `from` to `to`, to run it from there.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(status.success(), "cannot copy {}", from.as_ref().display());
}

/// Writes an executable script.
pub fn script(path: impl AsRef<Path>, content: &str) {
    let write = "printf %s \"$2\" >\"$1\" && chmod +x \"$1\"";
    let status =
        Command::new("sh").args(["-euc", write, "sh"]).arg(path.as_ref()).arg(content).status().unwrap();
    assert!(status.success(), "cannot write {}", path.as_ref().display());
}

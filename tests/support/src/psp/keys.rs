// SPDX-License-Identifier: Apache-2.0
//! Keys for the security processor. RSA keys take seconds to make, so a folder of them is kept between runs
//! and copied.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The secrets only; certificates are made again in each copy. Beside the test program, so that `cargo clean`
/// removes them.
fn secrets() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::current_exe().unwrap().with_file_name("psp-test-keys");
        cvmm_psp::Pki::open(&folder).unwrap().chip_secret().unwrap();
        folder.join("keys")
    })
}

/// A keys folder of its own for a test.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    for file in std::fs::read_dir(secrets()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), keys.join(file.file_name())).unwrap();
    }
    folder
}

// SPDX-License-Identifier: Apache-2.0
//! `--print-capabilities`: what libvirt and others query before they use swtpm. Lists what this program
//! supports, by swtpm's names.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};
use cvmm_vtpm::store::MemoryStore;
use cvmm_vtpm::{LibraryEngine, TpmEngine};
use serde_json::{Value, json};

/// swtpm's names of the features that do not depend on libtpms.
const FEATURES: [&str; 5] = [
    "tpm-2.0",
    "flags-opt-startup",
    "flags-opt-disable-auto-shutdown",
    "ctrl-opt-terminate",
    "nvram-backend-dir",
];

/// TPMLIB_INFO_TPMFEATURES; unknown to libtpms before 0.8.
const INFO_FEATURES: u32 = 4;

/// The JSON document.
fn capabilities() -> Result<Value> {
    let mut engine = LibraryEngine::new(Box::new(MemoryStore::new()))?;
    let info: Value =
        serde_json::from_str(&engine.info(INFO_FEATURES)?).context("libtpms returned invalid JSON")?;
    let sizes = info.pointer("/TPMFeatures/RSAKeySizes").and_then(Value::as_array).into_iter().flatten();
    let sizes = sizes.filter_map(Value::as_u64).map(|bits| format!("rsa-keysize-{bits}"));
    let features: Vec<String> = FEATURES.map(str::to_owned).into_iter().chain(sizes).collect();
    Ok(json!({ "type": "swtpm", "features": features, "version": env!("CARGO_PKG_VERSION") }))
}

/// Prints it on one line.
pub(crate) fn print() -> Result<()> {
    match writeln!(std::io::stdout(), "{}", capabilities()?) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

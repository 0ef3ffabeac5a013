// SPDX-License-Identifier: Apache-2.0
//! The authorities that reports are verified with.

use std::path::Path;

use cvmm_attest::roots::{Trust, TrustError};
use thiserror::Error;

use crate::files::{self, FileError};

/// Longest certificate of a test authority.
const MAX_CERTIFICATE: u64 = 16 << 10;

/// Why the authorities cannot be used.
#[derive(Debug, Error)]
pub enum RootsError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// AMD's authorities, and those of the test PKI in the folder `test_roots`.
pub fn trust(test_roots: Option<&Path>) -> Result<Trust, RootsError> {
    let mut trust = Trust::amd()?;
    let Some(folder) = test_roots else { return Ok(trust) };
    for line in ["milan", "genoa", "turin"] {
        let read =
            |name: &str| files::read_if_there(&folder.join(format!("{line}_{name}.der")), MAX_CERTIFICATE);
        let Some(ark) = read("ark")? else { continue };
        for name in ["ask", "asvk"] {
            if let Some(authority) = read(name)? {
                trust.unsafe_add_test(&ark, &authority)?;
            }
        }
    }
    Ok(trust)
}

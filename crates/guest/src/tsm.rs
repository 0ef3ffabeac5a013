// SPDX-License-Identifier: Apache-2.0
//! Reports from the kernel's interface for all kinds of confidential guests
//! (Documentation/ABI/testing/configfs-tsm).
//!
//! A directory is a request: `inblob` takes the report data, `outblob` returns the report, `auxblob` the
//! host's certificates. `generation` counts writes, which detects another program that writes to the same
//! request.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const DIRECTORY: &str = "/sys/kernel/config/tsm/report";
/// A report has 1184 bytes.
const REPORT: usize = 1184;
/// The longest certificate table that the gate accepts, in bytes.
const MAX_CERTIFICATES: usize = 32 << 10;

/// A report and its certificates.
#[derive(Debug)]
pub struct Report {
    /// As the security processor signed it.
    pub report: Vec<u8>,
    /// The certificate table; empty if the host has none.
    pub certificates: Vec<u8>,
}

/// Requests a report over `data`.
pub fn report(data: &[u8; 64]) -> Result<Report> {
    report_in(Path::new(DIRECTORY), data)
}

fn report_in(directory: &Path, data: &[u8; 64]) -> Result<Report> {
    let request = Entry::new(directory.join(format!("cvmm-{}", std::process::id())))?;
    let path = |name: &str| request.0.join(name);
    fs::write(path("inblob"), data).context("cannot write the request for a report")?;
    let provider = fs::read_to_string(path("provider")).context("cannot read the provider of reports")?;
    ensure!(provider.trim() == "sev_guest", "the provider of reports is {}, not sev_guest", provider.trim());
    let report = fs::read(path("outblob")).context("cannot read the report")?;
    let certificates = fs::read(path("auxblob")).unwrap_or_default();
    let generation = fs::read_to_string(path("generation")).context("cannot read the generation")?;
    ensure!(generation.trim() == "1", "another program wrote to this request for a report");
    ensure!(report.len() == REPORT, "the report has {} bytes, not {REPORT}", report.len());
    // The certificates are optional: the gate has its own.
    let certificates = if certificates.len() > MAX_CERTIFICATES { Vec::new() } else { certificates };
    Ok(Report { report, certificates })
}

/// A request, removed when dropped.
struct Entry(PathBuf);

impl Entry {
    fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| {
            format!("cannot create {}: mount configfs and load the sev-guest module", path.display())
        })?;
        Ok(Self(path))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

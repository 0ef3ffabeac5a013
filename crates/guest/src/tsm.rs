// SPDX-License-Identifier: Apache-2.0
//! Reports by the kernel's interface for all kinds of confidential guests (Documentation/ABI/testing/configfs-tsm).
//!
//! A folder is a request: `inblob` takes what the report is about, `outblob` gives it, `auxblob` the certificates that the host has.
//! `generation` counts writes, so that somebody else's request into the same folder shows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const FOLDER: &str = "/sys/kernel/config/tsm/report";
/// A report has 1184 bytes.
const REPORT: usize = 1184;
/// The longest certificate table that the gate takes.
const MAX_CERTIFICATES: usize = 32 << 10;

/// A report and the certificates that came with it.
#[derive(Debug)]
pub struct Report {
    /// As the security processor signed it.
    pub report: Vec<u8>,
    /// A table; empty if the host has none.
    pub certificates: Vec<u8>,
}

/// A report over `data`.
pub fn report(data: &[u8; 64]) -> Result<Report> {
    report_in(Path::new(FOLDER), data)
}

fn report_in(folder: &Path, data: &[u8; 64]) -> Result<Report> {
    let request = Entry::new(folder.join(format!("cvmm-{}", std::process::id())))?;
    let path = |name: &str| request.0.join(name);
    fs::write(path("inblob"), data).context("the kernel takes no request for a report")?;
    let provider = fs::read_to_string(path("provider")).context("no provider of reports")?;
    ensure!(provider.trim() == "sev_guest", "reports here are by {}, not sev_guest", provider.trim());
    let report = fs::read(path("outblob")).context("the security processor gave no report")?;
    let certificates = fs::read(path("auxblob")).unwrap_or_default();
    let generation = fs::read_to_string(path("generation")).context("no generation")?;
    ensure!(generation.trim() == "1", "somebody else used this request for a report");
    ensure!(report.len() == REPORT, "the report has {} bytes", report.len());
    // Certificates are a help. The gate has its own when these are too many.
    let certificates = if certificates.len() > MAX_CERTIFICATES { Vec::new() } else { certificates };
    Ok(Report { report, certificates })
}

/// A request, removed at the end.
struct Entry(PathBuf);

impl Entry {
    fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| {
            format!("cannot make {}: is configfs mounted, and the sev-guest module loaded?", path.display())
        })?;
        Ok(Self(path))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

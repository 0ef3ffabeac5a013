// SPDX-License-Identifier: Apache-2.0
//! The grammar of `cvmm attest`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::exit_code::ExitStatus;

#[derive(Debug, Subcommand)]
pub(super) enum AttestCommand {
    /// Verify a report and print what it says; exit code 0, or 9 if it is not believed or not accepted
    ///
    /// Needs no gate, no network and no SNP host. AMD's authorities are built in.
    Report(Box<ReportArgs>),
}

#[derive(Args, Debug)]
#[command(after_help = ExitStatus::table())]
pub(super) struct ReportArgs {
    /// The report, 1184 bytes
    pub(super) report: PathBuf,
    /// Certificate of the key that signed it (VCEK or VLEK), DER or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "certs")]
    pub(super) vek: Option<PathBuf>,
    /// The certificate table that came with the report, instead of --vek
    #[arg(long, value_name = "FILE")]
    pub(super) certs: Option<PathBuf>,
    /// Revocation list of the root, DER or PEM
    #[arg(long, value_name = "FILE")]
    pub(super) crl: Option<PathBuf>,
    /// Refuse without a revocation list, or with one that is overdue
    #[arg(long)]
    pub(super) require_crl: bool,
    /// Believe a chip that hides its identifier; with --policy the policy says so
    #[arg(long)]
    pub(super) allow_masked_chip_id: bool,
    /// A policy of the gate that the report has to meet
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// What REPORT_DATA has to be: 128 hexadecimal digits
    #[arg(long, value_name = "DATA", value_parser = report_data)]
    pub(super) report_data: Option<[u8; 64]>,
    /// The time to judge at, in seconds of Unix time. Default: now
    #[arg(long, value_name = "SECONDS")]
    pub(super) at: Option<i64>,
    /// Believe a test PKI besides AMD's roots: folder of LINE_ark.der, LINE_ask.der, LINE_asvk.der
    #[arg(long, value_name = "FOLDER")]
    pub(super) test_roots: Option<PathBuf>,
    /// Print verdict, reasons and all claims as JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn report_data(text: &str) -> Result<[u8; 64], String> {
    let wrong = || "128 hexadecimal digits are needed".to_owned();
    if text.len() != 128 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut data = [0; 64];
    for (byte, two) in data.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(two).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(data)
}

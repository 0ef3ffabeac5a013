// SPDX-License-Identifier: Apache-2.0
//! Files of evidence: reports, certificates and revocation lists, as different tools write them.

use std::borrow::Cow;
use std::path::Path;

use cvmm_attest::encoding::{self, EncodingError};
use cvmm_attest::table;
use cvmm_attest::verify::{hint, product_of};

use crate::file::{FileError, read};

const MAX_REPORT: u64 = 4096;
const MAX_CERTIFICATE: u64 = 64 << 10;
const MAX_CRL: u64 = 1 << 20;
/// Offset of the report in the security processor's message (MSG_REPORT_RSP), which some tools save
/// unchanged.
const HEADER: usize = 0x20;
const REPORT: usize = 1184;

/// Reads a report from a file that contains it, or the security processor's complete message.
pub(crate) fn report_of(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut report = read(path, MAX_REPORT)?;
    if report.len() == HEADER + REPORT {
        report.drain(..HEADER);
    }
    if report.len() != REPORT {
        let len = report.len();
        let what = format!(
            "{len} bytes, but a report has {REPORT}; convert it if it is text (base64, hexadecimal, JSON)"
        );
        return Err(FileError::invalid(path, what));
    }
    Ok(report)
}

/// Reads the certificates in a file, DER or PEM. If there are several, one must be that of a signing key.
///
/// # Errors
/// The file cannot be read, or does not hold such certificates.
pub fn vek_chain(path: &Path) -> Result<Vec<Vec<u8>>, FileError> {
    let bytes = read(path, MAX_CERTIFICATE)?;
    let all = encoding::certificates(&bytes).map_err(|problem| FileError::invalid(path, problem))?;
    for der in &all {
        encoding::check_certificate(der).map_err(|problem| FileError::invalid(path, problem))?;
    }
    if all.len() > 1 && !all.iter().any(|der| product_of(der).is_some()) {
        return Err(FileError::invalid(path, EncodingError::NoKey(all.len())));
    }
    Ok(all.into_iter().map(Cow::into_owned).collect())
}

/// Reads the certificate of the key that signed `report` from a file.
pub(crate) fn vek_of(path: &Path, report: &[u8]) -> Result<Vec<u8>, FileError> {
    let mut all = vek_chain(path)?;
    match hint(report) {
        Ok(hint) => encoding::pick(all, &hint).map_err(|problem| FileError::invalid(path, problem)),
        // Verification fails before any certificate is used.
        Err(_) => Ok(all.swap_remove(0)),
    }
}

/// Reads the only certificate in a file, DER or PEM.
///
/// # Errors
/// The file cannot be read, or does not hold one certificate.
pub fn certificate(path: &Path) -> Result<Vec<u8>, FileError> {
    let bytes = read(path, MAX_CERTIFICATE)?;
    let mut all = encoding::certificates(&bytes).map_err(|problem| FileError::invalid(path, problem))?;
    match (all.pop(), all.len()) {
        (Some(der), 0) => Ok(der.into_owned()),
        (_, more) => Err(FileError::invalid(path, format!("{} certificates, but one is expected", more + 1))),
    }
}

/// Reads the revocation list in a file, DER or PEM.
///
/// # Errors
/// The file cannot be read, or does not hold a revocation list.
pub fn revocation_list(path: &Path) -> Result<Vec<u8>, FileError> {
    let bytes = read(path, MAX_CRL)?;
    let list = encoding::revocation_list(&bytes).map_err(|problem| FileError::invalid(path, problem))?;
    encoding::check_list(&list).map_err(|problem| FileError::invalid(path, problem))?;
    Ok(list.into_owned())
}

/// Reads the certificate for the report's kind of key from a table; `None` if the report is malformed.
pub(crate) fn from_table(path: &Path, report: &[u8]) -> Result<Option<Vec<u8>>, FileError> {
    let bytes = read(path, table::MAX_TABLE as u64)?;
    let Ok(hint) = hint(report) else { return Ok(None) };
    let vek = table::vek(&bytes, &hint).map_err(|error| FileError::invalid(path, error))?;
    if let Some(der) = &vek {
        encoding::check_certificate(der).map_err(|problem| FileError::invalid(path, problem))?;
    }
    Ok(vek.map(Cow::into_owned))
}

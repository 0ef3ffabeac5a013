// SPDX-License-Identifier: Apache-2.0
//! Combines evidence from several files into one bundle.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::table::MAX_TABLE;
use cvmm_gate_protocol::bundle::{Bundle, Launch, MAX_BUNDLE, TpmEvidence};
use cvmm_gate_protocol::manifest::Manifest;
use cvmm_gate_protocol::messages::quote::to_values;
use cvmm_gate_protocol::messages::{NONCE_LEN, Pcr, Quote};
use cvmm_launch::blob::Blob;
use cvmm_tpm::attest::MAX_ATTEST;
use cvmm_tpm::eventlog::{EventLog, MAX_LOG};
use cvmm_tpm::public::MAX_PUBLIC;
use cvmm_tpm::{Attest, Public, Signature};

use crate::evidence::{certificate, report_of, vek_of};
use crate::file::{FileError, read};

const MAX_KEY: u64 = 4096;
const MAX_SIGNATURE: u64 = 1024;
const MAX_PCRS: u64 = 64 << 10;
const MAX_MANIFEST: u64 = 64 << 10;
/// As the gate reads policies.
const MAX_POLICY: u64 = cvmm_policy::MAX_FILE as u64;

/// The parts of a bundle.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// A bundle to start with, instead of a name and a report.
    pub from: Option<PathBuf>,
    /// The VM's name.
    pub vm_id: Option<String>,
    /// The report.
    pub report: Option<PathBuf>,
    /// Certificate of the key that signed the report.
    pub vek: Option<PathBuf>,
    /// The certificate table that came with the report.
    pub table: Option<PathBuf>,
    /// The public key that the report binds.
    pub key: Option<PathBuf>,
    /// The evidence of the TPM.
    pub tpm: Option<TpmParts>,
    /// The launch that the gate approved.
    pub launch: Option<LaunchParts>,
}

/// Files of a TPM.
#[derive(Clone, Debug, Default)]
pub struct TpmParts {
    /// TPMT_PUBLIC of the attestation key.
    pub ak: PathBuf,
    /// TPMS_ATTEST.
    pub quote: PathBuf,
    /// TPMT_SIGNATURE.
    pub signature: PathBuf,
    /// Values of PCRs, as JSON.
    pub pcrs: PathBuf,
    /// The firmware's event log.
    pub event_log: Option<PathBuf>,
    /// Certificate of the attestation key.
    pub ak_certificate: Option<PathBuf>,
    /// Of the RSA endorsement key.
    pub ek_rsa_certificate: Option<PathBuf>,
    /// Of the P-384 endorsement key.
    pub ek_ecc_certificate: Option<PathBuf>,
}

/// The inputs of HOST_DATA.
#[derive(Clone, Debug)]
pub struct LaunchParts {
    /// The manifest's file.
    pub manifest: PathBuf,
    /// The gate's nonce.
    pub nonce: [u8; NONCE_LEN],
    /// The policy's file.
    pub policy: PathBuf,
}

/// Creates a bundle. The parts are checked to be well-formed; [`crate::appraise_bundle`] verifies them.
///
/// # Errors
/// A file cannot be read or is malformed, or parts are missing.
pub fn bundle(parts: &Parts) -> Result<Bundle, FileError> {
    let Parts { from, vm_id, report, vek, table, key, tpm, launch } = parts;
    let mut bundle = match (from, vm_id, report) {
        (Some(path), _, _) => {
            let bytes = read(path, MAX_BUNDLE as u64)?;
            Bundle::parse(&bytes).map_err(|error| FileError::invalid(path, error))?
        }
        (None, Some(vm_id), Some(report)) => Bundle::new(vm_id, STANDARD.encode(report_of(report)?)),
        _ => {
            return Err(FileError::Invalid("give a bundle, or a VM name and a report".to_owned()));
        }
    };
    if let Some(path) = vek {
        let report = STANDARD.decode(&bundle.report).unwrap_or_default();
        bundle.vek = Some(STANDARD.encode(vek_of(path, &report)?));
    }
    if let Some(path) = table {
        bundle.certificates = Some(STANDARD.encode(read(path, MAX_TABLE as u64)?));
    }
    if let Some(path) = key {
        bundle.key = Some(STANDARD.encode(read(path, MAX_KEY)?));
    }
    if let Some(tpm) = tpm {
        bundle.tpm = Some(tpm_evidence(tpm)?);
    }
    if let Some(launch) = launch {
        bundle.launch = Some(approved(launch)?);
    }
    Ok(bundle)
}

fn tpm_evidence(parts: &TpmParts) -> Result<TpmEvidence, FileError> {
    let TpmParts {
        ak,
        quote,
        signature,
        pcrs,
        event_log,
        ak_certificate,
        ek_rsa_certificate,
        ek_ecc_certificate,
    } = parts;
    let public = read(ak, MAX_PUBLIC as u64)?;
    Public::parse(&public).map_err(|error| FileError::invalid(ak, error))?;
    let attest = read(quote, MAX_ATTEST as u64)?;
    Attest::parse(&attest).map_err(|error| FileError::invalid(quote, error))?;
    let signed = read(signature, MAX_SIGNATURE)?;
    Signature::parse(&signed).map_err(|error| FileError::invalid(signature, error))?;
    let values: Vec<Pcr> =
        serde_json::from_slice(&read(pcrs, MAX_PCRS)?).map_err(|error| FileError::invalid(pcrs, error))?;
    let values =
        to_values(&values).ok_or_else(|| FileError::invalid(pcrs, "a PCR is malformed or given twice"))?;
    let log = event_log.as_ref().map(|path| read(path, MAX_LOG as u64)).transpose()?;
    if let Some((path, log)) = event_log.as_ref().zip(log.as_deref()) {
        EventLog::parse(log).map_err(|error| FileError::invalid(path, error))?;
    }
    let encoded = |path: &Option<PathBuf>| {
        let der = path.as_deref().map(certificate).transpose()?;
        Ok::<_, FileError>(der.map(|der| STANDARD.encode(der)))
    };
    Ok(TpmEvidence {
        ak: STANDARD.encode(&public),
        ak_certificate: encoded(ak_certificate)?,
        ek_rsa_certificate: encoded(ek_rsa_certificate)?,
        ek_ecc_certificate: encoded(ek_ecc_certificate)?,
        quote: Quote::new(&attest, &signed, &values, log.as_deref()),
    })
}

fn approved(parts: &LaunchParts) -> Result<Launch, FileError> {
    let LaunchParts { manifest, nonce, policy } = parts;
    let text = String::from_utf8(read(manifest, MAX_MANIFEST)?)
        .map_err(|_| FileError::invalid(manifest, "not UTF-8"))?;
    serde_json::from_str::<Manifest>(&text).map_err(|error| FileError::invalid(manifest, error))?;
    let policy_digest = Blob::from_bytes("policy", read(policy, MAX_POLICY)?)
        .sha384()
        .map_err(|error| FileError::invalid(policy, error))?;
    Ok(Launch { manifest: text, nonce: STANDARD.encode(nonce), policy_sha384: policy_digest.to_string() })
}

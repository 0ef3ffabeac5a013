// SPDX-License-Identifier: Apache-2.0
//! The grammar of `cvmm attest`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cvmm_gate_protocol::messages::NONCE_LEN;
use cvmm_tpm::Name;

use super::output::OutputArgs;

#[derive(Debug, Subcommand)]
pub(super) enum AttestCommand {
    /// Verify a report and print its claims; exit code 0, 9 if it is not verified or not accepted, or 40
    /// without a certificate
    ///
    /// Needs no gate, network or SNP host. AMD's root certificates are built in.
    Report(Box<ReportArgs>),
    /// Combine the evidence of a guest into one file: report, certificates, quote, PCRs, event log, manifest
    ///
    /// cvmm-guest attest --bundle writes such a file in the guest; this command creates one from files, or
    /// adds to one.
    Bundle(Box<BundleArgs>),
    /// Verify a bundle; exit code 0, 9 if it is not verified or not accepted, or 40 without a certificate
    ///
    /// Needs no gate, network or host. A quote counts only if something vouches for its key: the manifest of
    /// the launch in the bundle, --tpm-ca, or --ak-name.
    Verify(Box<VerifyArgs>),
}

#[derive(Args, Debug)]
pub(super) struct BundleArgs {
    /// Start with this bundle
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vm_id", "report"], required_unless_present = "report")]
    pub(super) from: Option<PathBuf>,
    /// The VM's name at the gate
    #[arg(long, value_name = "NAME", requires = "report")]
    pub(super) vm_id: Option<String>,
    /// The report, 1184 bytes
    #[arg(long, value_name = "FILE", requires = "vm_id")]
    pub(super) report: Option<PathBuf>,
    /// Certificate of the key that signed the report (VCEK or VLEK), DER or PEM
    #[arg(long, value_name = "FILE")]
    pub(super) vek: Option<PathBuf>,
    /// The certificate table that came with the report
    #[arg(long, value_name = "FILE")]
    pub(super) certs: Option<PathBuf>,
    /// The public key that the report binds
    #[arg(long, value_name = "FILE")]
    pub(super) key: Option<PathBuf>,
    /// The TPM's attestation key (TPMT_PUBLIC)
    #[arg(long, value_name = "FILE", requires_all = ["quote", "signature", "pcrs"])]
    pub(super) ak: Option<PathBuf>,
    /// The TPM's quote (TPMS_ATTEST)
    #[arg(long, value_name = "FILE", requires = "ak")]
    pub(super) quote: Option<PathBuf>,
    /// The quote's signature (TPMT_SIGNATURE)
    #[arg(long, value_name = "FILE", requires = "ak")]
    pub(super) signature: Option<PathBuf>,
    /// Values of the quoted PCRs, as JSON: [{"bank": "sha256", "index": 0, "value": HEX}, ...]
    #[arg(long, value_name = "FILE", requires = "ak")]
    pub(super) pcrs: Option<PathBuf>,
    /// The firmware's event log
    #[arg(long, value_name = "FILE", requires = "ak")]
    pub(super) event_log: Option<PathBuf>,
    /// Certificate of the attestation key, DER or PEM
    #[arg(long, value_name = "FILE", requires = "ak")]
    pub(super) ak_cert: Option<PathBuf>,
    /// Certificate of the RSA endorsement key, DER or PEM
    #[arg(long, value_name = "FILE", requires = "ak")]
    pub(super) ek_rsa_cert: Option<PathBuf>,
    /// Certificate of the P-384 endorsement key, DER or PEM
    #[arg(long, value_name = "FILE", requires = "ak")]
    pub(super) ek_ecc_cert: Option<PathBuf>,
    /// The manifest that the gate approved
    #[arg(long, value_name = "FILE", requires_all = ["launch_nonce", "launch_policy"])]
    pub(super) manifest: Option<PathBuf>,
    /// The gate's nonce for that launch, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", requires = "manifest", value_parser = nonce)]
    pub(super) launch_nonce: Option<[u8; NONCE_LEN]>,
    /// The policy by which the gate approved it
    #[arg(long, value_name = "FILE", requires = "manifest")]
    pub(super) launch_policy: Option<PathBuf>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// What evidence is appraised against.
#[derive(Args, Debug)]
pub(super) struct AppraisalArgs {
    /// A gate policy that the evidence must satisfy
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// Revocation list of the root, DER or PEM
    #[arg(long, value_name = "FILE")]
    pub(super) crl: Option<PathBuf>,
    /// Require a current revocation list
    #[arg(long)]
    pub(super) require_crl: bool,
    /// Accept a report with a masked chip identifier; with --policy, the policy decides
    #[arg(long)]
    pub(super) allow_masked_chip_id: bool,
    /// Time of the appraisal, in seconds of Unix time. Default: now
    #[arg(long, value_name = "SECONDS")]
    pub(super) at: Option<i64>,
    /// Trust a test PKI in addition to AMD's roots: folder with LINE_ark.der, LINE_ask.der, LINE_asvk.der
    #[arg(long, value_name = "FOLDER")]
    pub(super) test_roots: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The bundle
    pub(super) bundle: PathBuf,
    /// The nonce that was given to cvmm-guest, 64 hexadecimal digits
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    pub(super) nonce: [u8; NONCE_LEN],
    /// Certificate of the gate's TPM authority (tpm-ca.crt), DER or PEM
    #[arg(long, value_name = "FILE")]
    pub(super) tpm_ca: Option<PathBuf>,
    /// Expected name of the TPM's attestation key, hexadecimal
    #[arg(long, value_name = "HEX", value_parser = name)]
    pub(super) ak_name: Option<Name>,
    /// Certificate of the key that signed the report, DER or PEM, instead of the one in the bundle
    #[arg(long, value_name = "FILE")]
    pub(super) vek: Option<PathBuf>,
    #[command(flatten)]
    pub(super) appraisal: AppraisalArgs,
    /// List the events of the event log
    #[arg(long)]
    pub(super) events: bool,
    /// Print verdict, reasons, all claims, PCRs and events as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    /// The report, 1184 bytes
    pub(super) report: PathBuf,
    /// Certificate of the key that signed it (VCEK or VLEK), DER or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "certs")]
    pub(super) vek: Option<PathBuf>,
    /// The certificate table that came with the report, instead of --vek
    #[arg(long, value_name = "FILE")]
    pub(super) certs: Option<PathBuf>,
    /// Expected REPORT_DATA, 128 hexadecimal digits
    #[arg(long, value_name = "DATA", value_parser = report_data)]
    pub(super) report_data: Option<[u8; 64]>,
    #[command(flatten)]
    pub(super) appraisal: AppraisalArgs,
    /// Print verdict, reasons and all claims as JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn report_data(text: &str) -> Result<[u8; 64], String> {
    digits(text)
}

fn nonce(text: &str) -> Result<[u8; NONCE_LEN], String> {
    digits(text)
}

fn name(text: &str) -> Result<Name, String> {
    Name::from_hex(text).ok_or_else(|| "not the name of a TPM key, such as 000c and 96 digits".to_owned())
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut data = [0; N];
    hex::decode_to_slice(text, &mut data).map_err(|_| format!("expected {} hexadecimal digits", 2 * N))?;
    Ok(data)
}

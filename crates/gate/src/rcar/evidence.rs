// SPDX-License-Identifier: Apache-2.0
//! SNP evidence in RCAR: a report, and optionally the certificate of the key that signed it.
//!
//! ```text
//! {"attestation_report": REPORT, "cert_chain": null | [{"cert_type": "VCEK", "data": [48, 130, ...]}, ...]}
//! ```
//! REPORT is base64 of the 1184 bytes, or, from Trustee's guest components, the serde form of the `sev`
//! crate's `AttestationReport`: its fields, with each TCB in parts. Such a report is encoded again into the
//! bytes that were signed. What that form cannot express (a reserved byte that is not zero) is lost, and the
//! signature does not verify then: only bytes are ever verified.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::claims::SigningKey;
use cvmm_attest::encoding;
use cvmm_attest::verify::Hint;
use cvmm_snp::digest::Digest;
use cvmm_snp::report::Report;
use cvmm_snp::tcb::TcbVersion;
use serde::Deserialize;
use serde_json::Value;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Certificates in a chain, at most.
const MAX_CHAIN: usize = 8;

/// Decoded evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The report's bytes.
    pub report: Vec<u8>,
    /// Certificates by their type.
    certificates: Vec<Certificate>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    /// `VCEK`, `VLEK`, `ASK`, `ARK`, `CRL`, `Empty`, or an object for others.
    cert_type: Value,
    data: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Snp {
    attestation_report: Value,
    #[serde(default)]
    cert_chain: Option<Vec<Certificate>>,
}

impl Evidence {
    /// Decodes evidence; the error says what is wrong with it.
    pub fn read(value: &Value) -> Result<Self, String> {
        let Snp { attestation_report, cert_chain } =
            Snp::deserialize(value).map_err(|error| format!("tee-evidence.primary_evidence: {error}"))?;
        let report = match &attestation_report {
            Value::String(text) => {
                STANDARD.decode(text).map_err(|_| "attestation_report is not base64".to_owned())?
            }
            parsed => SevReport::deserialize(parsed)
                .map_err(|error| format!("attestation_report: {error}"))?
                .bytes(),
        };
        let certificates = cert_chain.unwrap_or_default();
        if certificates.len() > MAX_CHAIN {
            return Err(format!("cert_chain has more than {MAX_CHAIN} certificates"));
        }
        Ok(Self { report, certificates })
    }

    /// The certificate of the key that signed the report, if it is in the chain: DER or PEM, as the host has
    /// it.
    pub fn vek(&self, hint: &Hint) -> Result<Option<Cow<'_, [u8]>>, String> {
        let name = match hint.signing_key {
            SigningKey::Vcek => "VCEK",
            SigningKey::Vlek => "VLEK",
        };
        let found = self.certificates.iter().find(|certificate| certificate.cert_type == name);
        found
            .map(|found| encoding::vek(&found.data, hint))
            .transpose()
            .map_err(|problem| format!("cert_chain: {name}: {problem}"))
    }
}

/// A byte string as serde writes arrays: numbers.
#[derive(Clone, Copy)]
struct Bytes<const N: usize>([u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        let len = bytes.len();
        let bytes =
            bytes.try_into().map_err(|_| serde::de::Error::custom(format!("{len} bytes instead of {N}")))?;
        Ok(Self(bytes))
    }
}

/// `sev::firmware::guest::AttestationReport` (versions 6 to 8 of the crate).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SevReport {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Bytes<16>,
    image_id: Bytes<16>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: SevTcb,
    plat_info: u64,
    key_info: u32,
    report_data: Bytes<64>,
    measurement: Bytes<48>,
    host_data: Bytes<32>,
    id_key_digest: Bytes<48>,
    author_key_digest: Bytes<48>,
    report_id: Bytes<32>,
    report_id_ma: Bytes<32>,
    reported_tcb: SevTcb,
    cpuid_fam_id: Option<u8>,
    cpuid_mod_id: Option<u8>,
    cpuid_step: Option<u8>,
    chip_id: Bytes<64>,
    committed_tcb: SevTcb,
    current: SevVersion,
    committed: SevVersion,
    launch_tcb: SevTcb,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: SevSignature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SevTcb {
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SevVersion {
    major: u8,
    minor: u8,
    build: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SevSignature {
    r: Bytes<72>,
    s: Bytes<72>,
}

impl SevTcb {
    /// Only the newer layout has an FMC, and it always has one.
    fn version(&self) -> TcbVersion {
        let Self { fmc, bootloader, tee, snp, microcode } = *self;
        TcbVersion(match fmc {
            Some(fmc) => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
            None => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
        })
    }
}

impl SevVersion {
    fn bytes(&self) -> [u8; 3] {
        [self.build, self.minor, self.major]
    }
}

impl SevReport {
    /// Encodes the bytes that were signed, and the signature.
    fn bytes(self) -> Vec<u8> {
        let mut report = Report::new_zeroed();
        report.version = U32::new(self.version);
        report.guest_svn = U32::new(self.guest_svn);
        report.policy = U64::new(self.policy);
        report.family_id = self.family_id.0;
        report.image_id = self.image_id.0;
        report.vmpl = U32::new(self.vmpl);
        report.signature_algo = U32::new(self.sig_algo);
        report.current_tcb = self.current_tcb.version();
        report.platform_info = U64::new(self.plat_info);
        report.key_info = U32::new(self.key_info);
        report.report_data = self.report_data.0;
        report.measurement = Digest(self.measurement.0);
        report.host_data = self.host_data.0;
        report.id_key_digest = Digest(self.id_key_digest.0);
        report.author_key_digest = Digest(self.author_key_digest.0);
        report.report_id = self.report_id.0;
        report.report_id_ma = self.report_id_ma.0;
        report.reported_tcb = self.reported_tcb.version();
        report.cpuid_family = self.cpuid_fam_id.unwrap_or(0);
        report.cpuid_model = self.cpuid_mod_id.unwrap_or(0);
        report.cpuid_stepping = self.cpuid_step.unwrap_or(0);
        report.chip_id = self.chip_id.0;
        report.committed_tcb = self.committed_tcb.version();
        report.current_version = self.current.bytes();
        report.committed_version = self.committed.bytes();
        report.launch_tcb = self.launch_tcb.version();
        report.launch_mit_vector = U64::new(self.launch_mit_vector.unwrap_or(0));
        report.current_mit_vector = U64::new(self.current_mit_vector.unwrap_or(0));
        let mut bytes = report.as_bytes().to_vec();
        // R and S are the first members of the signature, which is the last of the report.
        let at = std::mem::offset_of!(Report, signature);
        let signature = [self.signature.r.0, self.signature.s.0].concat();
        for (to, from) in bytes.iter_mut().skip(at).zip(signature) {
            *to = from;
        }
        bytes
    }
}

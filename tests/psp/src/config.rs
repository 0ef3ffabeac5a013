// SPDX-License-Identifier: Apache-2.0
//! Configuration of the modelled security processor, a TOML document.
//!
//! Every key has a default; an unknown key is an error, so that a misspelt fault does not silently test
//! nothing.

use std::path::PathBuf;

use serde::Deserialize;

use crate::product::{Product, Tcb};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, or an unknown or mistyped key.
    #[error("configuration: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A value that makes no sense.
    #[error("configuration key `{key}`: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
}

/// Some of the components of a TCB; the others keep their default.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartialTcb {
    fmc: Option<u8>,
    bootloader: Option<u8>,
    tee: Option<u8>,
    snp: Option<u8>,
    microcode: Option<u8>,
}

impl PartialTcb {
    fn over(self, base: Tcb) -> Tcb {
        Tcb {
            fmc: self.fmc.unwrap_or(base.fmc),
            bootloader: self.bootloader.unwrap_or(base.bootloader),
            tee: self.tee.unwrap_or(base.tee),
            snp: self.snp.unwrap_or(base.snp),
            microcode: self.microcode.unwrap_or(base.microcode),
        }
    }
}

/// Guests whose policy allows debugging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DebugRule {
    /// The guest's policy decides, as on hardware.
    #[default]
    Policy,
    /// LAUNCH_START refuses them with POLICY_FAILURE.
    Forbid,
}

/// Treatment of CPUID pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuidCheck {
    /// Checked against the processor, see the module `cpuid`.
    #[default]
    On,
    /// Taken as they are.
    Off,
}

/// Bits that a CPUID page may set although the processor does not.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidAllow {
    /// Function (EAX input).
    pub leaf: u32,
    /// Index (ECX input).
    #[serde(default)]
    pub subleaf: u32,
    /// Allowed bits of EAX.
    #[serde(default)]
    pub eax: u32,
    /// Allowed bits of EBX.
    #[serde(default)]
    pub ebx: u32,
    /// Allowed bits of ECX.
    #[serde(default)]
    pub ecx: u32,
    /// Allowed bits of EDX.
    #[serde(default)]
    pub edx: u32,
}

/// A command made to fail or to dawdle.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Command identifier.
    pub command: u32,
    /// Status to answer without executing the command; absent: it is executed.
    pub status: Option<u32>,
    /// The call that is hit, counted from 1.
    #[serde(default = "first")]
    pub nth: u32,
    /// All later calls too.
    #[serde(default)]
    pub repeat: bool,
    /// How long the command appears to take, milliseconds.
    #[serde(default)]
    pub delay_ms: u32,
}

fn first() -> u32 {
    1
}

/// The document as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    product: Option<Product>,
    api: Option<String>,
    build: Option<u8>,
    report_version: Option<u32>,
    chip_id: Option<String>,
    keys_dir: Option<PathBuf>,
    seed: Option<String>,
    mask_chip_id: bool,
    asids: Option<u32>,
    snp_asids: Option<u32>,
    smt: Option<bool>,
    sockets: Option<u32>,
    cxl: bool,
    aes_256_xts: bool,
    tsme: bool,
    ecc: Option<bool>,
    ciphertext_hiding: bool,
    alias_check: Option<bool>,
    mitigations: u64,
    tsc_khz: Option<u32>,
    debug: DebugRule,
    wbinvd_check: bool,
    cpuid_check: CpuidCheck,
    csp_id: Option<String>,
    tcb: PartialTcb,
    committed_tcb: Option<PartialTcb>,
    reported_tcb: Option<PartialTcb>,
    cpuid_allow: Vec<CpuidAllow>,
    fault: Vec<Fault>,
}

/// Checked configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Processor generation.
    pub product: Product,
    /// Firmware ABI, major and minor.
    pub api: (u8, u8),
    /// Build number of the firmware.
    pub build: u8,
    /// Layout of attestation reports, 2 to 5.
    pub report_version: u32,
    /// Chip identifier; `None`: derived from the chip's secret.
    pub chip_id: Option<[u8; 64]>,
    /// Folder of the test PKI.
    pub keys_dir: Option<PathBuf>,
    /// Makes keys and nonces reproducible. ECDSA and RSA-PSS signatures stay randomised.
    pub seed: Option<String>,
    /// Reports carry no chip identifier (SNP_CONFIG may change it).
    pub mask_chip_id: bool,
    /// Highest ASID.
    pub asids: u32,
    /// Highest ASID of an SNP guest.
    pub snp_asids: u32,
    /// Simultaneous multithreading is on.
    pub smt: bool,
    /// Processor sockets.
    pub sockets: u32,
    /// CXL memory is populated.
    pub cxl: bool,
    /// Memory is encrypted with AES-256-XTS.
    pub aes_256_xts: bool,
    /// Transparent memory encryption is on.
    pub tsme: bool,
    /// Memory has error correction.
    pub ecc: bool,
    /// DRAM ciphertext hiding can be enabled by SNP_INIT_EX.
    pub ciphertext_hiding: bool,
    /// The check for aliasing memory modules has completed.
    pub alias_check: bool,
    /// Mitigation vector of reports of version 5.
    pub mitigations: u64,
    /// Frequency of the host's time stamp counter, kHz.
    pub tsc_khz: u32,
    /// Debuggable guests.
    pub debug: DebugRule,
    /// DF_FLUSH demands that [`crate::Psp::wbinvd_done`] was called since the last decommission.
    pub wbinvd_check: bool,
    /// CPUID pages.
    pub cpuid_check: CpuidCheck,
    /// Cloud provider named in the VLEK certificate.
    pub csp_id: String,
    /// Current TCB.
    pub tcb: Tcb,
    /// Committed TCB.
    pub committed_tcb: Tcb,
    /// Reported TCB at reset.
    pub reported_tcb: Tcb,
    /// See [`CpuidAllow`].
    pub cpuid_allow: Vec<CpuidAllow>,
    /// See [`Fault`].
    pub faults: Vec<Fault>,
}

impl Config {
    /// Read and check a configuration.
    ///
    /// # Errors
    /// Not TOML, an unknown key, or a value out of range.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let doc: Document = toml::from_str(text)?;
        let product = doc.product.unwrap_or(Product::Milan);
        let api = parse_api(doc.api.as_deref().unwrap_or("1.55"))?;
        let tcb = doc.tcb.over(product.default_tcb());
        let committed_tcb = doc.committed_tcb.map_or(tcb, |part| part.over(tcb));
        let reported_tcb = doc.reported_tcb.map_or(committed_tcb, |part| part.over(committed_tcb));
        let asids = doc.asids.unwrap_or(509);
        let config = Self {
            product,
            api,
            build: doc.build.unwrap_or(21),
            report_version: doc.report_version.unwrap_or(default_report_version(product, api)),
            chip_id: doc.chip_id.as_deref().map(|hex| parse_chip_id(hex, product)).transpose()?,
            keys_dir: doc.keys_dir,
            seed: doc.seed,
            mask_chip_id: doc.mask_chip_id,
            asids,
            snp_asids: doc.snp_asids.unwrap_or(asids.min(99)),
            smt: doc.smt.unwrap_or(true),
            sockets: doc.sockets.unwrap_or(1),
            cxl: doc.cxl,
            aes_256_xts: doc.aes_256_xts,
            tsme: doc.tsme,
            ecc: doc.ecc.unwrap_or(true),
            ciphertext_hiding: doc.ciphertext_hiding,
            alias_check: doc.alias_check.unwrap_or(true),
            mitigations: doc.mitigations,
            tsc_khz: doc.tsc_khz.unwrap_or(2_000_000),
            debug: doc.debug,
            wbinvd_check: doc.wbinvd_check,
            cpuid_check: doc.cpuid_check,
            csp_id: doc.csp_id.unwrap_or_else(|| "CN=cvmm-test".to_owned()),
            tcb,
            committed_tcb,
            reported_tcb,
            cpuid_allow: doc.cpuid_allow,
            faults: doc.fault,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fail = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
        let lowest = if self.product == Product::Turin { 3 } else { 2 };
        if !(lowest..=5).contains(&self.report_version) {
            return fail("report_version", "must be 2 to 5, for turin 3 to 5");
        }
        if self.product != Product::Turin && self.tcb.fmc != 0 {
            return fail("tcb", "only turin has an fmc component");
        }
        if !self.committed_tcb.within(self.tcb) {
            return fail("committed_tcb", "no component may be newer than in tcb");
        }
        if !self.reported_tcb.within(self.committed_tcb) {
            return fail("reported_tcb", "no component may be newer than in committed_tcb");
        }
        if self.asids > 0xFFFF || self.snp_asids > self.asids {
            return fail("snp_asids", "must not exceed asids, nor asids 65535");
        }
        if self.tsc_khz == 0 {
            return fail("tsc_khz", "must not be zero");
        }
        if self.csp_id.len() > 64 || !self.csp_id.is_ascii() {
            return fail("csp_id", "must be at most 64 ASCII characters");
        }
        if self.faults.iter().any(|fault| fault.nth == 0) {
            return fail("fault.nth", "counts from 1");
        }
        Ok(())
    }
}

/// Reports of real firmware: Turin writes version 5, Milan and Genoa 5 from API 1.58, 3 from 1.55, before
/// that 2.
fn default_report_version(product: Product, api: (u8, u8)) -> u32 {
    match api {
        _ if product == Product::Turin => 5,
        _ if api >= (1, 58) => 5,
        _ if api >= (1, 55) => 3,
        _ => 2,
    }
}

fn parse_api(text: &str) -> Result<(u8, u8), ConfigError> {
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| ConfigError::Value {
            key: "api",
            problem: format!("`{text}` is not major.minor, as in 1.55"),
        })
}

fn parse_chip_id(text: &str, product: Product) -> Result<[u8; 64], ConfigError> {
    let len = product.chip_id_len();
    let bytes = unhex(text).filter(|bytes| bytes.len() == len).ok_or_else(|| ConfigError::Value {
        key: "chip_id",
        problem: format!("must be {} hexadecimal digits for this product", len * 2),
    })?;
    let mut chip_id = [0; 64];
    chip_id[..len].copy_from_slice(&bytes);
    Ok(chip_id)
}

/// Hexadecimal digits to bytes.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Bytes to lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_partial_tcb() {
        let config = Config::from_toml("").unwrap();
        assert_eq!((config.product, config.api, config.report_version), (Product::Milan, (1, 55), 3));
        let config = Config::from_toml("[tcb]\nsnp = 23\n[committed_tcb]\nsnp = 20").unwrap();
        assert_eq!(config.tcb.snp, 23);
        assert_eq!(config.committed_tcb, Tcb { snp: 20, ..config.tcb });
        assert_eq!(config.reported_tcb, config.committed_tcb);
    }

    #[test]
    fn nonsense_is_named() {
        for (text, word) in [
            ("produkt = 'milan'", "produkt"),
            ("product = 'rome'", "rome"),
            ("api = '155'", "api"),
            ("chip_id = 'zz'", "chip_id"),
            ("report_version = 6", "report_version"),
            ("product = 'turin'\nreport_version = 2", "report_version"),
            ("[committed_tcb]\nsnp = 200", "committed_tcb"),
            ("snp_asids = 600", "snp_asids"),
            ("[[fault]]\ncommand = 1\nnth = 0", "fault"),
            ("[[fault]]\nstatus = 1", "command"),
        ] {
            let error = Config::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}

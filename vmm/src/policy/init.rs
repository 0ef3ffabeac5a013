// SPDX-License-Identifier: Apache-2.0
//! A policy that admits one guest on platforms like this one.

use std::str::FromStr;

use cvmm_attest::claims::Product;
use cvmm_policy::{GuestBit, unproven};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::{TcbParts, TcbVersion};

use thiserror::Error;

use super::resolve::profile;
use crate::admission::manifest::knobs;
use crate::config::{Config, CpuidTolerance, Isolation};

/// The minimum TCB, as it is written on a command line: `bootloader,tee,snp,microcode`, on Turin with the FMC
/// before.
#[derive(Clone, Debug)]
pub struct TcbText(Vec<u8>);

impl TcbText {
    /// The parts, for a product.
    pub fn parts(&self, product: Product) -> Result<TcbParts, String> {
        match (product, self.0.as_slice()) {
            (Product::Turin, &[fmc, bootloader, tee, snp, microcode]) => {
                Ok(TcbParts { fmc: Some(fmc), bootloader, tee, snp, microcode })
            }
            (Product::Milan | Product::Genoa, &[bootloader, tee, snp, microcode]) => {
                Ok(TcbParts { fmc: None, bootloader, tee, snp, microcode })
            }
            (_, parts) => Err(format!("--tcb has {} numbers, which does not fit a {product}", parts.len())),
        }
    }
}

impl FromStr for TcbText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<u8>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        match parts {
            Some(parts) if (4..=5).contains(&parts.len()) => Ok(Self(parts)),
            _ => {
                Err("not four numbers (bootloader,tee,snp,microcode), or five with Turin's fmc first"
                    .to_owned())
            }
        }
    }
}

/// A platform that guests are to run on.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    product: Product,
    tcb: TcbParts,
}

impl Platform {
    /// The product of a processor, with the minimum TCB from the command line or, by default, from what the
    /// host's security processor reports.
    pub fn new(
        signature: CpuSignature,
        given: Option<&TcbText>,
        reported: impl FnOnce() -> Result<TcbVersion, String>,
    ) -> Result<Self, String> {
        let product = Product::from_signature(signature)
            .ok_or_else(|| format!("no certificates are known for processor {signature}"))?;
        let tcb = match given {
            Some(text) => text.parts(product)?,
            None => reported()?
                .parts(product.layout())
                .ok_or("the host's reported TCB is malformed; give one with --tcb")?,
        };
        Ok(Self { product, tcb })
    }
}

/// A guest that no policy admits without an `unsafe_` key, which only people write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InitError {
    /// Not an SNP guest.
    #[error(
        "isolation = \"none\": the host can read this guest, and a gate refuses it (a policy could say unsafe_isolation_none)"
    )]
    Isolation,
    /// Debugging.
    #[error(
        "snp.policy has bit 19 (DEBUG): the host can read this guest, and a gate refuses it (a policy could say unsafe_allow_debug)"
    )]
    Debug,
    /// A migration agent.
    #[error(
        "snp.policy has bit 18 (MIGRATE_MA), and a gate refuses it (a policy could say unsafe_allow_migration_agent)"
    )]
    MigrationAgent,
}

/// Refuses a guest that no policy admits without an `unsafe_` key.
///
/// # Errors
/// Why not.
pub fn admissible(config: &Config) -> Result<(), InitError> {
    if config.isolation != Isolation::Snp {
        return Err(InitError::Isolation);
    }
    let guest_policy = GuestPolicy(config.snp.policy);
    if guest_policy.has(GuestPolicy::DEBUG) {
        return Err(InitError::Debug);
    }
    if guest_policy.has(GuestPolicy::MIGRATE_MA) {
        return Err(InitError::MigrationAgent);
    }
    Ok(())
}

/// The text of a policy for the guest of `config` with launch digest `digest`. It admits that guest and no
/// other.
pub fn init(id: &str, config: &Config, digest: Digest, platform: &Platform) -> Result<String, InitError> {
    admissible(config)?;
    let guest_policy = GuestPolicy(config.snp.policy);
    let Platform { product, tcb } = platform;
    let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
    let profile = profile(config);
    let warning = unproven(profile).map_or(String::new(), |warning| {
        format!("# Not proven, {warning} (docs/internals/threat-model.md).\n")
    });
    // What the guest does not use is forbidden, what protects it is required.
    let names = |bits: &[(GuestBit, &'static str)], set: bool| {
        let found = bits.iter().filter(|(bit, _)| guest_policy.has(bit.mask()) == set);
        found.map(|(_, name)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    let forbid = names(&[(GuestBit::Smt, "smt"), (GuestBit::CxlAllowed, "cxl-allowed")], false);
    let require = names(
        &[
            (GuestBit::SingleSocket, "single-socket"),
            (GuestBit::Aes256Xts, "aes-256-xts"),
            (GuestBit::RaplDisabled, "rapl-disabled"),
            (GuestBit::CiphertextHiding, "ciphertext-hiding"),
            (GuestBit::PageSwapDisabled, "page-swap-disabled"),
        ],
        true,
    );
    let mut lines = format!("forbid = [{forbid}]\n");
    if !require.is_empty() {
        lines += &format!("require = [{require}]\n");
    }
    let knobs: Vec<_> = knobs(&config.debug).iter().map(|knob| format!("\"{knob}\"")).collect();
    if !knobs.is_empty() {
        lines += &format!(
            "# For development: this guest is not what runs elsewhere.\ndebug_knobs = [{}]\n",
            knobs.join(", ")
        );
    }
    if config.snp.vlek_only {
        lines += "vlek_only = true\n";
    }
    if config.snp.cpuid_corrections == CpuidTolerance::Caches {
        lines += "cpuid_corrections = true\n";
    }
    let fmc = fmc.map_or(String::new(), |fmc| format!("fmc = {fmc}\n"));
    Ok(format!(
        "# Admits one guest. All keys: docs/guide/policy.md. Give each change a higher version, and sign it: cvmm-gate policy sign\n\
         id = \"{id}\"\n\
         version = 1\n\
         \n\
         [guest]\n\
         {warning}profiles = [\"{profile}\"]\n\
         # vm.toml: {name}, {vcpus} vCPUs\n\
         measurements = [\"{digest}\"]\n\
         {lines}\
         \n\
         [platform]\n\
         products = [\"{product}\"]\n\
         # \"require\" needs AMD's revocation list in the gate's certificate store as soon as there are reports.\n\
         crl = \"require\"\n\
         \n\
         [platform.min_tcb.{product}]\n\
         {fmc}bootloader = {bootloader}\n\
         tee = {tee}\n\
         snp = {snp}\n\
         microcode = {microcode}\n",
        name = config.name,
        vcpus = config.vcpus,
    ))
}

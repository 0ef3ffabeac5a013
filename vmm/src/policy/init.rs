// SPDX-License-Identifier: Apache-2.0
//! A policy that admits one guest on platforms like this one.

use std::str::FromStr;

use cvmm_attest::claims::Product;
use cvmm_attest::verify::layout;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::tcb::{TcbParts, TcbVersion};

use crate::config::{Boot, Config};

/// The least TCB, as it is written on a command line: `bootloader,tee,snp,microcode`, on Turin with the FMC before.
#[derive(Clone, Debug)]
pub struct TcbText(Vec<u8>);

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
    /// The product of a processor, with the least TCB from a command line or, without, from what the host's security processor reports.
    pub fn new(
        signature: CpuSignature,
        given: Option<&TcbText>,
        reported: impl FnOnce() -> Result<TcbVersion, String>,
    ) -> Result<Self, String> {
        let part = |number: u32| u8::try_from(number).ok();
        let product = part(signature.family())
            .zip(part(signature.model()))
            .and_then(|(family, model)| Product::from_processor(family, model))
            .ok_or_else(|| format!("no certificates are known for processor {signature}"))?;
        let tcb = match given {
            Some(TcbText(parts)) => match (product, parts.as_slice()) {
                (Product::Turin, &[fmc, bootloader, tee, snp, microcode]) => {
                    TcbParts { fmc: Some(fmc), bootloader, tee, snp, microcode }
                }
                (Product::Milan | Product::Genoa, &[bootloader, tee, snp, microcode]) => {
                    TcbParts { fmc: None, bootloader, tee, snp, microcode }
                }
                _ => {
                    return Err(format!("--tcb has {} numbers, which does not fit a {product}", parts.len()));
                }
            },
            None => reported()?
                .parts(layout(product))
                .ok_or("the host's reported TCB is malformed; give one with --tcb")?,
        };
        Ok(Self { product, tcb })
    }
}

/// The text of a policy for the guest of `config` with launch digest `digest`.
#[must_use]
pub fn init(id: &str, config: &Config, digest: Digest, platform: &Platform) -> String {
    let Platform { product, tcb } = platform;
    let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
    let profile = match config.boot {
        Boot::Uki { .. } => "uki",
        Boot::Hashes { .. } => "hashes",
        Boot::Disk => "disk",
    };
    let warning = match config.boot {
        Boot::Uki { .. } => "",
        Boot::Hashes { .. } => {
            "# With stock firmware a hostile host can run an unmeasured program before this kernel (docs/threat-model.md).\n"
        }
        Boot::Disk => "# Nothing of the disk is measured.\n",
    };
    let fmc = fmc.map_or(String::new(), |fmc| format!("fmc = {fmc}\n"));
    format!(
        "# Admits one guest. All keys: docs/policy.md. Give each change a higher version, and sign it: cvmm-gate policy sign\n\
         id = \"{id}\"\n\
         version = 1\n\
         \n\
         [guest]\n\
         {warning}profiles = [\"{profile}\"]\n\
         # vm.toml: {name}, {vcpus} vCPUs\n\
         measurements = [\"{digest}\"]\n\
         \n\
         [platform]\n\
         products = [\"{product}\"]\n\
         # \"require\" demands AMD's revocation list in the gate's certificate store as soon as there are reports.\n\
         crl = \"require\"\n\
         \n\
         [platform.min_tcb.{product}]\n\
         {fmc}bootloader = {bootloader}\n\
         tee = {tee}\n\
         snp = {snp}\n\
         microcode = {microcode}\n",
        name = config.name,
        vcpus = config.vcpus,
    )
}

// SPDX-License-Identifier: Apache-2.0
//! `--tcb`.

use std::str::FromStr;

use cvmm_attest::claims::Product;
use cvmm_snp::tcb::TcbParts;

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

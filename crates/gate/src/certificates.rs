// SPDX-License-Identifier: Apache-2.0
//! The certificate store: a folder that the operator fills, in the layout of Trustee's offline cache, so that one can serve both.
//!
//! ```text
//! vcek/CHIP-ID/bl02_tee00_snp06_ucode21_vcek.der     of one TCB (Turin: ..._fmc01_vcek.der), or vcek.der for any
//! vlek/bl02_tee00_snp06_ucode21_vlek.der             or vlek.der
//! crl/milan-vcek.der, crl/milan-vlek.der             revocation lists of a product's root
//! ```
//! What is in it is evidence like any other: the verifier decides what it is worth.

use std::path::{Path, PathBuf};

use cvmm_attest::claims::{Product, SigningKey};
use cvmm_attest::reason::Reason;
use cvmm_snp::tcb::TcbParts;

use crate::files;

const MAX_CERTIFICATE: u64 = 16 << 10;
const MAX_CRL: u64 = 1 << 20;

/// The folder.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

impl Store {
    /// In `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The certificate of the key that signed for this TCB; the reason without names the file.
    pub fn vek(
        &self,
        product: Product,
        kind: SigningKey,
        chip: &[u8; 64],
        tcb: &TcbParts,
    ) -> Result<Vec<u8>, Reason> {
        let (folder, name) = match kind {
            SigningKey::Vcek => {
                let used = if product == Product::Turin { 8 } else { 64 };
                let id: String = chip.iter().take(used).map(|byte| format!("{byte:02x}")).collect();
                (self.0.join("vcek").join(id), "vcek")
            }
            SigningKey::Vlek => (self.0.join("vlek"), "vlek"),
        };
        let exact = folder.join(format!("{}_{name}.der", stem(tcb)));
        for path in [&exact, &folder.join(format!("{name}.der"))] {
            match files::read_if_there(path, MAX_CERTIFICATE) {
                Ok(Some(bytes)) => return der(bytes).ok_or_else(|| unreadable(path)),
                Ok(None) => {}
                Err(error) => return Err(Reason::new("gate.certificate", error.to_string())),
            }
        }
        Err(Reason::new(
            "gate.certificate",
            format!(
                "there is no certificate for this chip and TCB: {} is missing; fetch it from AMD's key server",
                exact.display()
            ),
        ))
    }

    /// The revocation list of a product's root for keys of this kind, if there is one.
    pub fn crl(&self, product: Product, kind: SigningKey) -> Result<Option<Vec<u8>>, Reason> {
        let kind = match kind {
            SigningKey::Vcek => "vcek",
            SigningKey::Vlek => "vlek",
        };
        let path = self.0.join("crl").join(format!("{product}-{kind}.der"));
        files::read_if_there(&path, MAX_CRL)
            .map_err(|error| Reason::new("gate.certificate", error.to_string()))
    }
}

fn unreadable(path: &Path) -> Reason {
    Reason::new("gate.certificate", format!("{} is neither DER nor PEM of a certificate", path.display()))
}

fn stem(tcb: &TcbParts) -> String {
    let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
    let fmc = fmc.map_or(String::new(), |fmc| format!("_fmc{fmc:02}"));
    format!("bl{bootloader:02}_tee{tee:02}_snp{snp:02}_ucode{microcode:02}{fmc}")
}

fn der(bytes: Vec<u8>) -> Option<Vec<u8>> {
    if !bytes.starts_with(b"-----BEGIN") {
        return Some(bytes);
    }
    match pem_rfc7468::decode_vec(&bytes) {
        Ok(("CERTIFICATE", der)) => Some(der),
        _ => None,
    }
}

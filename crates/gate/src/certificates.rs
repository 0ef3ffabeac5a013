// SPDX-License-Identifier: Apache-2.0
//! The certificate store: a folder that the operator fills, in the layout of Trustee's offline cache, so that one can serve both
//! (module `certs` fills and lists it).
//!
//! ```text
//! vcek/CHIP-ID/bl02_tee00_snp06_ucode21_vcek.der     of one TCB (Turin: ..._fmc01_vcek.der), or vcek.der for any
//! vlek/bl02_tee00_snp06_ucode21_vlek.der             or vlek.der
//! crl/milan-vcek.der, crl/milan-vlek.der             revocation lists of a product's root
//! ```
//! What is in it is evidence like any other: the verifier decides what it is worth.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cvmm_attest::claims::{Product, SigningKey};
use cvmm_attest::reason::Reason;
use cvmm_snp::tcb::TcbParts;

use crate::files;

pub(crate) const MAX_CERTIFICATE: u64 = 16 << 10;
pub(crate) const MAX_CRL: u64 = 1 << 20;

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
        let used = chip.get(..chip_len(product)).unwrap_or_default();
        let exact = self.0.join(vek_name(kind, used, tcb));
        for path in [&exact, &exact.with_file_name(format!("{}.der", kind_name(kind)))] {
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
        let path = self.0.join(crl_name(product, kind));
        files::read_if_there(&path, MAX_CRL)
            .map_err(|error| Reason::new("gate.certificate", error.to_string()))
    }
}

/// Bytes of a chip's identifier.
pub(crate) fn chip_len(product: Product) -> usize {
    if product == Product::Turin { 8 } else { 64 }
}

pub(crate) fn kind_name(kind: SigningKey) -> &'static str {
    match kind {
        SigningKey::Vcek => "vcek",
        SigningKey::Vlek => "vlek",
    }
}

/// Where the certificate of a key for this chip and TCB is in a store.
pub(crate) fn vek_name(kind: SigningKey, chip: &[u8], tcb: &TcbParts) -> PathBuf {
    let name = format!("{}_{}.der", stem(tcb), kind_name(kind));
    match kind {
        SigningKey::Vcek => {
            let chip: String = hex::encode(chip);
            Path::new("vcek").join(chip).join(name)
        }
        SigningKey::Vlek => Path::new("vlek").join(name),
    }
}

/// Where the revocation list of a product's root for keys of this kind is in a store.
pub(crate) fn crl_name(product: Product, kind: SigningKey) -> PathBuf {
    Path::new("crl").join(format!("{product}-{}.der", kind_name(kind)))
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
    if !bytes.starts_with(BEGIN.as_bytes()) {
        return Some(bytes);
    }
    match pem(std::str::from_utf8(&bytes).ok()?) {
        Some(("CERTIFICATE", der)) => Some(der),
        _ => None,
    }
}

/// What a PEM block begins with.
pub(crate) const BEGIN: &str = "-----BEGIN ";

/// The label and the content of one block of PEM. Lines may have any length: AMD's key server sends 76 characters, where RFC 7468
/// wants 64.
pub(crate) fn pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (label, rest) = text.trim().strip_prefix(BEGIN)?.split_once("-----")?;
    let body = rest.strip_suffix("-----")?.strip_suffix(label)?.strip_suffix("-----END ")?;
    let body: String = body.chars().filter(|char| !char.is_ascii_whitespace()).collect();
    STANDARD.decode(body).ok().map(|der| (label, der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_may_be_wrapped_anywhere() {
        let block = |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        for body in ["MAMCAQA=", "MAMC\nAQA=", "MAMC\r\nAQA=\r"] {
            assert_eq!(pem(&block(body)), Some(("CERTIFICATE", vec![0x30, 3, 2, 1, 0])), "{body:?}");
            assert_eq!(der(block(body).into_bytes()), Some(vec![0x30, 3, 2, 1, 0]));
        }
        let whole = block("MAMCAQA=");
        for wrong in [
            block("MAMCAQA"),
            block("Proc-Type: 4,ENCRYPTED\n\nMAMCAQA="),
            whole.replace("END CERTIFICATE", "END X"),
            whole.replace("CERTIFICATE", "PRIVATE KEY"),
            whole[..whole.len() - 2].to_owned(),
            whole.repeat(2),
        ] {
            assert_eq!(der(wrong.clone().into_bytes()), None, "{wrong}");
        }
    }
}

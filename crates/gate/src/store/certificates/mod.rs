// SPDX-License-Identifier: Apache-2.0
//! The certificate store: a folder that the operator fills, in the layout of Trustee's offline cache, so that
//! one folder can serve both. [`import`] fills it, [`list`] lists it.
//!
//! ```text
//! vcek/CHIP-ID/bl02_tee00_snp06_ucode21_vcek.der     of one TCB (Turin: ..._fmc01_vcek.der), or vcek.der for any
//! vlek/bl02_tee00_snp06_ucode21_vlek.der             or vlek.der
//! crl/milan-vcek.der, crl/milan-vlek.der             revocation lists of a product's root
//! ```
//! Its content is evidence like any other: the verifier decides whether to trust it.

pub mod import;
pub mod list;

use std::path::{Path, PathBuf};

use cvmm_attest::claims::{Product, SigningKey};
use cvmm_attest::encoding::{self, EncodingError};
use cvmm_attest::verify::Hint;
use cvmm_reason::Reason;
use cvmm_snp::tcb::TcbParts;

use crate::files::{self, FileError};
use crate::reasons::Code;

pub(crate) const MAX_CERTIFICATE: u64 = 16 << 10;
pub(crate) const MAX_CRL: u64 = 1 << 20;

/// The store in a folder.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

impl Store {
    /// The store in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The certificate of the key that signed a report, by its `hint`; if it is missing, the reason names the
    /// file. A report of version 2 does not name its product: the certificate for each possible product is
    /// looked for.
    pub fn vek(&self, hint: &Hint) -> Result<Vec<u8>, Reason> {
        let mut missing = None;
        for (product, tcb) in hint.subjects() {
            match self.vek_of(product, hint, &tcb) {
                Ok(Some(vek)) => return Ok(vek),
                Ok(None) => {
                    let used = hint.chip_id.get(..product.chip_id_len()).unwrap_or_default();
                    missing.get_or_insert_with(|| self.0.join(vek_name(hint.signing_key, used, &tcb)));
                }
                Err(reason) => return Err(reason),
            }
        }
        let message = match missing {
            Some(path) => format!(
                "no certificate for this chip and TCB: {} is missing; fetch it from AMD's key service (cvmm-gate certs urls)",
                path.display()
            ),
            None => {
                "no certificate can match: REPORTED_TCB of the report has reserved bytes that are not zero"
                    .to_owned()
            }
        };
        Err(refuse(message))
    }

    fn vek_of(&self, product: Product, hint: &Hint, tcb: &TcbParts) -> Result<Option<Vec<u8>>, Reason> {
        let (kind, chip) = (hint.signing_key, &hint.chip_id);
        let used = chip.get(..product.chip_id_len()).unwrap_or_default();
        let exact = self.0.join(vek_name(kind, used, tcb));
        for path in [&exact, &exact.with_file_name(format!("{}.der", kind.name()))] {
            match files::read_if_there(path, MAX_CERTIFICATE) {
                Ok(Some(bytes)) => {
                    let vek = encoding::vek(&bytes, hint).map_err(|problem| unreadable(path, &problem))?;
                    return Ok(Some(vek.into_owned()));
                }
                Ok(None) => {}
                Err(error) => return Err(cannot(&error)),
            }
        }
        Ok(None)
    }

    /// The revocation list of a product's root for keys of this kind, if the store has one.
    pub fn crl(&self, product: Product, kind: SigningKey) -> Result<Option<Vec<u8>>, Reason> {
        let path = self.0.join(crl_name(product, kind));
        let list = files::read_if_there(&path, MAX_CRL).map_err(|error| cannot(&error))?;
        let read = |list: Vec<u8>| encoding::revocation_list(&list).map(|list| list.into_owned());
        list.map(read).transpose().map_err(|problem| unreadable(&path, &problem))
    }
}

/// The path in a store of the certificate for a key of this chip and TCB.
pub(crate) fn vek_name(kind: SigningKey, chip: &[u8], tcb: &TcbParts) -> PathBuf {
    let name = format!("{}_{}.der", stem(tcb), kind.name());
    match kind {
        SigningKey::Vcek => {
            let chip: String = hex::encode(chip);
            Path::new("vcek").join(chip).join(name)
        }
        SigningKey::Vlek => Path::new("vlek").join(name),
    }
}

/// The path in a store of the revocation list of a product's root for keys of this kind.
pub(crate) fn crl_name(product: Product, kind: SigningKey) -> PathBuf {
    Path::new("crl").join(format!("{product}-{}.der", kind.name()))
}

fn unreadable(path: &Path, problem: &EncodingError) -> Reason {
    refuse(format!("{} cannot be used: {problem}", path.display()))
}

fn stem(tcb: &TcbParts) -> String {
    let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
    let fmc = fmc.map_or(String::new(), |fmc| format!("_fmc{fmc:02}"));
    format!("bl{bootloader:02}_tee{tee:02}_snp{snp:02}_ucode{microcode:02}{fmc}")
}

fn refuse(message: impl Into<String>) -> Reason {
    Code::GateCertificate.reason(message)
}

fn cannot(error: &FileError) -> Reason {
    refuse(error.to_string())
}

/// The DER of everything in a file, which is DER or PEM.
fn split(bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Reason> {
    let items = encoding::items(&bytes).map_err(|problem| refuse(problem.to_string()))?;
    Ok(items.into_iter().map(|item| item.der.into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cvmm_snp::tcb::TcbVersion;

    use super::*;

    #[test]
    fn an_old_report_of_a_turin_finds_its_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let mut chip_id = [0; 64];
        chip_id[..8].fill(0x3b);
        let tcb = TcbVersion([1, 2, 0, 4, 0, 0, 0, 71]);
        let hint = Hint { signing_key: SigningKey::Vcek, product: None, chip_id, tcb };
        let name = "vcek/3b3b3b3b3b3b3b3b/bl02_tee00_snp04_ucode71_fmc01_vcek.der";
        let reason = store.vek(&hint).unwrap_err();
        assert!(reason.message.contains(name), "{}", reason.message);
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let der = [0x30, 0x82, 0, 2, 5, 0];
        for content in [&der[..], b"-----BEGIN CERTIFICATE-----\nMIIAAgUA\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, content).unwrap();
            assert_eq!(store.vek(&hint).as_deref(), Ok(&der[..]));
        }
        fs::write(&path, "hello").unwrap();
        assert!(store.vek(&hint).unwrap_err().message.contains("neither DER nor PEM"));
    }
}

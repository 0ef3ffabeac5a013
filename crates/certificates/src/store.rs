// SPDX-License-Identifier: Apache-2.0
//! A folder of certificates, filled by the operator.
//!
//! ```text
//! vcek/<chip id>/bl02_tee00_snp06_ucode21_vcek.der      of one TCB (Turin: ..._fmc01_vcek.der)
//! vcek/<chip id>/vcek.der                               of any TCB, used when the exact one is missing
//! vlek/bl02_tee00_snp06_ucode21_vlek.der, vlek/vlek.der
//! roots/<milan|genoa|turin>/ask.der, asvk.der, ark.der  optional
//! ```
//!
//! The layout below `vcek` is that of Trustee's offline certificate cache, so that a folder can serve both.
//! Chip ids are in lower-case hexadecimal digits, TCB parts in decimal ones. Files hold DER or PEM.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cvmm_attest::claims::Product;
use cvmm_attest::encoding;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::tcb::{TcbParts, TcbVersion};
use thiserror::Error;

use crate::table::Kind;

/// Certificates of AMD are less than a tenth of this.
const MAX_CERTIFICATE: u64 = 16 << 10;

/// Why a chain could not be had.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Not a processor whose certificates are known.
    #[error("no certificates are known for processor {0}")]
    Processor(CpuSignature),
    /// The TCB has bytes that must be zero.
    #[error("the platform's reported tcb {0:02x?} is malformed")]
    Tcb([u8; 8]),
    /// No certificate for this chip and TCB.
    #[error(
        "no certificate for this platform: neither {exact} nor {any} exists; fetch it from AMD's key server"
    )]
    Missing {
        /// File for this TCB.
        exact: PathBuf,
        /// File for any.
        any: PathBuf,
    },
    /// A file.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Too long, or invalid PEM.
    #[error("{path} is not a certificate: {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
    signature: CpuSignature,
}

impl Store {
    /// The store in `root`.
    pub(crate) fn new(root: PathBuf, signature: CpuSignature) -> Self {
        Self { root, signature }
    }

    /// The certificates of a platform, leaf first; intermediate and root only if they are there.
    pub(crate) fn chain(
        &self,
        chip: &[u8; 64],
        tcb: TcbVersion,
        vlek: bool,
    ) -> Result<Vec<(Kind, Vec<u8>)>, StoreError> {
        let product = Product::from_signature(self.signature).ok_or(StoreError::Processor(self.signature))?;
        let parts = tcb.parts(product.layout()).ok_or(StoreError::Tcb(tcb.0))?;
        let (kind, folder, name, intermediate) = if vlek {
            (Kind::Vlek, self.root.join("vlek"), "vlek", "asvk.der")
        } else {
            let id = hexadecimal(chip.get(..product.chip_id_len()).unwrap_or(chip));
            (Kind::Vcek, self.root.join("vcek").join(id), "vcek", "ask.der")
        };
        let (exact, any) = (folder.join(file_name(&parts, name)), folder.join(format!("{name}.der")));
        let leaf = match read(&exact)? {
            Some(leaf) => leaf,
            None => match read(&any)? {
                Some(leaf) => leaf,
                None => return Err(StoreError::Missing { exact, any }),
            },
        };
        let mut chain = vec![(kind, leaf)];
        let roots = self.root.join("roots").join(product.to_string());
        for (kind, file) in [(Kind::Intermediate, intermediate), (Kind::Ark, "ark.der")] {
            chain.extend(read(&roots.join(file))?.map(|der| (kind, der)));
        }
        Ok(chain)
    }
}

fn file_name(parts: &TcbParts, kind: &str) -> String {
    let TcbParts { fmc, bootloader, tee, snp, microcode } = parts;
    let fmc = fmc.map_or(String::new(), |fmc| format!("_fmc{fmc:02}"));
    format!("bl{bootloader:02}_tee{tee:02}_snp{snp:02}_ucode{microcode:02}{fmc}_{kind}.der")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The certificate in a file as DER; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let failed = |source| StoreError::Read { path: path.to_owned(), source };
    let content = |problem| StoreError::Content { path: path.to_owned(), problem };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_CERTIFICATE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_CERTIFICATE {
        return Err(content("it has more than 16 KiB".to_owned()));
    }
    let mut all = encoding::certificates(&bytes).map_err(|problem| content(problem.to_string()))?;
    match (all.pop(), all.len()) {
        (Some(der), 0) => Ok(Some(der.into_owned())),
        _ => Err(content("it has more than one certificate, and a store's file has one".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MILAN: CpuSignature = CpuSignature(0xa0_0f11);
    const TURIN: CpuSignature = CpuSignature(0xb0_0f21);

    fn der(tag: u8) -> Vec<u8> {
        vec![0x30, 0x82, 0, 1, tag]
    }

    #[test]
    fn names_say_chip_and_tcb() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let chip: [u8; 64] = std::array::from_fn(|n| n as u8);
        let id = hexadecimal(&chip);
        let tcb = TcbVersion([2, 0, 0, 0, 0, 0, 6, 213]);
        let store = Store::new(root.to_owned(), MILAN);
        let error = store.chain(&chip, tcb, false).unwrap_err().to_string();
        assert!(error.contains("bl02_tee00_snp06_ucode213_vcek.der"), "{error}");

        fs::create_dir_all(root.join("vcek").join(&id)).unwrap();
        fs::write(root.join("vcek").join(&id).join("vcek.der"), der(1)).unwrap();
        assert_eq!(store.chain(&chip, tcb, false).unwrap(), [(Kind::Vcek, der(1))]);
        fs::write(root.join("vcek").join(&id).join("bl02_tee00_snp06_ucode213_vcek.der"), der(2)).unwrap();
        fs::create_dir_all(root.join("roots/milan")).unwrap();
        let pem = pem_rfc7468::encode_string("CERTIFICATE", pem_rfc7468::LineEnding::LF, &der(3)).unwrap();
        fs::write(root.join("roots/milan/ask.der"), pem).unwrap();
        fs::write(root.join("roots/milan/ark.der"), der(4)).unwrap();
        let chain = store.chain(&chip, tcb, false).unwrap();
        assert_eq!(chain, [(Kind::Vcek, der(2)), (Kind::Intermediate, der(3)), (Kind::Ark, der(4))]);

        // A VLEK is not the chip's, and Turin's chip ids are short.
        assert!(matches!(store.chain(&chip, tcb, true), Err(StoreError::Missing { .. })));
        let turin = Store::new(root.to_owned(), TURIN);
        let error = turin.chain(&chip, TcbVersion([1, 2, 3, 4, 0, 0, 0, 5]), false).unwrap_err().to_string();
        assert!(error.contains("vcek/0001020304050607/bl02_tee03_snp04_ucode05_fmc01_vcek.der"), "{error}");
    }

    #[test]
    fn other_content_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.der");
        assert!(read(&file).unwrap().is_none());
        for bad in [&b"hello"[..], b"", b"-----BEGIN CERTIFICATE-----\nxx", &[0x30; 17 << 10]] {
            fs::write(&file, bad).unwrap();
            assert!(matches!(read(&file), Err(StoreError::Content { .. })));
        }
        let key = pem_rfc7468::encode_string("PRIVATE KEY", pem_rfc7468::LineEnding::LF, &der(1)).unwrap();
        fs::write(&file, key).unwrap();
        assert!(matches!(read(&file), Err(StoreError::Content { .. })));
        assert!(matches!(read(folder.path()), Err(StoreError::Read { .. })));
        let store = Store::new(folder.path().to_owned(), CpuSignature(0x80_0f12));
        assert!(matches!(store.chain(&[0; 64], TcbVersion([0; 8]), false), Err(StoreError::Processor(_))));
        let store = Store::new(folder.path().to_owned(), MILAN);
        assert!(matches!(
            store.chain(&[0; 64], TcbVersion([0, 0, 1, 0, 0, 0, 0, 0]), false),
            Err(StoreError::Tcb(_))
        ));
    }
}

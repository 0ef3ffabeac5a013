// SPDX-License-Identifier: Apache-2.0
//! What to fetch from AMD's key distribution service, for a chip at a TCB (AMD, publication 57230). No
//! program of cvmm fetches anything: where they run there need be no way out.

use cvmm_snp::tcb::TcbParts;
use serde::Serialize;
use thiserror::Error;

use crate::claims::{Product, SigningKey};
use crate::verify::Hint;

const SERVICE: &str = "https://kdsintf.amd.com";

/// Something to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Download {
    /// `vcek`, `vlek`, `crl` or `chain`.
    pub what: &'static str,
    /// From where.
    pub url: String,
    /// A name for it. `certs import` knows by it for which kind of keys a revocation list is.
    pub file: String,
    /// What is to be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// Whose certificate it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The product.
    pub product: Product,
    /// Which key.
    pub kind: SigningKey,
    /// The chip's identifier, 64 bytes, or 8 from Turin on, or those and zeros.
    pub chip: Vec<u8>,
    /// Its REPORTED_TCB.
    pub tcb: TcbParts,
}

/// What has no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KdsError {
    /// The chip.
    #[error("a chip identifier of {product} has {expected} bytes, not {found}")]
    Chip {
        /// Of which product.
        product: Product,
        /// Bytes.
        expected: usize,
        /// Bytes.
        found: usize,
    },
    /// It is hidden.
    #[error(
        "the chip identifier is masked (all zeros): the host has to unmask it (SNP_SET_CONFIG), or say it with --chip"
    )]
    Masked,
    /// The TCB.
    #[error("the TCB of {0} has {1} FMC (Turin has one, Milan and Genoa have none)")]
    Tcb(Product, &'static str),
}

impl Subject {
    /// Whose certificate verifies the report that `hint` is of: one, or two of which only the certificate
    /// tells which it is.
    #[must_use]
    pub fn of(hint: &Hint) -> Vec<Self> {
        let Hint { signing_key, chip_id, .. } = *hint;
        let subject = |(product, tcb)| Self { product, kind: signing_key, chip: chip_id.to_vec(), tcb };
        hint.subjects().into_iter().map(subject).collect()
    }
}

/// What a gate needs for this subject: its certificate, the revocation list, and the chain for other
/// verifiers.
pub fn downloads(subject: &Subject) -> Result<Vec<Download>, KdsError> {
    let Subject { product, kind, chip, tcb } = subject;
    let (product, kind) = (*product, *kind);
    let line = product.line();
    let name = kind.name();
    let base = format!("{SERVICE}/{name}/v1/{line}");
    let TcbParts { fmc, bootloader, tee, snp, microcode } = tcb;
    let fmc = match (product, fmc) {
        (Product::Turin, Some(fmc)) => format!("&fmcSPL={fmc:02}"),
        (Product::Turin, None) => return Err(KdsError::Tcb(product, "no")),
        (_, Some(_)) => return Err(KdsError::Tcb(product, "an")),
        (_, None) => String::new(),
    };
    let levels =
        format!("blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}{fmc}");
    let key = match kind {
        SigningKey::Vcek => {
            let expected = product.chip_id_len();
            let (used, rest) = chip.split_at_checked(expected).unwrap_or((&[], chip));
            if used.is_empty()
                || (!rest.is_empty() && (chip.len() != 64 || rest.iter().any(|byte| *byte != 0)))
            {
                return Err(KdsError::Chip { product, expected, found: chip.len() });
            }
            if used.iter().all(|byte| *byte == 0) {
                return Err(KdsError::Masked);
            }
            let id: String = hex::encode(used);
            let short = id.get(..16).unwrap_or_default();
            Download {
                what: "vcek",
                url: format!("{base}/{id}?{levels}"),
                file: format!("{product}-{short}-vcek.der"),
                note: None,
            }
        }
        SigningKey::Vlek => Download {
            what: "vlek",
            url: format!("{base}/cert?{levels}"),
            file: format!("{product}-vlek-key.der"),
            note: Some("only the cloud has the credentials for it: ask the cloud for the certificate"),
        },
    };
    let list = Download {
        what: "crl",
        url: format!("{base}/crl"),
        file: format!("{product}-{name}-crl.der"),
        note: None,
    };
    let chain = Download {
        what: "chain",
        url: format!("{base}/cert_chain"),
        file: format!("{product}-{name}-chain.pem"),
        note: Some("the gate has it built in; for other verifiers"),
    };
    Ok(vec![key, list, chain])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(product: Product, chip: Vec<u8>, fmc: Option<u8>) -> Subject {
        let tcb = TcbParts { fmc, bootloader: 1, tee: 0, snp: 2, microcode: 71 };
        Subject { product, kind: SigningKey::Vcek, chip, tcb }
    }

    #[test]
    fn addresses_have_the_shape_of_their_product() {
        let chip: Vec<u8> = (0..64).collect();
        let milan = downloads(&subject(Product::Milan, chip.clone(), None)).unwrap();
        let id: String = hex::encode(chip);
        assert_eq!(
            milan.iter().map(|download| download.url.as_str()).collect::<Vec<_>>(),
            [
                format!(
                    "https://kdsintf.amd.com/vcek/v1/Milan/{id}?blSPL=01&teeSPL=00&snpSPL=02&ucodeSPL=71"
                ),
                "https://kdsintf.amd.com/vcek/v1/Milan/crl".to_owned(),
                "https://kdsintf.amd.com/vcek/v1/Milan/cert_chain".to_owned(),
            ]
        );
        let turin_chip = [0x3b, 0x42, 0x09, 0x2f, 0x69, 0xc6, 0x56, 0xd3];
        let expected = "https://kdsintf.amd.com/vcek/v1/Turin/3b42092f69c656d3?blSPL=01&teeSPL=00&snpSPL=02&ucodeSPL=71&fmcSPL=00";
        // As it is in a certificate, and as it is in a report.
        for chip in [turin_chip.to_vec(), [&turin_chip[..], &[0; 56]].concat()] {
            assert_eq!(downloads(&subject(Product::Turin, chip, Some(0))).unwrap()[0].url, expected);
        }
        let vlek = Subject { kind: SigningKey::Vlek, ..subject(Product::Genoa, vec![], None) };
        let vlek = downloads(&vlek).unwrap();
        assert!(
            vlek[0].url.starts_with("https://kdsintf.amd.com/vlek/v1/Genoa/cert?") && vlek[0].note.is_some()
        );
        assert_eq!(vlek[1].url, "https://kdsintf.amd.com/vlek/v1/Genoa/crl");
    }

    #[test]
    fn what_has_no_address_is_said() {
        let of = |product, chip: Vec<u8>, fmc| downloads(&subject(product, chip, fmc)).unwrap_err();
        assert!(matches!(
            of(Product::Milan, vec![1; 8], None),
            KdsError::Chip { expected: 64, found: 8, .. }
        ));
        assert!(matches!(of(Product::Turin, vec![1; 64], Some(0)), KdsError::Chip { expected: 8, .. }));
        assert!(matches!(of(Product::Turin, vec![1; 9], Some(0)), KdsError::Chip { .. }));
        assert_eq!(of(Product::Milan, vec![0; 64], None), KdsError::Masked);
        assert_eq!(of(Product::Milan, vec![1; 64], Some(1)), KdsError::Tcb(Product::Milan, "an"));
        assert_eq!(of(Product::Turin, vec![1; 8], None), KdsError::Tcb(Product::Turin, "no"));
    }
}

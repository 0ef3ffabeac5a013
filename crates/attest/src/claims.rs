// SPDX-License-Identifier: Apache-2.0
//! What verified evidence says.
//!
//! Only the verifier makes [`Claims`] (and tests of policies). Numbers are numbers, digests are bytes, what a
//! report version does not have is `None`, so that "absent" and "zero" cannot be confused by a policy.
//! Serialised they are a complete document in which what is absent is `null` (docs/reference/attestation.md).

use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::{TcbLayout, TcbParts};
use serde::{Deserialize, Serialize};

/// A product line with certificates of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, 8004 and 97x4.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// Families and models of each product (AMD, publication 57230): the only place that has them.
const MODELS: [(Product, u8, std::ops::RangeInclusive<u8>); 4] = [
    (Product::Milan, 0x19, 0x00..=0x0f),
    (Product::Genoa, 0x19, 0x10..=0x1f),
    (Product::Genoa, 0x19, 0xa0..=0xaf),
    (Product::Turin, 0x1a, 0x00..=0x11),
];

impl Product {
    /// All of them, from the oldest to the newest.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// The product of a processor's family and model (CPUID Fn0000_0001_EAX).
    #[must_use]
    pub fn from_processor(family: u8, model: u8) -> Option<Self> {
        let found = MODELS.iter().find(|(_, of, models)| *of == family && models.contains(&model));
        found.map(|(product, ..)| *product)
    }

    /// The product of a processor by its signature.
    #[must_use]
    pub fn from_signature(signature: CpuSignature) -> Option<Self> {
        Self::from_processor(signature.family().try_into().ok()?, signature.model().try_into().ok()?)
    }

    /// How its TCB versions are laid out.
    #[must_use]
    pub fn layout(self) -> TcbLayout {
        match self {
            Self::Milan | Self::Genoa => TcbLayout::Family19h,
            Self::Turin => TcbLayout::Family1ah,
        }
    }

    /// Bytes of a chip's identifier; in a report zeros follow up to 64.
    #[must_use]
    pub fn chip_id_len(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Milan => "milan",
            Self::Genoa => "genoa",
            Self::Turin => "turin",
        })
    }
}

/// What signed a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SigningKey {
    /// The chip's key.
    Vcek,
    /// A key that AMD gave to a cloud.
    Vlek,
}

impl SigningKey {
    /// Its name in AMD's addresses and in files' names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
        }
    }
}

/// Who requested a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Requester {
    /// Software in the guest, at this VMPL (0 to 3).
    Guest(u8),
    /// The host. Such a report proves nothing to those who do not trust the host, and never releases a key.
    Host,
}

/// Version of the security processor's firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FirmwareVersion {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// What a verified report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Version of the report's layout, 2 to 5.
    pub report_version: u32,
    /// Certified by the chain, and equal to the report's own where it has one.
    pub product: Product,
    /// Family, model, stepping; from version 3.
    pub cpuid: Option<(u8, u8, u8)>,
    /// What signed it.
    pub signing_key: SigningKey,
    /// Who requested it.
    pub requester: Requester,
    /// Guest policy.
    pub policy: GuestPolicy,
    /// Security version of the guest, from the ID block.
    pub guest_svn: u32,
    /// Family id, from the ID block.
    pub family_id: [u8; 16],
    /// Image id, from the ID block.
    pub image_id: [u8; 16],
    /// Launch digest.
    pub measurement: Digest,
    /// What the host put in at LAUNCH_FINISH.
    pub host_data: [u8; 32],
    /// What the guest put in.
    pub report_data: [u8; 64],
    /// Digest of the ID key; zero without an ID block.
    pub id_key_digest: Digest,
    /// Digest of the author key; `None` if AUTHOR_KEY_EN is not set.
    pub author_key_digest: Option<Digest>,
    /// Identifies the guest.
    pub report_id: [u8; 32],
    /// PLATFORM_INFO, raw: real chips set bits without a known meaning.
    pub platform_info: u64,
    /// `None` when masked. 64 bytes, of which Turin uses 8.
    pub chip_id: Option<[u8; 64]>,
    /// The cloud that a VLEK was given to.
    pub csp_id: Option<String>,
    /// TCB that the signing key is certified for.
    pub reported_tcb: TcbParts,
    /// TCB that runs.
    pub current_tcb: TcbParts,
    /// TCB below which the platform cannot go back.
    pub committed_tcb: TcbParts,
    /// TCB when the guest was launched.
    pub launch_tcb: TcbParts,
    /// Firmware that runs.
    pub current_firmware: FirmwareVersion,
    /// Firmware that is committed.
    pub committed_firmware: FirmwareVersion,
    /// Mitigations in force when the guest was launched; from version 5.
    pub launch_mit_vector: Option<u64>,
    /// Mitigations in force now; from version 5.
    pub current_mit_vector: Option<u64>,
    /// The revocation list of the chain.
    pub revocation: Revocation,
}

/// What is known about revoked certificates. A revoked one never leads to claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// No list was given.
    NoList,
    /// A list by the right issuer with a valid signature; it has no certificate of the chain.
    List {
        /// When it was made, in seconds of Unix time.
        this_update: i64,
        /// When it should have been replaced.
        next_update: Option<i64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_known_by_their_processors() {
        for (family, model, product) in [
            (0x19, 0x01, Some(Product::Milan)),
            (0x19, 0x11, Some(Product::Genoa)),
            (0x19, 0xa0, Some(Product::Genoa)),
            (0x19, 0x21, None),
            (0x1a, 0x02, Some(Product::Turin)),
            (0x1a, 0x11, Some(Product::Turin)),
            // Not a server's: no VCEK is issued for it.
            (0x1a, 0x12, None),
            (0x17, 0x31, None),
        ] {
            assert_eq!(Product::from_processor(family, model), product, "{family:#x} {model:#x}");
            let signature = CpuSignature::from_parts(family.into(), model.into(), 1).unwrap();
            assert_eq!(Product::from_signature(signature), product);
        }
        for product in Product::ALL {
            assert_eq!(product.chip_id_len() == 8, product.layout() == TcbLayout::Family1ah);
        }
    }
}

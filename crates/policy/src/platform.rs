// SPDX-License-Identifier: Apache-2.0
//! `[platform]`: which platforms a policy admits guests on.

use std::collections::BTreeMap;

use cvmm_attest::claims::{FirmwareVersion, Product, SigningKey};
use cvmm_snp::platform_info::PlatformInfo;
use cvmm_snp::tcb::TcbParts;
use serde::{Deserialize, Serialize};

use crate::error::PolicyError;
use crate::text::{self, is_default};

/// A bit of PLATFORM_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "PlatformInfo explains them")]
pub enum PlatformBit {
    Smt,
    Tsme,
    Ecc,
    RaplDisabled,
    CiphertextHiding,
    AliasCheckComplete,
    Tio,
}

impl PlatformBit {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Smt,
        Self::Tsme,
        Self::Ecc,
        Self::RaplDisabled,
        Self::CiphertextHiding,
        Self::AliasCheckComplete,
        Self::Tio,
    ];

    /// The bits without a name.
    #[must_use]
    pub fn unknown() -> u64 {
        !Self::mask_of(&Self::ALL)
    }

    /// Its mask in PLATFORM_INFO.
    #[must_use]
    pub fn mask(self) -> u64 {
        match self {
            Self::Smt => PlatformInfo::SMT,
            Self::Tsme => PlatformInfo::TSME,
            Self::Ecc => PlatformInfo::ECC,
            Self::RaplDisabled => PlatformInfo::RAPL_DISABLED,
            Self::CiphertextHiding => PlatformInfo::CIPHERTEXT_HIDING,
            Self::AliasCheckComplete => PlatformInfo::ALIAS_CHECK_COMPLETE,
            Self::Tio => PlatformInfo::TIO,
        }
    }

    fn mask_of(bits: &[Self]) -> u64 {
        bits.iter().fold(0, |all, bit| all | bit.mask())
    }
}

/// Whether there has to be a revocation list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrlRule {
    /// There must be a fresh one.
    #[default]
    Require,
    /// One that is there is heeded.
    IfPresent,
}

/// Mitigations that have to be in force: a mask of MIT_VECTOR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or a table with a number for each product")]
pub enum MitVector {
    /// The same for all products.
    All(u64),
    /// For each product its own.
    Each(BTreeMap<Product, u64>),
}

impl MitVector {
    /// The mask for `product`, if there is one.
    #[must_use]
    pub fn mask(&self, product: Product) -> Option<u64> {
        match self {
            Self::All(mask) => Some(*mask),
            Self::Each(masks) => masks.get(&product).copied(),
        }
    }
}

/// `[platform]`. The keys are explained in docs/guide/policy.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "docs/guide/policy.md explains the keys")]
pub struct PlatformRules {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<Product>,
    pub signing_keys: Vec<SigningKey>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<PlatformBit>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forbid: Vec<PlatformBit>,
    #[serde(skip_serializing_if = "is_default")]
    pub refuse_unknown_bits: bool,
    #[serde(with = "tcbs", skip_serializing_if = "BTreeMap::is_empty")]
    pub min_tcb: BTreeMap<Product, TcbParts>,
    #[serde(with = "tcbs", skip_serializing_if = "BTreeMap::is_empty")]
    pub min_launch_tcb: BTreeMap<Product, TcbParts>,
    #[serde(with = "text::option", skip_serializing_if = "Option::is_none")]
    pub min_firmware: Option<FirmwareVersion>,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_provisional: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mit_vector: Option<MitVector>,
    #[serde(with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub chip_ids: Vec<[u8; 64]>,
    #[serde(with = "text::list", skip_serializing_if = "Vec::is_empty")]
    pub refused_chip_ids: Vec<[u8; 64]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub csp_ids: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_masked_chip_id: bool,
    pub crl: CrlRule,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_crl_age_days: Option<u32>,
}

impl Default for PlatformRules {
    /// The strict defaults.
    fn default() -> Self {
        Self {
            products: Vec::new(),
            signing_keys: vec![SigningKey::Vcek, SigningKey::Vlek],
            require: Vec::new(),
            forbid: Vec::new(),
            refuse_unknown_bits: false,
            min_tcb: BTreeMap::new(),
            min_launch_tcb: BTreeMap::new(),
            min_firmware: None,
            allow_provisional: false,
            mit_vector: None,
            chip_ids: Vec::new(),
            refused_chip_ids: Vec::new(),
            csp_ids: Vec::new(),
            allow_masked_chip_id: false,
            crl: CrlRule::Require,
            max_crl_age_days: None,
        }
    }
}

impl PlatformRules {
    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        // A new key does not compile until it is checked or named here.
        let Self {
            products,
            require,
            forbid,
            min_tcb,
            min_launch_tcb,
            mit_vector,
            signing_keys: _,
            refuse_unknown_bits: _,
            min_firmware: _,
            allow_provisional: _,
            chip_ids: _,
            refused_chip_ids: _,
            csp_ids: _,
            allow_masked_chip_id: _,
            crl: _,
            max_crl_age_days: _,
        } = self;
        if products.is_empty() {
            return Err(PolicyError::value(
                "platform.products",
                "is empty: write which of milan, genoa and turin are accepted",
            ));
        }
        if let Some(product) = products.iter().find(|product| !min_tcb.contains_key(product)) {
            let key = format!("platform.min_tcb.{product}");
            return Err(PolicyError::value(key, "is missing: every accepted product needs a minimum TCB"));
        }
        for (key, tcbs) in [("min_tcb", min_tcb), ("min_launch_tcb", min_launch_tcb)] {
            for (product, tcb) in tcbs {
                if tcb.fmc.is_some() != (*product == Product::Turin) {
                    let key = format!("platform.{key}.{product}.fmc");
                    return Err(PolicyError::value(key, "Turin has an FMC and the others have none"));
                }
            }
        }
        if PlatformBit::mask_of(require) & PlatformBit::mask_of(forbid) != 0 {
            return Err(PolicyError::value("platform.require", "and platform.forbid name the same bit"));
        }
        if let Some(MitVector::Each(masks)) = mit_vector
            && let Some(product) = masks.keys().find(|product| !products.contains(product))
        {
            let key = format!("platform.mit_vector.{product}");
            return Err(PolicyError::value(key, "belongs to a product that is not accepted"));
        }
        Ok(())
    }

    /// Bits that PLATFORM_INFO must have.
    pub(crate) fn required_bits(&self) -> u64 {
        PlatformBit::mask_of(&self.require)
    }

    /// Bits that PLATFORM_INFO must not have.
    pub(crate) fn forbidden_bits(&self) -> u64 {
        let unknown = if self.refuse_unknown_bits { PlatformBit::unknown() } else { 0 };
        PlatformBit::mask_of(&self.forbid) | unknown
    }
}

/// TCBs by product, in a policy's form.
mod tcbs {
    use std::collections::BTreeMap;

    use cvmm_attest::claims::Product;
    use cvmm_snp::tcb::TcbParts;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(remote = "TcbParts", deny_unknown_fields)]
    struct Table {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fmc: Option<u8>,
        bootloader: u8,
        tee: u8,
        snp: u8,
        microcode: u8,
    }

    #[derive(Serialize, Deserialize)]
    struct Tcb(#[serde(with = "Table")] TcbParts);

    pub(super) fn serialize<S: Serializer>(
        tcbs: &BTreeMap<Product, TcbParts>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(tcbs.iter().map(|(product, tcb)| (product, Tcb(*tcb))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Product, TcbParts>, D::Error> {
        let tcbs: BTreeMap<Product, Tcb> = BTreeMap::deserialize(deserializer)?;
        Ok(tcbs.into_iter().map(|(product, Tcb(tcb))| (product, tcb)).collect())
    }
}

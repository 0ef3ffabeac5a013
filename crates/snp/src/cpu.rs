// SPDX-License-Identifier: Apache-2.0
//! Processor signatures: CPUID leaf 1, EAX.
//!
//! A processor starts with its signature in RDX, so it is part of the measured state of every vCPU: a guest
//! that was predicted for one processor model has another digest on the next. Source: AMD document 25481,
//! "CPUID Fn0000_0001_EAX Family, Model, Stepping Identifiers"; the models are those of QEMU and
//! `sev-snp-measure`.

use std::fmt;
use std::str::FromStr;

/// Family, model and stepping as CPUID leaf 1 gives them in EAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuSignature(pub u32);

/// A name or number that is not a processor signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// No model has this name.
    #[error("unknown vCPU type \"{0}\"; known are {names}", names = names())]
    Name(String),
    /// A part does not fit its field.
    #[error(
        "family {family}, model {model}, stepping {stepping} is not a processor: the limits are 270, 255 and 15"
    )]
    Parts {
        /// Family.
        family: u32,
        /// Model.
        model: u32,
        /// Stepping.
        stepping: u32,
    },
}

/// A processor model of QEMU. Its versions (`EPYC-Milan-v2`) differ in features, and have one signature.
struct Model {
    name: &'static str,
    /// The newest version; the name without one is an alias.
    versions: u32,
    signature: CpuSignature,
}

/// QEMU's models of AMD servers, up to QEMU 11.
const MODELS: [Model; 5] = [
    Model { name: "EPYC", versions: 5, signature: CpuSignature(0x0080_0f12) },
    Model { name: "EPYC-Rome", versions: 5, signature: CpuSignature(0x0083_0f10) },
    Model { name: "EPYC-Milan", versions: 3, signature: CpuSignature(0x00a0_0f11) },
    Model { name: "EPYC-Genoa", versions: 2, signature: CpuSignature(0x00a1_0f10) },
    Model { name: "EPYC-Turin", versions: 2, signature: CpuSignature(0x00b0_0f00) },
];
/// Another name of `EPYC-v2`, from before models had versions.
const EPYC_IBPB: &str = "EPYC-IBPB";

fn names() -> String {
    let versions = |model: &Model| format!("{name}, {name}-v1 to -v{}", model.versions, name = model.name);
    let names: Vec<_> = MODELS.iter().map(versions).collect();
    format!("{}, {EPYC_IBPB}", names.join(", "))
}

impl CpuSignature {
    /// The signature of a family, a model and a stepping.
    pub fn from_parts(family: u32, model: u32, stepping: u32) -> Result<Self, CpuError> {
        if family > 0xf + 0xff || model > 0xff || stepping > 0xf {
            return Err(CpuError::Parts { family, model, stepping });
        }
        // Families above 15 have the rest in a field of their own.
        let (base, extended) = (family.min(0xf), family.saturating_sub(0xf));
        Ok(Self(extended << 20 | (model >> 4) << 16 | base << 8 | (model & 0xf) << 4 | stepping))
    }

    /// Family, base and extended part together.
    pub fn family(self) -> u32 {
        let base = self.0 >> 8 & 0xf;
        if base == 0xf { base + (self.0 >> 20 & 0xff) } else { base }
    }

    /// Model, base and extended part together.
    pub fn model(self) -> u32 {
        (self.0 >> 16 & 0xf) << 4 | self.0 >> 4 & 0xf
    }

    /// Stepping.
    pub fn stepping(self) -> u32 {
        self.0 & 0xf
    }
}

/// Parses a QEMU model name.
impl FromStr for CpuSignature {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self, CpuError> {
        let plain = if name.eq_ignore_ascii_case(EPYC_IBPB) { "EPYC" } else { name };
        let known = |model: &&Model| {
            let rest = plain.get(..model.name.len()).filter(|head| head.eq_ignore_ascii_case(model.name));
            let rest = rest.and_then(|_| plain.get(model.name.len()..));
            rest.is_some_and(|rest| {
                let version = |version| rest.eq_ignore_ascii_case(&format!("-v{version}"));
                rest.is_empty() || (1..=model.versions).any(version)
            })
        };
        let found = MODELS.iter().find(known);
        found.map(|model| model.signature).ok_or_else(|| CpuError::Name(name.to_owned()))
    }
}

impl fmt::Display for CpuSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(eax) = self;
        write!(f, "{eax:#x} (family {}, model {}, stepping {})", self.family(), self.model(), self.stepping())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_their_family_model_and_stepping() {
        // Parts from sev-snp-measure 0.0.13, vcpu_types.py.
        for (name, parts) in [
            ("EPYC-v4", (23, 1, 2)),
            ("EPYC-Rome", (23, 49, 0)),
            ("epyc-milan", (25, 1, 1)),
            ("EPYC-Genoa-v1", (25, 17, 0)),
            ("EPYC-Turin", (26, 0, 0)),
        ] {
            let signature: CpuSignature = name.parse().unwrap();
            assert_eq!(CpuSignature::from_parts(parts.0, parts.1, parts.2), Ok(signature), "{name}");
            assert_eq!((signature.family(), signature.model(), signature.stepping()), parts);
        }
        // The versions that `qemu-system-x86_64 -cpu help` lists, QEMU 7.2 to 11.
        for (model, newest) in
            [("EPYC", 5), ("EPYC-Rome", 5), ("EPYC-Milan", 3), ("EPYC-Genoa", 2), ("EPYC-Turin", 2)]
        {
            let plain: CpuSignature = model.parse().unwrap();
            for version in 1..=newest {
                assert_eq!(format!("{model}-v{version}").parse(), Ok(plain));
            }
            assert!(format!("{model}-v{}", newest + 1).parse::<CpuSignature>().is_err());
        }
        assert_eq!("EPYC-IBPB".parse::<CpuSignature>(), "EPYC".parse());
        for wrong in
            ["EPYC-", "EPYC-v", "EPYC-v0", "EPYC-v01", "EPYC-Rome-v6", "EPYC-v1 ", "", "EPYC-IBPB-v1"]
        {
            assert!(wrong.parse::<CpuSignature>().is_err(), "{wrong:?}");
        }
        assert_eq!(CpuSignature::from_parts(6, 0x2a, 7), Ok(CpuSignature(0x2_06a7)));
        assert_eq!(CpuSignature(0x2_06a7).family(), 6);
    }

    #[test]
    fn unknown_processors_are_refused() {
        let error = "EPYC-Venice".parse::<CpuSignature>().unwrap_err().to_string();
        assert!(error.contains("EPYC-Venice") && error.contains("EPYC-Turin"), "{error}");
        assert!(CpuSignature::from_parts(271, 0, 0).is_err());
        assert!(CpuSignature::from_parts(25, 256, 0).is_err());
        assert!(CpuSignature::from_parts(25, 0, 16).is_err());
        assert_eq!(CpuSignature::from_parts(270, 255, 15).map(|s| s.family()), Ok(270));
    }
}

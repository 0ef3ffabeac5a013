// SPDX-License-Identifier: Apache-2.0
//! The processor generations and how each of them encodes its TCB.
//!
//! A TCB version is eight bytes; which byte is which component differs between generations, and bytes that
//! belong to no component are reserved. Versions must be compared component by component, never as one
//! integer.

use serde::Deserialize;

/// Generation of the processor that is modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// Family 19h, models 00h-0Fh.
    Milan,
    /// Family 19h, models 10h-1Fh.
    Genoa,
    /// Family 1Ah, models 00h-11h.
    Turin,
}

impl Product {
    /// Product line as certificates and the key distribution service spell it.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// `productName` of a VCEK: real Milan certificates carry a stepping, later ones do not.
    #[must_use]
    pub fn vcek_product_name(self) -> &'static str {
        match self {
            Self::Milan => "Milan-B0",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// Combined family, combined model and stepping as reports from version 3 on carry them.
    #[must_use]
    pub fn family_model_stepping(self) -> [u8; 3] {
        match self {
            Self::Milan => [0x19, 0x01, 0x1],
            Self::Genoa => [0x19, 0x11, 0x1],
            Self::Turin => [0x1A, 0x02, 0x1],
        }
    }

    /// CPUID function 1 EAX of [`Self::family_model_stepping`].
    #[must_use]
    pub fn signature(self) -> u32 {
        let [family, model, stepping] = self.family_model_stepping().map(u32::from);
        (family - 0xF) << 20 | (model >> 4) << 16 | 0xF << 8 | (model & 0xF) << 4 | stepping
    }

    /// Bytes of the chip identifier that are in use; the rest of the 64 are zero.
    #[must_use]
    pub fn chip_id_len(self) -> usize {
        if self == Self::Turin { 8 } else { 64 }
    }

    /// Serial number base of the ARK: `n * 0x10000`, as AMD's roots have.
    pub(crate) fn ark_serial(self) -> u64 {
        match self {
            Self::Milan => 0x1_0000,
            Self::Genoa => 0x2_0000,
            Self::Turin => 0x3_0000,
        }
    }

    /// Security versions of a plausible current firmware.
    #[must_use]
    pub fn default_tcb(self) -> Tcb {
        match self {
            Self::Milan => Tcb { fmc: 0, bootloader: 4, tee: 0, snp: 22, microcode: 213 },
            Self::Genoa => Tcb { fmc: 0, bootloader: 9, tee: 0, snp: 21, microcode: 72 },
            Self::Turin => Tcb { fmc: 1, bootloader: 1, tee: 0, snp: 2, microcode: 71 },
        }
    }

    /// Position of each component in the eight bytes: fmc, bootloader, tee, snp, microcode.
    fn positions(self) -> [Option<usize>; 5] {
        match self {
            Self::Milan | Self::Genoa => [None, Some(0), Some(1), Some(6), Some(7)],
            Self::Turin => [Some(0), Some(1), Some(2), Some(3), Some(7)],
        }
    }
}

/// Security version numbers of the firmware components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcb {
    /// First mutable code; Turin only, zero elsewhere.
    pub fmc: u8,
    /// PSP boot loader.
    pub bootloader: u8,
    /// PSP operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Lowest microcode patch level of all cores.
    pub microcode: u8,
}

impl Tcb {
    fn components(self) -> [u8; 5] {
        [self.fmc, self.bootloader, self.tee, self.snp, self.microcode]
    }

    /// The eight bytes as the firmware stores them.
    #[must_use]
    pub fn to_bytes(self, product: Product) -> [u8; 8] {
        let mut bytes = [0; 8];
        for (value, position) in self.components().into_iter().zip(product.positions()) {
            if let Some(at) = position {
                bytes[at] = value;
            }
        }
        bytes
    }

    /// The inverse of [`Self::to_bytes`]; `None` when a reserved byte is not zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8], product: Product) -> Option<Self> {
        let [fmc, bootloader, tee, snp, microcode] =
            product.positions().map(|at| at.map_or(0, |at| bytes[at]));
        let tcb = Self { fmc, bootloader, tee, snp, microcode };
        (tcb.to_bytes(product) == bytes).then_some(tcb)
    }

    /// Whether no component is newer than in `other`.
    #[must_use]
    pub fn within(self, other: Self) -> bool {
        self.components().into_iter().zip(other.components()).all(|(a, b)| a <= b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_sev_snp_measure_lists() {
        assert_eq!(Product::Milan.signature(), 0x00a0_0f11);
        assert_eq!(Product::Genoa.signature(), 0x00a1_0f11);
        assert_eq!(Product::Turin.signature(), 0x00b0_0f21);
    }

    #[test]
    fn reserved_bytes_are_refused() {
        let tcb = Tcb { fmc: 0, bootloader: 1, tee: 2, snp: 3, microcode: 4 };
        assert_eq!(tcb.to_bytes(Product::Milan), [1, 2, 0, 0, 0, 0, 3, 4]);
        assert_eq!(tcb.to_bytes(Product::Turin), [0, 1, 2, 3, 0, 0, 0, 4]);
        assert_eq!(Tcb::from_bytes([1, 2, 0, 0, 0, 0, 3, 4], Product::Genoa), Some(tcb));
        assert_eq!(Tcb::from_bytes([1, 2, 0, 7, 0, 0, 3, 4], Product::Genoa), None);
    }

    #[test]
    fn comparison_is_by_component() {
        let low = Tcb { fmc: 0, bootloader: 1, tee: 0, snp: 9, microcode: 1 };
        let high = Tcb { fmc: 0, bootloader: 2, tee: 0, snp: 8, microcode: 9 };
        assert!(!low.within(high) && !high.within(low) && low.within(low));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! TCB_VERSION: security version numbers of the firmware parts.
//!
//! Eight bytes whose meaning depends on the processor family: the one of Turin (family 0x1a) has another
//! order and one additional part. Versions are compared part by part, never as integers: 1.9 is not above 2.0
//! in each part. Source: firmware ABI 2.2, "Structure of the TCB_VERSION".

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::layout;

/// TCB_VERSION as it stands in reports and platform status.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct TcbVersion(pub [u8; 8]);

layout!(TcbVersion, 8, {});

/// Which order the bytes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcbLayout {
    /// Milan and Genoa.
    Family19h,
    /// Turin.
    Family1ah,
}

impl TcbLayout {
    /// The layout for a processor family; `None` if it is not known.
    pub fn for_family(family: u8) -> Option<Self> {
        match family {
            0x19 => Some(Self::Family19h),
            0x1a => Some(Self::Family1ah),
            _ => None,
        }
    }
}

/// The security version numbers of one platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcbParts {
    /// FMC of the secure processor; only Turin has one.
    pub fmc: Option<u8>,
    /// Boot loader of the secure processor.
    pub bootloader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Processor microcode.
    pub microcode: u8,
}

impl TcbVersion {
    /// The parts by the given layout; an error is a reserved byte that is not zero.
    pub fn parts(self, layout: TcbLayout) -> Option<TcbParts> {
        let [a, b, c, d, e, f, g, h] = self.0;
        match layout {
            TcbLayout::Family19h => ([c, d, e, f] == [0; 4]).then_some(TcbParts {
                fmc: None,
                bootloader: a,
                tee: b,
                snp: g,
                microcode: h,
            }),
            TcbLayout::Family1ah => ([e, f, g] == [0; 3]).then_some(TcbParts {
                fmc: Some(a),
                bootloader: b,
                tee: c,
                snp: d,
                microcode: h,
            }),
        }
    }
}

impl TcbParts {
    /// Whether every part is at least that of `minimum`. If only one of them has some part, they are
    /// incomparable: false.
    pub fn is_at_least(&self, minimum: &Self) -> bool {
        self.fmc.is_some() == minimum.fmc.is_some()
            && self.fmc >= minimum.fmc
            && self.bootloader >= minimum.bootloader
            && self.tee >= minimum.tee
            && self.snp >= minimum.snp
            && self.microcode >= minimum.microcode
    }
}

impl fmt::Display for TcbParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc}, ")?;
        }
        let Self { bootloader, tee, snp, microcode, .. } = self;
        write!(f, "bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_are_read() {
        let milan = TcbVersion([4, 1, 0, 0, 0, 0, 24, 219]).parts(TcbLayout::Family19h).unwrap();
        assert_eq!(milan.to_string(), "bootloader 4, tee 1, snp 24, microcode 219");
        let turin = TcbVersion([1, 2, 3, 4, 0, 0, 0, 85]).parts(TcbLayout::Family1ah).unwrap();
        assert_eq!(turin, TcbParts { fmc: Some(1), bootloader: 2, tee: 3, snp: 4, microcode: 85 });
        assert_eq!(TcbVersion([4, 1, 1, 0, 0, 0, 24, 219]).parts(TcbLayout::Family19h), None);
        assert_eq!(TcbVersion([4, 1, 1, 0, 0, 0, 24, 219]).parts(TcbLayout::Family1ah), None);
        assert_eq!(TcbLayout::for_family(0x17), None);
        assert!(!milan.is_at_least(&turin) && !turin.is_at_least(&milan));
    }

    #[test]
    fn no_part_makes_up_for_another() {
        let old = TcbParts { fmc: None, bootloader: 3, tee: 0, snp: 20, microcode: 200 };
        let mixed = TcbParts { bootloader: 2, microcode: 219, ..old };
        assert!(old.is_at_least(&old) && TcbParts { snp: 21, ..old }.is_at_least(&old));
        assert!(!mixed.is_at_least(&old) && !old.is_at_least(&mixed));
    }
}

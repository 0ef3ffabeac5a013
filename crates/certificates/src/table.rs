// SPDX-License-Identifier: Apache-2.0
//! The certificate table: entries of GUID, offset and length, an empty one, then the certificates. Source:
//! GHCB specification, "SNP Extended Guest Request", table "cert_table"; GUIDs stand in it as RFC 4122 writes
//! them.

use zerocopy::little_endian::U32;
use zerocopy::{Immutable, IntoBytes, KnownLayout, Unaligned};

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the chip.
    Vcek,
    /// Loaded by the host's operator.
    Vlek,
    /// What signs a VCEK (ASK) or VLEK (ASVK).
    Intermediate,
    /// AMD's root.
    Ark,
}

impl Kind {
    fn guid(self) -> [u8; 16] {
        let value: u128 = match self {
            Self::Vcek => 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd,
            Self::Vlek => 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1,
            Self::Intermediate => 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782,
            Self::Ark => 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae,
        };
        value.to_be_bytes()
    }
}

#[derive(IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    guid: [u8; 16],
    offset: U32,
    length: U32,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// The table of these certificates (DER), in their order. The store bounds their sizes, so offsets fit.
pub(crate) fn build(certificates: &[(Kind, Vec<u8>)]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut offset = (certificates.len() + 1) * size_of::<Entry>();
    for (kind, der) in certificates {
        let entry =
            Entry { guid: kind.guid(), offset: U32::new(offset as u32), length: U32::new(der.len() as u32) };
        table.extend_from_slice(entry.as_bytes());
        offset += der.len();
    }
    table.resize(table.len() + size_of::<Entry>(), 0);
    for (_, der) in certificates {
        table.extend_from_slice(der);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_point_at_their_certificates() {
        let table = build(&[(Kind::Vcek, vec![1; 3]), (Kind::Ark, vec![2; 5])]);
        assert_eq!(table.len(), 3 * 24 + 8);
        assert_eq!(table[..4], [0x63, 0xda, 0x75, 0x8d], "the GUID as it is written");
        let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((word(16), word(20), word(40), word(44)), (72, 3, 75, 5));
        assert_eq!(&table[word(40)..word(40) + word(44)], [2; 5]);
        assert!(table[48..72].iter().all(|byte| *byte == 0), "the end is an empty entry");
        assert_eq!(build(&[]), [0; 24]);
    }
}

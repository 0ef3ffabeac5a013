// SPDX-License-Identifier: Apache-2.0
//! Selections of PCRs (`TPML_PCR_SELECTION`, part 2, table 115) and PCR values.

use std::collections::BTreeMap;

use crate::constants::PCRS;
use crate::hash::HashAlg;
use crate::wire::{Reader, WireError, Writer};

/// Most banks in a selection (HASH_COUNT of existing TPMs).
const MAX_BANKS: usize = 16;
/// Most digests in a TPML_DIGEST (part 2, table 111).
const MAX_DIGESTS: usize = 8;

/// A `TPMS_PCR_SELECTION` (table 93).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The bank.
    pub hash: HashAlg,
    /// Bit n is PCR n.
    pub bits: u32,
}

/// A `TPML_PCR_SELECTION`.
pub type Selections = Vec<Selection>;

impl Selection {
    /// A selection of these PCRs.
    #[must_use]
    pub fn of(hash: HashAlg, pcrs: &[u8]) -> Self {
        let bits = pcrs.iter().filter(|pcr| **pcr < PCRS).fold(0, |bits, pcr| bits | 1 << pcr);
        Self { hash, bits }
    }

    /// The selected PCRs, ascending.
    pub fn pcrs(self) -> impl Iterator<Item = u8> {
        (0..32).filter(move |pcr| self.bits & (1 << pcr) != 0)
    }
}

/// Reads a TPML_PCR_SELECTION.
pub fn read_selections(reader: &mut Reader<'_>) -> Result<Selections, WireError> {
    let count = reader.count("pcrSelect.count", MAX_BANKS)?;
    let mut selections = Vec::with_capacity(count);
    for _ in 0..count {
        let hash = HashAlg::read(reader, "pcrSelect.hash")?;
        let offset = reader.offset();
        let size = reader.u8("sizeofSelect")?;
        if !(1..=4).contains(&size) {
            return Err(WireError::TooLong { what: "sizeofSelect", offset, found: size.into(), max: 4 });
        }
        let mut bits = [0; 4];
        let map = reader.take("pcrSelect", size.into())?;
        bits.iter_mut().zip(map).for_each(|(to, from)| *to = *from);
        selections.push(Selection { hash, bits: u32::from_le_bytes(bits) });
    }
    Ok(selections)
}

/// Writes a TPML_PCR_SELECTION, of 24 PCRs per bank.
pub fn write_selections(writer: &mut Writer, selections: &Selections) {
    writer.u32(u32::try_from(selections.len()).unwrap_or(u32::MAX));
    for selection in selections {
        let [first, second, third, _] = selection.bits.to_le_bytes();
        writer.u16(selection.hash.id()).u8(3).raw(&[first, second, third]);
    }
}

/// Values of PCRs, by bank and index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcrValues(pub BTreeMap<(HashAlg, u8), Vec<u8>>);

impl PcrValues {
    /// The value of one PCR.
    #[must_use]
    pub fn get(&self, hash: HashAlg, pcr: u8) -> Option<&[u8]> {
        self.0.get(&(hash, pcr)).map(Vec::as_slice)
    }

    /// The pcrDigest of TPM2_Quote (part 1, 32.4.1): the digest of the selected values, concatenated. `None`
    /// if a selected value is missing.
    #[must_use]
    pub fn digest(&self, hash: HashAlg, selections: &Selections) -> Option<Vec<u8>> {
        let values: Option<Vec<&[u8]>> = selections
            .iter()
            .flat_map(|selection| selection.pcrs().map(|pcr| self.get(selection.hash, pcr)))
            .collect();
        Some(hash.digest(&values?))
    }
}

/// Reads a response of TPM2_PCR_Read (part 3, 22.4) and adds its values to `values`. A TPM returns a few PCRs
/// at a time: the selections in the response say which.
pub fn read_values(reader: &mut Reader<'_>, values: &mut PcrValues) -> Result<Selections, WireError> {
    reader.u32("pcrUpdateCounter")?;
    let selections = read_selections(reader)?;
    let offset = reader.offset();
    let count = reader.count("pcrValues.count", MAX_DIGESTS)?;
    let which: Vec<_> =
        selections.iter().flat_map(|selection| selection.pcrs().map(|pcr| (selection.hash, pcr))).collect();
    if which.len() != count {
        return Err(WireError::TooLong { what: "pcrValues.count", offset, found: count, max: which.len() });
    }
    for (hash, pcr) in which {
        let offset = reader.offset();
        let value = reader.sized("pcrValues.digest", hash.digest_len())?;
        if value.len() != hash.digest_len() {
            return Err(WireError::Short {
                what: "pcrValues.digest",
                offset,
                wanted: hash.digest_len(),
                left: value.len(),
            });
        }
        values.0.insert((hash, pcr), value.to_vec());
    }
    Ok(selections)
}

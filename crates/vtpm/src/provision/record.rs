// SPDX-License-Identifier: Apache-2.0
//! The record of the endorsement keys, which the guest cannot change.
//!
//! An NV index that only the platform writes and removes: 8 bytes `CVMMTPM1`, then two `TPM2B_PUBLIC`. A
//! guest that has the platform's authorisation, because its firmware leaves it empty, can write a false
//! record. It then has keys that the gate does not know, and is not admitted.

use cvmm_tpm::Public;
use cvmm_tpm::wire::{Reader, Writer};

use super::talk::Talk;
use super::{Ek, ProvisionError, nv};

/// The index, in the range that the TCG assigns to the platform manufacturer.
pub const RECORD: u32 = 0x0141_0000;

const MAGIC: &[u8; 8] = b"CVMMTPM1";

/// The keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub ek_rsa: Public,
    pub ek_ecc: Public,
}

impl Record {
    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(MAGIC).sized(&self.ek_rsa.to_bytes()).sized(&self.ek_ecc.to_bytes());
        writer.into_bytes()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.take("magic", MAGIC.len()).ok()? != MAGIC {
            return None;
        }
        let mut key =
            |ek: Ek| Public::read_sized(&mut reader).ok().filter(|public| public.is_of(&ek.template()));
        let record = Self { ek_rsa: key(Ek::Rsa)?, ek_ecc: key(Ek::Ecc)? };
        reader.is_empty().then_some(record)
    }
}

/// Reads the record; `None` if it is missing or invalid.
pub(super) fn read(talk: &mut Talk<'_>) -> Result<Option<Record>, ProvisionError> {
    Ok(nv::get(talk, RECORD)?.and_then(|bytes| Record::parse(&bytes)))
}

/// Writes the record.
pub(super) fn write(talk: &mut Talk<'_>, record: &Record) -> Result<(), ProvisionError> {
    nv::put(talk, RECORD, &record.to_bytes(), true).map(|_| ())
}

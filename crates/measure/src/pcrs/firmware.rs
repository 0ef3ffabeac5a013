// SPDX-License-Identifier: Apache-2.0
//! What OVMF.cvmm.fd measures: PCRs 0 to 7.

use cvmm_launch::blob::{Blob, ReadError};
use cvmm_launch::firmware::Firmware;
use cvmm_launch::guid::Guid;
use cvmm_launch::kernel::Program;
use cvmm_launch::plan::{LaunchPlan, Source};
use zerocopy::IntoBytes;

use super::{PcrError, Register, Stub};

/// EV_SEPARATOR: the firmware is done.
const SEPARATOR: [u8; 4] = [0; 4];
/// EV_EFI_ACTION before the first program.
const BOOT_ACTION: &[u8] = b"Calling EFI Application from Boot Option";
/// EFI_GLOBAL_VARIABLE
const GLOBAL: Guid = Guid::from_u128(0x8be4df61_93ca_11d2_aa0d_00e098032b8c);
/// EFI_IMAGE_SECURITY_DATABASE_GUID
const SECURITY_DATABASE: Guid = Guid::from_u128(0xd719b2cb_3d3a_4596_a3bc_dad00e67656f);

/// The Secure Boot variables of a guest. Each is the variable's data, a run of EFI_SIGNATURE_LISTs; empty if
/// it does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecureBoot {
    /// Platform key: with one, Secure Boot is on.
    pub pk: Vec<u8>,
    /// Key exchange keys.
    pub kek: Vec<u8>,
    /// Keys and hashes of programs that may run.
    pub db: Vec<u8>,
    /// Those that may not.
    pub dbx: Vec<u8>,
    /// The EFI_SIGNATURE_DATA in `db` (owner, then certificate) by which the loader is admitted; the entry of
    /// `db` if it has only one.
    pub authority: Option<Vec<u8>>,
}

/// How a key region with keys begins: then u32 length of the entries, u32 version.
const KEY_REGION: &[u8; 8] = b"CVMMKEYS";
/// Bytes of the key region, which is at the start of an image.
const KEY_REGION_LEN: u64 = 0x1_0000;
const KEY_REGION_HEADER: usize = 16;
/// Entries of the key region are padded to it.
const PAD: usize = 8;
/// Fixed part of an EFI_SIGNATURE_LIST: type, sizes of list, header and entry.
const LIST_HEADER: usize = 28;

impl SecureBoot {
    /// The variables that a guest gets: from the key pages of its launch plan, otherwise from the key region
    /// of the firmware image. `None` if that region is malformed, and the firmware would end the guest.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn of(firmware: &Firmware, plan: &LaunchPlan) -> Result<Option<Self>, ReadError> {
        let mut keys = Self::default();
        let mut given = false;
        for import in plan.imports() {
            let Some(name) = import.tag.strip_prefix("secure boot ") else { continue };
            let Source::Blob { blob, offset, len } = &import.source else { return Ok(None) };
            let Some(variable) = keys.variable(name) else { return Ok(None) };
            *variable = bytes(blob, *offset, *len)?;
            given = true;
        }
        if given {
            return Ok(Some(keys));
        }
        let image = firmware.image();
        Ok(Self::from_region(&bytes(image, 0, KEY_REGION_LEN.min(image.len()))?))
    }

    fn variable(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        match name {
            "PK" => Some(&mut self.pk),
            "KEK" => Some(&mut self.kek),
            "db" => Some(&mut self.db),
            "dbx" => Some(&mut self.dbx),
            _ => None,
        }
    }

    /// The keys in a key region (docs/reference/firmware.md).
    pub(super) fn from_region(region: &[u8]) -> Option<Self> {
        let mut keys = Self::default();
        if !region.starts_with(KEY_REGION) {
            return Some(keys);
        }
        let number = |at: usize| -> Option<usize> {
            let bytes = region.get(at..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        };
        let end = KEY_REGION_HEADER.checked_add(number(KEY_REGION.len())?)?;
        let mut at = KEY_REGION_HEADER;
        while at < end {
            let (kind, len) = (number(at)?, number(at + 4)?);
            let data = region.get(..end)?.get(at + 8..)?.get(..len)?;
            let name = ["PK", "KEK", "db", "dbx"].get(kind.checked_sub(0x100)?)?;
            let variable = keys.variable(name)?;
            if !variable.is_empty() {
                return None;
            }
            *variable = data.to_vec();
            at = (at + 8 + len).next_multiple_of(PAD);
        }
        Some(keys)
    }

    /// Whether Secure Boot is on.
    pub(super) fn is_on(&self) -> bool {
        !self.pk.is_empty()
    }

    /// The entry of db that admits the loader, if that is clear.
    fn authority(&self) -> Option<&[u8]> {
        if let Some(authority) = &self.authority {
            return Some(authority);
        }
        let size = |at: usize| -> Option<usize> {
            let bytes = self.db.get(at..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_le_bytes(*bytes)).ok()
        };
        let (list, header, entry) = (size(16)?, size(20)?, size(24)?);
        let start = LIST_HEADER.checked_add(header)?;
        let only = list == self.db.len() && start.checked_add(entry)? == list;
        if only { self.db.get(start..) } else { None }
    }
}

fn bytes(blob: &Blob, offset: u64, len: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let mut chunks = blob.chunks(offset, len);
    while let Some(chunk) = chunks.next_chunk()? {
        bytes.extend_from_slice(chunk);
    }
    Ok(bytes)
}

/// A PCR with the separator alone: there are no option ROMs, no boot options and no platform events.
pub(super) fn separator_only() -> Register {
    let mut register = Register::new();
    register.measure("separator", &[&SEPARATOR]);
    register
}

/// PCR 4: the programs that the firmware loads, with Secure Boot on or off. The inner result is why they are
/// not known.
pub(super) fn boot_programs(
    loader: &Program,
    stub: &Stub,
    secure_boot: bool,
) -> Result<Result<Register, String>, PcrError> {
    let mut register = Register::new();
    register.measure("boot action", &[BOOT_ACTION]);
    register.measure("separator", &[&SEPARATOR]);
    register.extend(format!("{}", loader.blob()), loader.authenticode()?);
    match stub {
        // With Secure Boot the stub goes around the firmware's check of programs, which is also what
        // measures them: the image that was checked covers the kernel.
        Stub::Systemd { .. } if secure_boot => {}
        Stub::Systemd { .. } => {
            let Some(linux) = loader.sections().iter().find(|section| section.name == b".linux") else {
                return Ok(Err("the image has no kernel outside its profiles".to_owned()));
            };
            // The stub has the firmware load it.
            let kernel = loader.inner(linux)?;
            register.extend("kernel in its section .linux", kernel.authenticode()?);
        }
        Stub::Cvmm => {}
        Stub::None => {
            let reason = format!(
                "{} is not a unified kernel image, so what it starts is unknown; before that, PCR 4 is {}",
                loader.blob(),
                hex::encode(register.value)
            );
            return Ok(Err(reason));
        }
        Stub::Unknown(reason) => return Ok(Err(reason.clone())),
    }
    Ok(Ok(register))
}

/// PCR 7: the Secure Boot variables, and the key that admitted the loader.
pub(super) fn secure_boot(keys: &SecureBoot) -> Result<Register, &'static str> {
    let SecureBoot { pk, kek, db, dbx, authority: _ } = keys;
    let on = keys.is_on();
    let mut register = Register::new();
    let state: &[u8] = &[u8::from(on)];
    for (vendor, name, data) in [
        (GLOBAL, "SecureBoot", state),
        (GLOBAL, "PK", pk.as_slice()),
        (GLOBAL, "KEK", kek.as_slice()),
        (SECURITY_DATABASE, "db", db.as_slice()),
        (SECURITY_DATABASE, "dbx", dbx.as_slice()),
    ] {
        register.measure(format!("variable {name}"), &[&variable(vendor, name, data)]);
    }
    register.measure("separator", &[&SEPARATOR]);
    if on {
        let authority =
            keys.authority().ok_or("db has several entries, one of which will admit the loader")?;
        register
            .measure("entry of db that admits the loader", &[&variable(SECURITY_DATABASE, "db", authority)]);
    }
    Ok(register)
}

/// UEFI_VARIABLE_DATA: GUID, lengths of name (in characters) and data, name, data.
fn variable(vendor: Guid, name: &str, data: &[u8]) -> Vec<u8> {
    let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut bytes = vendor.as_bytes().to_vec();
    bytes.extend_from_slice(&(wide.len() as u64 / 2).to_le_bytes());
    bytes.extend_from_slice(&(data.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&wide);
    bytes.extend_from_slice(data);
    bytes
}

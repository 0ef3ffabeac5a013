// SPDX-License-Identifier: Apache-2.0
//! NV indices of the platform hierarchy: the certificates, with the attributes that swtpm_setup gives them.

use cvmm_tpm::Command;
use cvmm_tpm::constants::{alg, cc, nv, place, rh};
use cvmm_tpm::wire::Reader;

use super::ProvisionError;
use super::talk::{Talk, absent};
use crate::engine::TpmEngine;

/// Maximum size of an index in bytes (`TPM_PT_NV_INDEX_MAX` of libtpms).
pub const MAX_CERTIFICATE: usize = 2048;

/// Maximum size of a read or write in bytes (`TPM_PT_NV_BUFFER_MAX` of libtpms).
const CHUNK: usize = 1024;

/// Attributes of a new index: the platform writes, all can read.
const ATTRIBUTES: u32 = nv::PPWRITE
    | nv::WRITEDEFINE
    | nv::PPREAD
    | nv::OWNERREAD
    | nv::AUTHREAD
    | nv::NO_DA
    | nv::PLATFORMCREATE;

/// DER certificates of a TPM's keys, issued by the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Of the RSA-2048 endorsement key.
    pub ek_rsa: Vec<u8>,
    /// Of the P-384 endorsement key.
    pub ek_ecc: Vec<u8>,
    /// Of the attestation key.
    pub ak: Vec<u8>,
    /// Platform certificate: the VM that the TPM belongs to.
    pub platform: Vec<u8>,
}

/// Their indices. Those of endorsement keys are locked: even the platform can only change them by removing
/// the index.
const PLACES: [(&str, u32, bool); 4] = [
    ("certificate of the RSA-2048 endorsement key", place::EK_RSA_CERTIFICATE, true),
    ("certificate of the P-384 endorsement key", place::EK_ECC_CERTIFICATE, true),
    ("certificate of the attestation key", place::AK_CERTIFICATE, false),
    ("platform certificate", place::PLATFORM_CERTIFICATE, false),
];

/// Writes the certificates that are missing or different, reads them back, and returns how many were written.
pub fn install(engine: &mut dyn TpmEngine, certificates: &Certificates) -> Result<usize, ProvisionError> {
    let Certificates { ek_rsa, ek_ecc, ak, platform } = certificates;
    let all = [ek_rsa, ek_ecc, ak, platform];
    // Check all before writing any.
    for ((name, ..), bytes) in PLACES.iter().zip(all) {
        if !(1..=MAX_CERTIFICATE).contains(&bytes.len()) {
            return Err(ProvisionError::Size { name, len: bytes.len() });
        }
    }
    let mut talk = Talk(engine);
    let mut written = 0;
    for ((_, index, locked), bytes) in PLACES.into_iter().zip(all) {
        written += usize::from(put(&mut talk, index, bytes, locked)?);
    }
    if written > 0 {
        talk.shutdown()?;
    }
    Ok(written)
}

/// Reads the certificates; `None` unless all exist.
pub fn installed(engine: &mut dyn TpmEngine) -> Result<Option<Certificates>, ProvisionError> {
    let mut talk = Talk(engine);
    let mut found = Vec::new();
    for (_, index, _) in PLACES {
        found.push(get(&mut talk, index)?);
    }
    let found: Option<Vec<_>> = found.into_iter().collect();
    let found: Option<[Vec<u8>; 4]> = found.and_then(|found| found.try_into().ok());
    Ok(found.map(|[ek_rsa, ek_ecc, ak, platform]| Certificates { ek_rsa, ek_ecc, ak, platform }))
}

/// `TPMS_NV_PUBLIC` (part 2, table 206), without its policy.
#[derive(Clone, Copy, Debug)]
struct Area {
    hash: u16,
    attributes: u32,
    policy: bool,
    size: usize,
}

impl Area {
    fn read(reader: &mut Reader<'_>) -> Result<Self, cvmm_tpm::wire::WireError> {
        reader.u16("nvPublic")?;
        reader.u32("nvIndex")?;
        let hash = reader.u16("nameAlg")?;
        let attributes = reader.u32("attributes")?;
        let policy = !reader.sized("authPolicy", 64)?.is_empty();
        Ok(Self { hash, attributes, policy, size: reader.u16("dataSize")?.into() })
    }

    fn is(&self, attribute: u32) -> bool {
        self.attributes & attribute != 0
    }

    fn ours(&self, size: usize) -> bool {
        let defined = self.attributes & !(nv::WRITELOCKED | nv::WRITTEN);
        self.hash == alg::SHA256 && defined == ATTRIBUTES && !self.policy && self.size == size
    }
}

fn area(talk: &mut Talk<'_>, index: u32) -> Result<Option<Area>, ProvisionError> {
    let name = "TPM2_NV_ReadPublic";
    let found =
        talk.ask(name, Command::new(cc::NV_READ_PUBLIC).handle(index), 0, |_, reader| Area::read(reader))?;
    absent(name, found)
}

/// Reads an index that the platform may read; `None` if it does not exist or was never written.
pub(super) fn get(talk: &mut Talk<'_>, index: u32) -> Result<Option<Vec<u8>>, ProvisionError> {
    match area(talk, index)? {
        Some(area) if area.is(nv::WRITTEN) && area.is(nv::PPREAD) => read(talk, index, area.size).map(Some),
        _ => Ok(None),
    }
}

fn read(talk: &mut Talk<'_>, index: u32, size: usize) -> Result<Vec<u8>, ProvisionError> {
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        let wanted = (size - bytes.len()).min(CHUNK);
        let command = Command::new(cc::NV_READ)
            .handle(rh::PLATFORM)
            .handle(index)
            .password(&[])
            .u16(wanted as u16)
            .u16(bytes.len() as u16);
        let part =
            talk.run("TPM2_NV_Read", command, 0, |_, reader| Ok(reader.sized("data", wanted)?.to_vec()))?;
        if part.len() != wanted {
            let why = format!("{} bytes instead of {wanted}", part.len());
            return Err(ProvisionError::Answer { command: "TPM2_NV_Read", why });
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// Writes up to [`MAX_CERTIFICATE`] bytes to an index of the platform, replacing any other content; returns
/// false if the content is already right.
pub(super) fn put(
    talk: &mut Talk<'_>,
    index: u32,
    bytes: &[u8],
    locked: bool,
) -> Result<bool, ProvisionError> {
    let found = area(talk, index)?;
    let ours = found.filter(|area| area.ours(bytes.len()));
    if let Some(area) = ours
        && area.is(nv::WRITTEN)
        && area.is(nv::WRITELOCKED) == locked
        && read(talk, index, area.size)? == bytes
    {
        return Ok(false);
    }
    if found.is_some() && ours.is_none_or(|area| area.is(nv::WRITELOCKED)) {
        let command = Command::new(cc::NV_UNDEFINE_SPACE).handle(rh::PLATFORM).handle(index).password(&[]);
        talk.order("TPM2_NV_UndefineSpace", command)?;
    }
    if ours.is_none_or(|area| area.is(nv::WRITELOCKED)) {
        let command = Command::new(cc::NV_DEFINE_SPACE).handle(rh::PLATFORM).password(&[]).sized(&[]).nested(
            |public| {
                public.u32(index).u16(alg::SHA256).u32(ATTRIBUTES).sized(&[]).u16(bytes.len() as u16);
            },
        );
        talk.order("TPM2_NV_DefineSpace", command)?;
    }
    for (number, part) in bytes.chunks(CHUNK).enumerate() {
        let command = Command::new(cc::NV_WRITE)
            .handle(rh::PLATFORM)
            .handle(index)
            .password(&[])
            .sized(part)
            .u16((number * CHUNK) as u16);
        talk.order("TPM2_NV_Write", command)?;
    }
    if locked {
        let command = Command::new(cc::NV_WRITE_LOCK).handle(rh::PLATFORM).handle(index).password(&[]);
        talk.order("TPM2_NV_WriteLock", command)?;
    }
    if read(talk, index, bytes.len())? != bytes {
        let why = format!("index {index:#x} does not contain what was written");
        return Err(ProvisionError::Answer { command: "TPM2_NV_Read", why });
    }
    Ok(true)
}

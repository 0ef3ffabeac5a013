// SPDX-License-Identifier: Apache-2.0
//! What OVMF.cvmm.fd measures: PCRs 0 to 7.

use cvmm_launch::guid::Guid;
use cvmm_launch::kernel::Program;
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
    /// The EFI_SIGNATURE_DATA in `db` (owner, then certificate) by which the loader is admitted. Needed with
    /// a platform key.
    pub authority: Option<Vec<u8>>,
}

/// A PCR with the separator alone: there are no option ROMs, no boot options and no platform events.
pub(super) fn separator_only() -> Register {
    let mut register = Register::new();
    register.measure("separator", &[&SEPARATOR]);
    register
}

/// PCR 4: the programs that the firmware loads. The inner result is why they are not known.
pub(super) fn boot_programs(loader: &Program, stub: &Stub) -> Result<Result<Register, String>, PcrError> {
    let mut register = Register::new();
    register.measure("boot action", &[BOOT_ACTION]);
    register.measure("separator", &[&SEPARATOR]);
    register.extend(format!("{}", loader.blob()), loader.authenticode()?);
    match stub {
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
                "{} is not a unified kernel image: what it starts is unknown; up to its own start, PCR 4 is {}",
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
    let SecureBoot { pk, kek, db, dbx, authority } = keys;
    let on = !pk.is_empty();
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
            authority.as_ref().ok_or("db has several entries, one of which will admit the loader")?;
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

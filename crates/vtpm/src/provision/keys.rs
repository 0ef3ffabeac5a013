// SPDX-License-Identifier: Apache-2.0
//! The keys at their handles.

use cvmm_tpm::constants::{place, rh};
use cvmm_tpm::{Public, template};

use super::talk::{Permanent, Talk};
use super::{Ek, ProvisionError};

/// The attestation key, made from the seed and persistent.
pub fn attestation(talk: &mut Talk<'_>) -> Result<Public, ProvisionError> {
    let template = template::ak();
    let (handle, public) = talk.create_primary(rh::PLATFORM, &template)?;
    let placed = place_attestation(talk, handle, &public);
    talk.flush(handle)?;
    placed?;
    if public.is_of(&template) { Ok(public) } else { Err(ProvisionError::Key("attestation key")) }
}

fn place_attestation(talk: &mut Talk<'_>, handle: u32, public: &Public) -> Result<(), ProvisionError> {
    match talk.public(place::AK)? {
        Some(Some(there)) if there == *public => return Ok(()),
        Some(_) => {
            cvmm_log_limit::warn!("another key is where the TPM's attestation key belongs: it is replaced");
            talk.evict(rh::PLATFORM, place::AK, place::AK)?;
        }
        None => {}
    }
    talk.evict(rh::PLATFORM, handle, place::AK)
}

/// An endorsement key: the persistent one if it is the one on record, otherwise one made from the seed.
pub fn endorsement(
    talk: &mut Talk<'_>,
    ek: Ek,
    recorded: Option<&Public>,
    permanent: Permanent,
) -> Result<Public, ProvisionError> {
    let there = talk.public(ek.handle())?;
    if let (Some(Some(there)), Some(recorded)) = (&there, recorded)
        && there == recorded
    {
        return Ok(there.clone());
    }
    // To make it takes the endorsement hierarchy's authorisation, to keep it the owner's. The seed is the same as ever: who changes
    // that also clears these authorisations.
    if (permanent.endorsement_auth() || permanent.owner_auth())
        && let Some(recorded) = recorded
    {
        cvmm_log_limit::warn!(
            "the guest has removed the TPM's {} and set an authorisation: it is not restored",
            ek.name()
        );
        return Ok(recorded.clone());
    }
    let template = ek.template();
    if permanent.endorsement_auth() {
        // A TPM that was made elsewhere and is owned already.
        return match there {
            Some(Some(there)) if there.is_of(&template) => Ok(there),
            _ => Err(ProvisionError::Auth { key: ek.name() }),
        };
    }
    let (handle, public) = talk.create_primary(rh::ENDORSEMENT, &template)?;
    let placed = match there {
        Some(Some(there)) if there == public => Ok(()),
        _ if permanent.owner_auth() => {
            cvmm_log_limit::warn!(
                "the guest has set the owner's authorisation: the {} is not made persistent",
                ek.name()
            );
            Ok(())
        }
        there => place_endorsement(talk, ek, handle, there.is_some()),
    };
    talk.flush(handle)?;
    placed?;
    if public.is_of(&template) { Ok(public) } else { Err(ProvisionError::Key(ek.name())) }
}

fn place_endorsement(talk: &mut Talk<'_>, ek: Ek, handle: u32, occupied: bool) -> Result<(), ProvisionError> {
    if occupied {
        cvmm_log_limit::warn!("another key is where the TPM's {} belongs: it is replaced", ek.name());
        talk.evict(rh::PLATFORM, ek.handle(), ek.handle())?;
    }
    match talk.evict(rh::OWNER, handle, ek.handle()) {
        // A guest that has filled the TPM is none the worse for it.
        Err(ProvisionError::Refused { command, code }) => {
            cvmm_log_limit::warn!(
                command,
                code = format_args!("{code:#x}"),
                "the {} is not made persistent",
                ek.name()
            );
            Ok(())
        }
        result => result,
    }
}

/// A handle of an endorsement key for one use, and whether it has to be unloaded afterwards.
pub fn load(
    talk: &mut Talk<'_>,
    ek: Ek,
    recorded: Option<&Public>,
    permanent: Permanent,
) -> Result<(u32, bool), ProvisionError> {
    let template = ek.template();
    if let Some(Some(there)) = talk.public(ek.handle())?
        && recorded.map_or(there.is_of(&template), |recorded| there == *recorded)
    {
        return Ok((ek.handle(), false));
    }
    if permanent.endorsement_auth() {
        return Err(ProvisionError::Auth { key: ek.name() });
    }
    Ok((talk.create_primary(rh::ENDORSEMENT, &template)?.0, true))
}

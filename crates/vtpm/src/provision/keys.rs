// SPDX-License-Identifier: Apache-2.0
//! Creation and placement of the keys.

use cvmm_tpm::constants::{place, rh};
use cvmm_tpm::{Public, template};

use super::talk::{Permanent, Talk};
use super::{Ek, ProvisionError};

/// Creates the attestation key from the seed and makes it persistent.
pub(super) fn attestation(talk: &mut Talk<'_>) -> Result<Public, ProvisionError> {
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
            cvmm_log_limit::warn!("replacing a different key at the handle of the TPM's attestation key");
            talk.evict(rh::PLATFORM, place::AK, place::AK)?;
        }
        None => {}
    }
    talk.evict(rh::PLATFORM, handle, place::AK)
}

/// Returns an endorsement key: the persistent one if it matches the record, otherwise one created from the
/// seed.
pub(super) fn endorsement(
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
    // Creating it requires the endorsement hierarchy's authorisation, making it persistent the owner's. The
    // seed is unchanged, since changing it also clears these authorisations.
    if (permanent.endorsement_auth() || permanent.owner_auth())
        && let Some(recorded) = recorded
    {
        cvmm_log_limit::warn!(
            "the guest has removed the TPM's {} and set an authorisation: not restoring the key",
            ek.name()
        );
        return Ok(recorded.clone());
    }
    let template = ek.template();
    if permanent.endorsement_auth() {
        // A TPM that was created elsewhere and already has an owner.
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
                "the guest has set the owner's authorisation: not making the {} persistent",
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
        cvmm_log_limit::warn!("replacing a different key at the handle of the TPM's {}", ek.name());
        talk.evict(rh::PLATFORM, ek.handle(), ek.handle())?;
    }
    match talk.evict(rh::OWNER, handle, ek.handle()) {
        // The guest may have filled the NV memory; this does not affect it.
        Err(ProvisionError::Refused { command, code }) => {
            cvmm_log_limit::warn!(
                command,
                code = format_args!("{code:#x}"),
                "cannot make the {} persistent",
                ek.name()
            );
            Ok(())
        }
        result => result,
    }
}

/// Returns a handle of an endorsement key, and whether it must be flushed after use.
pub(super) fn load(
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

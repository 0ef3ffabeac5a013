// SPDX-License-Identifier: Apache-2.0
//! TPM2_ActivateCredential: proves that the attestation key and an endorsement key are in the same TPM.

use cvmm_tpm::constants::{alg, cc, place, rh, se};
use cvmm_tpm::{Command, HashAlg};
use zeroize::Zeroizing;

use super::talk::{Permanent, Talk};
use super::{Ek, ProvisionError, keys, record};
use crate::engine::TpmEngine;

/// PolicyA with SHA-384: PolicySecret(TPM_RH_ENDORSEMENT) (TCG EK Credential Profile 2.5, B.6.2).
const POLICY_A_SHA384: [u8; 48] = [
    0x8b, 0xbf, 0x22, 0x66, 0x53, 0x7c, 0x17, 0x1c, 0xb5, 0x6e, 0x40, 0x3c, 0x4d, 0xc1, 0xd4, 0xb6, 0x4f,
    0x43, 0x26, 0x11, 0xdc, 0x38, 0x6e, 0x6f, 0x53, 0x20, 0x50, 0xc3, 0x27, 0x8c, 0x93, 0x0e, 0x14, 0x3e,
    0x8b, 0xb1, 0x13, 0x38, 0x24, 0xcc, 0xb4, 0x31, 0x05, 0x38, 0x71, 0xc6, 0xdb, 0x53,
];

/// PolicyC with SHA-384: PolicyAuthorizeNV of index 0x01c07f02 (B.6.3); the other branch of PolicyB.
const POLICY_C_SHA384: [u8; 48] = [
    0xd6, 0x03, 0x2c, 0xe6, 0x1f, 0x2f, 0xb3, 0xc2, 0x40, 0xeb, 0x3c, 0xf6, 0xa3, 0x32, 0x37, 0xef, 0x2b,
    0x6a, 0x16, 0xf4, 0x29, 0x3c, 0x22, 0xb4, 0x55, 0xe2, 0x61, 0xcf, 0xfd, 0x21, 0x7a, 0xd5, 0xb4, 0x94,
    0x7c, 0x2d, 0x73, 0xe6, 0x30, 0x05, 0xee, 0xd2, 0xdc, 0x2b, 0x35, 0x93, 0xd1, 0x65,
];

/// Decrypts a credential for the attestation key's name and an endorsement key: the contents of a
/// `TPM2B_ID_OBJECT` and a `TPM2B_ENCRYPTED_SECRET`. Call it after [`provision`](super::provision()).
pub fn activate(
    engine: &mut dyn TpmEngine,
    ek: Ek,
    blob: &[u8],
    secret: &[u8],
) -> Result<Zeroizing<Vec<u8>>, ProvisionError> {
    let mut talk = Talk(engine);
    let permanent = talk.permanent()?;
    let record = record::read(&mut talk)?;
    let recorded = record.as_ref().map(|record| match ek {
        Ek::Rsa => &record.ek_rsa,
        Ek::Ecc => &record.ek_ecc,
    });
    let (key, transient) = keys::load(&mut talk, ek, recorded, permanent)?;
    let opened = with_key(&mut talk, ek, key, permanent, blob, secret);
    if transient {
        talk.flush(key)?;
    }
    opened
}

fn with_key(
    talk: &mut Talk<'_>,
    ek: Ek,
    key: u32,
    permanent: Permanent,
    blob: &[u8],
    secret: &[u8],
) -> Result<Zeroizing<Vec<u8>>, ProvisionError> {
    let name = "TPM2_ActivateCredential";
    let command = Command::new(cc::ACTIVATE_CREDENTIAL).handle(place::AK).handle(key).password(&[]);
    let read = |_: &[u32], reader: &mut cvmm_tpm::wire::Reader<'_>| {
        Ok(Zeroizing::new(reader.sized("certInfo", 64)?.to_vec()))
    };
    if permanent.endorsement_auth() {
        // The key's policy requires an authorisation that only the guest knows. The ECC key also has its own
        // authorisation, which is sufficient.
        return match ek {
            Ek::Rsa => Err(ProvisionError::Auth { key: ek.name() }),
            Ek::Ecc => {
                let opened = talk.run(name, command.password(&[]).sized(blob).sized(secret), 0, read);
                talk.shutdown()?;
                opened
            }
        };
    }
    let session = start_policy(talk, ek)?;
    let opened = satisfy(talk, ek, session)
        .and_then(|()| talk.run(name, command.policy(session).sized(blob).sized(secret), 0, read));
    talk.flush(session)?;
    opened
}

/// A policy session with the key's hash.
fn start_policy(talk: &mut Talk<'_>, ek: Ek) -> Result<u32, ProvisionError> {
    let hash = match ek {
        Ek::Rsa => HashAlg::Sha256,
        Ek::Ecc => HashAlg::Sha384,
    };
    let command = Command::new(cc::START_AUTH_SESSION)
        .handle(rh::NULL)
        .handle(rh::NULL)
        // The nonce is used for HMACs, which this session does not use.
        .sized(&[0; 16])
        .sized(&[])
        .u8(se::POLICY)
        .u16(alg::NULL)
        .u16(hash.id());
    talk.run("TPM2_StartAuthSession", command, 1, |handles, _| {
        Ok(handles.first().copied().unwrap_or_default())
    })
}

/// PolicyA, or PolicyB by its first branch.
fn satisfy(talk: &mut Talk<'_>, ek: Ek, session: u32) -> Result<(), ProvisionError> {
    let secret = Command::new(cc::POLICY_SECRET)
        .handle(rh::ENDORSEMENT)
        .handle(session)
        .password(&[])
        // nonceTPM, cpHashA, policyRef: none; no expiration.
        .sized(&[])
        .sized(&[])
        .sized(&[])
        .u32(0);
    talk.order("TPM2_PolicySecret", secret)?;
    match ek {
        Ek::Rsa => Ok(()),
        Ek::Ecc => {
            let either = Command::new(cc::POLICY_OR)
                .handle(session)
                .u32(2)
                .sized(&POLICY_A_SHA384)
                .sized(&POLICY_C_SHA384);
            talk.order("TPM2_PolicyOR", either)
        }
    }
}

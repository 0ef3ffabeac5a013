// SPDX-License-Identifier: Apache-2.0
//! The gate's ticket for a first stage.
//!
//! It has a fixed binary format instead of the JSON that VMMs get, because the first program in a guest
//! parses it. The gate signs it with its verdict key over a unique label, so one kind of ticket cannot be
//! mistaken for the other. It is bound to the stage's key, which exists for one start of one guest, and to
//! its report: a recorded ticket is useless.

use hpke::aead::{AeadTag, AesGcm256};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem as _, OpModeR, Serializable};
use p384::ecdsa::signature::Verifier;
use p384::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest, Sha384};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::stop::Stop;

/// "CVMMTKT1"
pub const MAGIC: [u8; 8] = *b"CVMMTKT1";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Label at the start of the signed data.
pub const LABEL: &[u8] = b"cvmm first-stage ticket v1\0";
/// HPKE's info.
pub const INFO: &[u8] = b"cvmm first-stage secrets v1";
/// Bytes of a signature: R and S, big-endian.
pub const SIGNATURE: usize = 96;
/// Bytes of an AEAD tag.
pub const TAG: usize = 16;
/// Longest sealed secrets, in bytes.
pub const MAX_SEALED: usize = 4096;
/// Longest ticket, in bytes.
pub const MAX_TICKET: usize = size_of::<Head>() + MAX_SEALED + SIGNATURE;
/// Generous upper bound for the frequency of a processor's time stamp counter, in Hz.
const MAX_TSC_HZ: u64 = 6_000_000_000;

/// The first part. The sealed secrets and the signature follow.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Head {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: U32,
    /// Seconds for which it is valid, counted from the evidence.
    pub lifetime: U32,
    /// The gate's nonce.
    pub nonce: [u8; 32],
    /// The stage's key.
    pub key: [u8; 32],
    /// SHA-384 of the report.
    pub report: [u8; 48],
    /// SHA-384 of the VM's name.
    pub vm_id: [u8; 48],
    /// SHA-384 of the policy that admitted the guest.
    pub policy: [u8; 48],
    /// Number of tickets that were issued for the VM.
    pub epoch: U64,
    /// HPKE's encapsulated key; zeros without secrets.
    pub enc: [u8; 32],
    /// Bytes of the sealed secrets, tag included; 0 without.
    pub sealed_len: U32,
    /// Zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<Head>() == 272);

/// The values that a ticket must match.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The gate's nonce.
    pub nonce: &'a [u8; 32],
    /// The stage's public key.
    pub key: &'a [u8; 32],
    /// The stage's report.
    pub report: &'a [u8],
    /// The VM's name.
    pub vm_id: &'a [u8],
    /// Ticks of the time stamp counter since the evidence was made.
    pub ticks: u64,
}

/// A verified ticket of this stage.
#[derive(Debug)]
pub struct Ticket<'a> {
    head: &'a Head,
    head_bytes: &'a [u8],
    sealed: &'a mut [u8],
}

/// SHA-384.
#[must_use]
pub fn sha384(bytes: &[u8]) -> [u8; 48] {
    Sha384::digest(bytes).into()
}

/// Verifies the signature over the label, the head and the sealed secrets.
fn verify(
    key: &VerifyingKey,
    signed: &[u8],
    signature: &[u8; SIGNATURE],
    scratch: &mut [u8],
) -> Result<(), Stop> {
    let all = scratch.get_mut(..LABEL.len() + signed.len()).ok_or(Stop::TicketForm)?;
    all[..LABEL.len()].copy_from_slice(LABEL);
    all[LABEL.len()..].copy_from_slice(signed);
    let signature = Signature::from_slice(signature).map_err(|_| Stop::TicketSignature)?;
    key.verify(all, &signature).map_err(|_| Stop::TicketSignature)
}

/// Verifies a ticket with the gate's key (an uncompressed point) against what is expected.
///
/// # Errors
/// The [`Stop`] says which part does not match. The signature is checked first: unsigned data is never
/// compared.
pub fn open<'a>(bytes: &'a mut [u8], gate: &[u8], expected: &Expected<'_>) -> Result<Ticket<'a>, Stop> {
    let gate = VerifyingKey::from_sec1_bytes(gate).map_err(|_| Stop::Params)?;
    if bytes.len() > MAX_TICKET {
        return Err(Stop::TicketForm);
    }
    let signed_len = bytes.len().checked_sub(SIGNATURE).ok_or(Stop::TicketForm)?;
    let (signed, signature) = bytes.split_at_mut(signed_len);
    let signature = signature.first_chunk::<SIGNATURE>().ok_or(Stop::TicketForm)?;
    verify(&gate, signed, signature, &mut [0; LABEL.len() + MAX_TICKET])?;
    let (head_bytes, sealed) = signed.split_at_mut_checked(size_of::<Head>()).ok_or(Stop::TicketForm)?;
    let head_bytes: &'a [u8] = head_bytes;
    let head = Head::ref_from_bytes(head_bytes).map_err(|_| Stop::TicketForm)?;
    let form = head.magic == MAGIC
        && head.version.get() == VERSION
        && head.reserved.get() == 0
        && head.sealed_len.get() as usize == sealed.len()
        && (sealed.is_empty() || sealed.len() > TAG);
    for (good, stop) in [
        (form, Stop::TicketForm),
        (head.nonce == *expected.nonce, Stop::TicketNonce),
        (head.key == *expected.key, Stop::TicketKey),
        (head.report == sha384(expected.report), Stop::TicketReport),
        (head.vm_id == sha384(expected.vm_id), Stop::TicketVm),
        (expected.ticks / MAX_TSC_HZ <= u64::from(head.lifetime.get()), Stop::TicketLate),
    ] {
        if !good {
            return Err(stop);
        }
    }
    Ok(Ticket { head, head_bytes, sealed })
}

impl<'a> Ticket<'a> {
    /// Decrypts the secrets in place with the stage's private key. Empty if there are none.
    pub fn secrets(self, private: &PrivateKey) -> Result<&'a mut [u8], Stop> {
        let Self { head, head_bytes, sealed } = self;
        if sealed.is_empty() {
            return Ok(sealed);
        }
        let no = |_| Stop::SecretsOpen;
        let enc = <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(&head.enc).map_err(no)?;
        let (secret, tag) = sealed.split_at_mut(sealed.len() - TAG);
        let tag = AeadTag::<AesGcm256>::from_bytes(tag).map_err(no)?;
        hpke::setup_receiver::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private.0,
            &enc,
            INFO,
        )
        .and_then(|mut context| context.open_in_place_detached(secret, head_bytes_aad(head_bytes), &tag))
        .map_err(no)?;
        Ok(secret)
    }
}

/// The data that is authenticated with the secrets: the head up to the encapsulated key.
#[must_use]
pub fn head_bytes_aad(head: &[u8]) -> &[u8] {
    &head[..core::mem::offset_of!(Head, enc)]
}

/// The stage's key, generated for one start. Zeroized when dropped (by the X25519 library).
pub struct PrivateKey(<X25519HkdfSha256 as hpke::Kem>::PrivateKey);

impl core::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// Derives the key from 32 secret bytes (RFC 9180, 7.1.3, DeriveKeyPair); returns the public half too.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> (Self, [u8; 32]) {
        let (private, public) = X25519HkdfSha256::derive_keypair(secret);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&public.to_bytes());
        (Self(private), bytes)
    }
}

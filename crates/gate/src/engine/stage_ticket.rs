// SPDX-License-Identifier: Apache-2.0
//! Tickets for first stages: signed with the verdict key, with the VM's secrets sealed to the stage's key
//! (HPKE, RFC 9180, base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM).

use cvmm_first_stage::ticket::{Head, INFO, LABEL, MAGIC, TAG, VERSION, head_bytes_aad, sha384};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{CryptoRng, RngCore, impls};
use hpke::{Deserializable, Kem, OpModeS, Serializable};
use thiserror::Error;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::keys::{KeysError, Signer};

/// Why there is no ticket.
#[derive(Debug, Error)]
pub(super) enum StageTicketError {
    /// Not an X25519 key.
    #[error("the first stage's key is not a valid X25519 public key")]
    Key,
    /// The signature.
    #[error(transparent)]
    Sign(#[from] KeysError),
}

/// What a ticket is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage<'a> {
    /// The gate's nonce.
    pub nonce: &'a [u8; 32],
    /// The stage's key.
    pub key: &'a [u8; 32],
    /// Its report.
    pub report: &'a [u8],
    /// The VM's name.
    pub vm_id: &'a str,
    /// SHA-384 of the policy.
    pub policy: &'a [u8; 48],
    /// Number of the VM's admissions.
    pub epoch: u64,
    /// Seconds that it is valid.
    pub lifetime: u32,
}

/// Makes the ticket. `table` has the secrets; it is empty without any.
pub(super) fn make(stage: &Stage<'_>, table: &[u8], signer: &Signer) -> Result<Vec<u8>, StageTicketError> {
    let Stage { nonce, key, report, vm_id, policy, epoch, lifetime } = *stage;
    let sealed_len = if table.is_empty() { 0 } else { table.len() + TAG };
    let mut head = Head {
        magic: MAGIC,
        version: U32::new(VERSION),
        lifetime: U32::new(lifetime),
        nonce: *nonce,
        key: *key,
        report: sha384(report),
        vm_id: sha384(vm_id.as_bytes()),
        policy: *policy,
        epoch: U64::new(epoch),
        enc: [0; 32],
        // A table has at most a few kilobytes.
        sealed_len: U32::new(sealed_len as u32),
        reserved: U32::new(0),
    };
    let mut sealed = Vec::new();
    if !table.is_empty() {
        let to = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(key).map_err(|_| StageTicketError::Key)?;
        let (enc, mut context) = hpke::setup_sender::<AesGcm256, HkdfSha256, X25519HkdfSha256, _>(
            &OpModeS::Base,
            &to,
            INFO,
            &mut Random,
        )
        .map_err(|_| StageTicketError::Key)?;
        head.enc.copy_from_slice(&enc.to_bytes());
        sealed = table.to_vec();
        let tag = context
            .seal_in_place_detached(&mut sealed, head_bytes_aad(head.as_bytes()))
            .map_err(|_| StageTicketError::Key)?;
        sealed.extend_from_slice(&tag.to_bytes());
    }
    let mut signed = LABEL.to_vec();
    signed.extend_from_slice(head.as_bytes());
    signed.extend_from_slice(&sealed);
    let signature = signer.sign(&signed)?;
    let mut ticket = signed.split_off(LABEL.len());
    ticket.extend_from_slice(&signature);
    Ok(ticket)
}

/// The library's random number generator, in the form that HPKE takes.
struct Random;

impl CryptoRng for Random {}

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        impls::next_u64_via_fill(self)
    }

    #[expect(clippy::expect_used, reason = "AWS-LC itself aborts the process when there is no entropy")]
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("random numbers");
    }
}

#[cfg(test)]
mod tests {
    use cvmm_first_stage::stop::Stop;
    use cvmm_first_stage::ticket::{Expected, MAX_TICKET, PrivateKey, open};

    use super::*;
    use crate::keys::generate;

    const REPORT: &[u8] = &[7; 1184];

    struct Gate {
        _folder: tempfile::TempDir,
        signer: Signer,
    }

    fn gate() -> Gate {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("verdict.pem");
        generate(&path).unwrap();
        Gate { signer: Signer::load(&path).unwrap(), _folder: folder }
    }

    fn table() -> Vec<u8> {
        let mut table = vec![0; 200];
        let len = cvmm_first_stage::secrets::write(&[([5; 16], b"the disk's key")], &mut table).unwrap();
        table.truncate(len);
        table
    }

    fn expected(key: &[u8; 32]) -> Expected<'_> {
        Expected { nonce: &[1; 32], key, report: REPORT, vm_id: b"vm", ticks: 0 }
    }

    fn stage(key: &[u8; 32]) -> Stage<'_> {
        Stage { nonce: &[1; 32], key, report: REPORT, vm_id: "vm", policy: &[2; 48], epoch: 3, lifetime: 60 }
    }

    #[test]
    fn a_stage_opens_its_own_ticket_only() {
        let gate = gate();
        let point = *gate.signer.public().unwrap().point();
        let (private, key) = PrivateKey::derive(&[9; 32]);
        let (other, other_key) = PrivateKey::derive(&[8; 32]);
        let ticket = make(&stage(&key), &table(), &gate.signer).unwrap();
        assert!(ticket.len() < MAX_TICKET);
        let mut bytes = ticket.clone();
        let opened = open(&mut bytes, &point, &expected(&key)).unwrap();
        assert_eq!(opened.secrets(&private).unwrap(), table());
        let mut bytes = ticket.clone();
        let stolen = open(&mut bytes, &point, &expected(&key)).unwrap().secrets(&other);
        assert_eq!(stolen.unwrap_err(), Stop::SecretsOpen);
        let mut bytes = make(&stage(&key), &[], &gate.signer).unwrap();
        assert!(open(&mut bytes, &point, &expected(&key)).unwrap().secrets(&private).unwrap().is_empty());

        let stop = |ticket: &[u8], point: &[u8], expected: &Expected<'_>| {
            open(&mut ticket.to_vec(), point, expected).map(|_| ()).unwrap_err()
        };
        let own = expected(&key);
        for (wanted, changed) in [
            (Stop::TicketNonce, Expected { nonce: &[2; 32], ..own }),
            (Stop::TicketKey, Expected { key: &other_key, ..own }),
            (Stop::TicketReport, Expected { report: &[8; 1184], ..own }),
            (Stop::TicketVm, Expected { vm_id: b"vm2", ..own }),
            (Stop::TicketLate, Expected { ticks: 61 * 6_000_000_000, ..own }),
        ] {
            assert_eq!(stop(&ticket, &point, &changed), wanted);
        }
        let foreign = self::gate();
        assert_eq!(stop(&ticket, foreign.signer.public().unwrap().point(), &own), Stop::TicketSignature);
        assert_eq!(stop(&ticket, &[4; 97], &own), Stop::Params);
        let verdict = [0; 100];
        assert_eq!(stop(&verdict, &point, &own), Stop::TicketSignature);
        for len in 0..ticket.len() {
            let expected = if len < 96 { Stop::TicketForm } else { Stop::TicketSignature };
            assert_eq!(stop(&ticket[..len], &point, &own), expected, "cut at {len}");
        }
        assert_eq!(stop(&vec![0; MAX_TICKET + 1], &point, &own), Stop::TicketForm);
        for at in (0..ticket.len()).step_by(7) {
            let mut bytes = ticket.clone();
            bytes[at] ^= 0x20;
            assert_eq!(stop(&bytes, &point, &own), Stop::TicketSignature, "byte {at}");
        }
    }

    #[test]
    fn a_signed_ticket_of_another_form_is_refused() {
        let gate = gate();
        let point = *gate.signer.public().unwrap().point();
        let (_, key) = PrivateKey::derive(&[9; 32]);
        let good = make(&stage(&key), &table(), &gate.signer).unwrap();
        let sign = |body: &[u8]| {
            let signature = gate.signer.sign(&[LABEL, body].concat()).unwrap();
            [body, &signature].concat()
        };
        let body = &good[..good.len() - 96];
        assert!(open(&mut sign(body), &point, &expected(&key)).is_ok());
        let mut longer = body.to_vec();
        longer.push(0);
        let mut version = body.to_vec();
        version[8] = 2;
        let mut reserved = body.to_vec();
        reserved[268] = 1;
        for body in [longer, version, reserved, body[..100].to_vec(), vec![]] {
            let stop = open(&mut sign(&body), &point, &expected(&key)).map(|_| ()).unwrap_err();
            assert_eq!(stop, Stop::TicketForm);
        }
    }
}

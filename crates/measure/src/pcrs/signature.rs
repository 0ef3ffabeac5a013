// SPDX-License-Identifier: Apache-2.0
//! Signed PCR policies in an image's section `.pcrsig`.
//!
//! The section is JSON: for each bank a list of `{pcrs, pkfp, pol, sig}`. `pol` is the digest of a TPM policy
//! that requires one value of PCR 11 (TPM2_PolicyPCR), so it says for which phase the signature is. The
//! signatures are shown, not verified: the TPM does that when a secret is unsealed, with the key it was
//! sealed for.

use cvmm_launch::kernel::Program;
use cvmm_tpm::HashAlg;
use cvmm_tpm::pcr::{Selection, write_selections};
use cvmm_tpm::wire::Writer;
use serde::{Deserialize, Serialize};

use super::{BANK, PcrError, PcrState, sha256};

/// Longest section that is read, in bytes: each signature takes about one KiB.
const MAX_SECTION: u64 = 256 << 10;
/// Most signatures that are shown.
const MAX_SIGNATURES: usize = 64;
/// TPM_CC_PolicyPCR
const POLICY_PCR: u32 = 0x17f;

/// A signed policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PcrSignature {
    /// SHA-256 of the public key, in hexadecimal digits.
    pub key: String,
    /// The PCRs of the policy.
    pub pcrs: Vec<u8>,
    /// Digest of the policy, in hexadecimal digits.
    pub policy: String,
    /// The phase whose value of PCR 11 the policy requires; none if it is not one of those predicted.
    pub phase: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    pcrs: Vec<u8>,
    #[serde(default)]
    pkfp: String,
    #[serde(default)]
    pol: String,
}

#[derive(Deserialize)]
struct Banks {
    #[serde(default)]
    sha256: Vec<Entry>,
}

/// Reads the signatures of `program`; none if the section is missing or is not what it should be.
pub(super) fn read(program: &Program, states: &[PcrState]) -> Result<Vec<PcrSignature>, PcrError> {
    let Some(section) = program.sections().iter().find(|section| section.name == b".pcrsig") else {
        return Ok(Vec::new());
    };
    let Some(bytes) = program.section_bytes(section, MAX_SECTION)? else { return Ok(Vec::new()) };
    let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let Ok(banks) = serde_json::from_slice::<Banks>(bytes.get(..len).unwrap_or_default()) else {
        return Ok(Vec::new());
    };
    let policies: Vec<(String, &PcrState)> =
        states.iter().filter_map(|state| Some((policy(&hex::decode(&state.value).ok()?), state))).collect();
    let entries = banks.sha256.into_iter().take(MAX_SIGNATURES);
    Ok(entries
        .map(|Entry { pcrs, pkfp, pol }| {
            let found = policies.iter().find(|(policy, _)| pcrs == [11] && *policy == pol.to_lowercase());
            let phase = found.and_then(|(_, state)| state.phase.clone());
            PcrSignature { key: printable(&pkfp), pcrs, policy: printable(&pol), phase }
        })
        .collect())
}

/// Digits of a digest, or nothing: the text is from the image.
fn printable(text: &str) -> String {
    if text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        text.to_owned()
    } else {
        String::new()
    }
}

/// The digest of a policy that requires `value` in PCR 11 (TPM 2.0 part 3, TPM2_PolicyPCR).
fn policy(value: &[u8]) -> String {
    let mut selections = Writer::new();
    write_selections(&mut selections, &vec![Selection::of(HashAlg::Sha256, &[11])]);
    let values = BANK.digest(&[value]);
    hex::encode(sha256(&[&[0; 32], &POLICY_PCR.to_be_bytes(), &selections.into_bytes(), &values]))
}

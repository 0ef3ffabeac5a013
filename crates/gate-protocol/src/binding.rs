// SPDX-License-Identifier: Apache-2.0
//! What binds evidence to one challenge.
//!
//! Each value begins with a label of its own, and every part has its length before it, so no two purposes and
//! no two splits have the same bytes.

use aws_lc_rs::digest::{Context, SHA256, SHA384, digest};
use aws_lc_rs::hmac;
use cvmm_snp::digest::Digest;

use crate::messages::NONCE_LEN;

/// What a guest's report is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// An appraisal, nothing else.
    Attest,
    /// The release of keys.
    Release,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Attest => b"cvmm report data v1: attest",
            Self::Release => b"cvmm report data v1: release",
        }
    }
}

/// SHA-384 of `bytes`, as the protocol has it of manifests and policies.
#[must_use]
pub fn sha384(bytes: &[u8]) -> Digest {
    let mut out = Digest::ZERO;
    // SHA-384 has as many bytes as Digest.
    out.0.copy_from_slice(digest(&SHA384, bytes).as_ref());
    out
}

/// HOST_DATA of a launch that was approved for `manifest` (its text), `nonce` and a policy's digest.
#[must_use]
pub fn host_data(manifest: &[u8], nonce: &[u8; NONCE_LEN], policy: &Digest) -> [u8; 32] {
    let manifest = digest(&SHA384, manifest);
    sha256(&[b"cvmm host data v1", manifest.as_ref(), nonce, &policy.0])
}

/// REPORT_DATA of a guest's report for `nonce`: SHA-384, then 16 zero bytes. `key` is empty without a key.
#[must_use]
pub fn report_data(purpose: Purpose, nonce: &[u8; NONCE_LEN], vm_id: &str, key: &[u8]) -> [u8; 64] {
    padded_sha384(&[purpose.label(), nonce, vm_id.as_bytes(), key])
}

/// The parts of a quote that REPORT_DATA binds.
#[derive(Clone, Copy, Debug)]
pub struct QuoteBinding<'a> {
    /// Name of the attestation key.
    pub ak_name: &'a [u8],
    /// TPMS_ATTEST.
    pub attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub signature: &'a [u8],
}

/// qualifyingData of a guest's quote for `nonce`: SHA-256. `key` is empty without a key.
#[must_use]
pub fn quote_data(nonce: &[u8; NONCE_LEN], key: &[u8]) -> [u8; 32] {
    sha256(&[b"cvmm quote v1", nonce, key])
}

/// REPORT_DATA of a guest's report that goes with a quote: SHA-384, then 16 zero bytes. Report and quote
/// cannot be replaced separately.
#[must_use]
pub fn quoted_report_data(
    nonce: &[u8; NONCE_LEN],
    vm_id: &str,
    key: &[u8],
    quoted: &QuoteBinding<'_>,
) -> [u8; 64] {
    let mut quote = Context::new(&SHA384);
    quote.update(quoted.attest);
    quote.update(quoted.signature);
    let quote = quote.finish();
    let label = b"cvmm report data v1: attest+quote";
    padded_sha384(&[label, nonce, vm_id.as_bytes(), key, quoted.ak_name, quote.as_ref()])
}

/// REPORT_DATA of a first stage's report: SHA-384, then 16 zero bytes. `manifest` is the manifest's SHA-384.
#[must_use]
pub fn admit_report_data(nonce: &[u8; NONCE_LEN], vm_id: &str, key: &[u8], manifest: &Digest) -> [u8; 64] {
    padded_sha384(&[b"cvmm report data v1: admit", nonce, vm_id.as_bytes(), key, &manifest.0])
}

/// Proof that the client that resumes a lease has its key: HMAC-SHA-256 with the key.
#[must_use]
pub fn resume_proof(key: &[u8; 32], vm_id: &str, epoch: u64) -> [u8; 32] {
    let mut hash = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    fields(&[b"cvmm resume v1", vm_id.as_bytes(), &epoch.to_le_bytes()], |bytes| hash.update(bytes));
    let mut out = [0; 32];
    out.copy_from_slice(hash.sign().as_ref());
    out
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Context::new(&SHA256);
    fields(parts, |bytes| hash.update(bytes));
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

fn padded_sha384(parts: &[&[u8]]) -> [u8; 64] {
    let mut hash = Context::new(&SHA384);
    fields(parts, |bytes| hash.update(bytes));
    let mut out = [0; 64];
    out[..48].copy_from_slice(hash.finish().as_ref());
    out
}

/// Each part behind its length.
fn fields(parts: &[&[u8]], mut update: impl FnMut(&[u8])) {
    for part in parts {
        // A slice's length fits into a u64.
        update(&(part.len() as u64).to_le_bytes());
        update(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let nonce = [7; NONCE_LEN];
        let data = report_data(Purpose::Attest, &nonce, "vm", b"key");
        assert_eq!(&data[48..], &[0; 16]);
        for other in [
            report_data(Purpose::Release, &nonce, "vm", b"key"),
            report_data(Purpose::Attest, &[8; NONCE_LEN], "vm", b"key"),
            report_data(Purpose::Attest, &nonce, "vmk", b"ey"),
            report_data(Purpose::Attest, &nonce, "vm", b""),
        ] {
            assert_ne!(data, other);
        }
        assert_ne!(quote_data(&nonce, b"key"), quote_data(&nonce, b""));
        assert_ne!(quote_data(&nonce, b"key"), quote_data(&[8; NONCE_LEN], b"key"));
        let quoted = QuoteBinding { ak_name: b"ak", attest: b"attest", signature: b"signature" };
        let with = quoted_report_data(&nonce, "vm", b"key", &quoted);
        assert_eq!(&with[48..], &[0; 16]);
        for other in [
            data,
            quoted_report_data(&[8; NONCE_LEN], "vm", b"key", &quoted),
            quoted_report_data(&nonce, "vmk", b"ey", &quoted),
            quoted_report_data(&nonce, "vm", b"", &quoted),
            quoted_report_data(&nonce, "vm", b"key", &QuoteBinding { ak_name: b"a", ..quoted }),
            quoted_report_data(&nonce, "vm", b"key", &QuoteBinding { attest: b"attesT", ..quoted }),
            quoted_report_data(&nonce, "vm", b"key", &QuoteBinding { signature: b"", ..quoted }),
        ] {
            assert_ne!(with, other);
        }
        let host = host_data(b"{}", &nonce, &Digest::ZERO);
        for other in [
            host_data(b"{} ", &nonce, &Digest::ZERO),
            host_data(b"{}", &[8; NONCE_LEN], &Digest::ZERO),
            host_data(b"{}", &nonce, &Digest([1; 48])),
        ] {
            assert_ne!(host, other);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! REPORT_DATA of the stage's report: SHA-384, then 16 zero bytes.
//!
//! The hash is over a unique label, the gate's nonce, the VM's name, the stage's key and SHA-384 of the
//! manifest, each with its length (64 bits, little-endian) before it. The gate computes the same with another
//! library.

use sha2::{Digest, Sha384};

/// Label at the start of the hash, used for no other report.
pub const LABEL: &[u8] = b"cvmm report data v1: admit";

/// REPORT_DATA of an admission.
#[must_use]
pub fn admit(nonce: &[u8; 32], vm_id: &[u8], key: &[u8; 32], manifest: &[u8; 48]) -> [u8; 64] {
    let mut hash = Sha384::new();
    for field in [LABEL, nonce, vm_id, key, manifest] {
        // The length of a slice always fits in a u64.
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    let mut out = [0; 64];
    out[..48].copy_from_slice(&hash.finalize());
    out
}

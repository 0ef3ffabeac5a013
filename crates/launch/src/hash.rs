// SPDX-License-Identifier: Apache-2.0
//! SHA-384 as a [`Digest`].

use aws_lc_rs::digest::{SHA384, digest};
use cvmm_snp::digest::Digest;

/// SHA-384 of `bytes`.
pub(crate) fn sha384(bytes: &[u8]) -> Digest {
    sha384_value(digest(&SHA384, bytes))
}

/// A finished SHA-384.
pub(crate) fn sha384_value(value: aws_lc_rs::digest::Digest) -> Digest {
    let mut out = Digest::ZERO;
    // All callers hash with SHA-384, which is as long as a Digest.
    out.0.copy_from_slice(value.as_ref());
    out
}

// SPDX-License-Identifier: Apache-2.0
//! Errors of ID blocks.

use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;

/// An ID block or ID authentication that cannot be made, or is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The length is wrong.
    #[error("the {what} is {len} bytes long instead of {expected}")]
    Length {
        /// ID block or ID authentication.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The required length.
        expected: usize,
    },
    /// A field has an undefined value.
    #[error("field {field} of the ID {part} is {found:#x} instead of {expected:#x}")]
    Field {
        /// `block` or `authentication`.
        part: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: u32,
        /// The value it must have.
        expected: u32,
    },
    /// Reserved bytes are not zero: one key would have two digests.
    #[error("reserved bytes of the {0} are not zero")]
    Reserved(&'static str),
    /// A signature does not verify, or its key is not a point on the curve.
    #[error("the signature {0} is wrong")]
    Signature(&'static str),
    /// The launch digest differs.
    #[error("launch digest mismatch: the ID block has {found}, this launch has {expected}")]
    LaunchDigest {
        /// Digest in the block.
        found: Digest,
        /// Digest of the launch.
        expected: Digest,
    },
    /// The guest policy differs.
    #[error("guest policy mismatch: the ID block has {found}, this launch has {expected}")]
    Policy {
        /// Policy in the block.
        found: GuestPolicy,
        /// Policy of the launch.
        expected: GuestPolicy,
    },
    /// The key could not sign.
    #[error("the ID block could not be signed: {0}")]
    Sign(String),
    /// There is no public key for this signature; this is as unlikely as guessing a key.
    #[error("there is no public key for this ID block; change an ID in it")]
    Recovery,
}

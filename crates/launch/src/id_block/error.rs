// SPDX-License-Identifier: Apache-2.0
//! Why an ID block is not made, or not accepted.

use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;

/// An ID block or ID authentication that is not made, or not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The wrong number of bytes.
    #[error("the {what} is {len} bytes long instead of {expected}")]
    Length {
        /// Which of the two.
        what: &'static str,
        /// Bytes there are.
        len: usize,
        /// Bytes there must be.
        expected: usize,
    },
    /// A field has a value nothing is defined for.
    #[error("the field {field} of the id {part} is {found:#x} instead of {expected:#x}")]
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
    /// Bytes that must be zero are not: one key would have two digests.
    #[error("reserved bytes of the {0} are not zero")]
    Reserved(&'static str),
    /// A signature that is wrong, or of a key that is no point of the curve.
    #[error("the signature {0} is wrong")]
    Signature(&'static str),
    /// The block is for another launch.
    #[error("the id block is for the launch digest {found}, this launch has {expected}")]
    LaunchDigest {
        /// Digest in the block.
        found: Digest,
        /// Digest of the launch.
        expected: Digest,
    },
    /// The block is for another policy.
    #[error("the id block is for the guest policy {found}, this launch has {expected}")]
    Policy {
        /// Policy in the block.
        found: GuestPolicy,
        /// Policy of the launch.
        expected: GuestPolicy,
    },
    /// The key could not sign.
    #[error("the id block could not be signed: {0}")]
    Sign(String),
    /// No public key fits; the chance for it is that of guessing a key.
    #[error("no public key fits this id block; change an id in it")]
    Recovery,
}

// SPDX-License-Identifier: Apache-2.0
//! ID block and ID authentication: the guest owner's signed statement of what may be launched.
//!
//! The host hands both to LAUNCH_FINISH. The firmware checks the signature over the block, compares digest
//! and policy with what was launched, and refuses the guest if one of them differs. Reports then show SHA-384
//! of the two public-key structures. Source: firmware ABI 8.18, "ID Block Structure" and "ID Authentication
//! Information Structure", and chapter 10 for keys and signatures.
//!
//! Numbers of keys and signatures are little-endian in fields of 72 bytes, of which P-384 uses 48.

use std::fmt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::Digest;
use crate::layout::layout;
use crate::policy::GuestPolicy;

/// Version of the ID block.
pub const ID_BLOCK_VERSION: u32 = 1;
/// ECDSA P-384 with SHA-384.
pub const ALGORITHM_P384: u32 = 1;
/// Curve P-384.
pub const CURVE_P384: u32 = 2;
/// Bytes of a P-384 number.
pub const NUMBER_LEN: usize = 48;

/// A number of P-384 in AMD's form: little-endian, 72 bytes.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct Number([u8; 72]);

layout!(Number, 72, {});

impl Number {
    /// Converts from the usual big-endian form.
    pub fn from_be(bytes: &[u8; NUMBER_LEN]) -> Self {
        let mut number = [0; 72];
        for (to, from) in number.iter_mut().zip(bytes.iter().rev()) {
            *to = *from;
        }
        Self(number)
    }

    /// Converts to the big-endian form; `None` if the number is longer than P-384's.
    pub fn to_be(&self) -> Option<[u8; NUMBER_LEN]> {
        let (low, high) = self.0.split_at(NUMBER_LEN);
        if high.iter().any(|byte| *byte != 0) {
            return None;
        }
        let mut bytes = [0; NUMBER_LEN];
        for (to, from) in bytes.iter_mut().zip(low.iter().rev()) {
            *to = *from;
        }
        Some(bytes)
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        let used = self.0.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        self.0.iter().take(used).rev().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Public key. Its SHA-384 over all 1028 bytes is the key digest reports show.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EcPublicKey {
    /// [`CURVE_P384`].
    pub curve: U32,
    /// X coordinate.
    pub qx: Number,
    /// Y coordinate.
    pub qy: Number,
    /// Zero: another value would give one key a second digest.
    pub reserved: [u8; 880],
}

layout!(EcPublicKey, 1028, { curve: 0, qx: 4, qy: 76, reserved: 148 });

impl EcPublicKey {
    /// The P-384 key with these big-endian coordinates.
    pub fn p384(x: &[u8; NUMBER_LEN], y: &[u8; NUMBER_LEN]) -> Self {
        Self {
            curve: U32::new(CURVE_P384),
            qx: Number::from_be(x),
            qy: Number::from_be(y),
            reserved: [0; 880],
        }
    }
}

impl fmt::Debug for EcPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { curve, qx, qy, .. } = self;
        f.debug_struct("EcPublicKey").field("curve", &curve.get()).field("qx", qx).field("qy", qy).finish()
    }
}

/// ECDSA signature.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EcSignature {
    /// R.
    pub r: Number,
    /// S.
    pub s: Number,
    /// Zero.
    pub reserved: [u8; 368],
}

layout!(EcSignature, 512, { r: 0, s: 72, reserved: 144 });

impl EcSignature {
    /// The signature with these big-endian numbers.
    pub fn p384(r: &[u8; NUMBER_LEN], s: &[u8; NUMBER_LEN]) -> Self {
        Self { r: Number::from_be(r), s: Number::from_be(s), reserved: [0; 368] }
    }
}

impl fmt::Debug for EcSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EcSignature").field("r", &self.r).field("s", &self.s).finish()
    }
}

/// The guest owner's statement of what may be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdBlock {
    /// Expected launch digest.
    pub launch_digest: Digest,
    /// Free for the owner; in every report.
    pub family_id: [u8; 16],
    /// Free for the owner; in every report.
    pub image_id: [u8; 16],
    /// [`ID_BLOCK_VERSION`].
    pub version: U32,
    /// Security version of the guest; in every report.
    pub guest_svn: U32,
    /// Guest policy; must be that of LAUNCH_START.
    pub policy: U64,
}

layout!(IdBlock, 96, {
    launch_digest: 0, family_id: 48, image_id: 64, version: 80, guest_svn: 84, policy: 88,
});

impl IdBlock {
    /// The block for a digest and a policy, with ids and security version zero.
    pub fn new(launch_digest: Digest, policy: GuestPolicy) -> Self {
        Self {
            launch_digest,
            family_id: [0; 16],
            image_id: [0; 16],
            version: U32::new(ID_BLOCK_VERSION),
            guest_svn: U32::ZERO,
            policy: U64::new(policy.0),
        }
    }
}

/// The keys and signatures that authenticate an ID block.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdAuth {
    /// Algorithm of the ID key: [`ALGORITHM_P384`].
    pub id_key_algo: U32,
    /// Algorithm of the author key; zero without one.
    pub author_key_algo: U32,
    /// Zero.
    pub reserved1: [u8; 56],
    /// The ID key's signature over the ID block.
    pub id_block_sig: EcSignature,
    /// Public ID key.
    pub id_key: EcPublicKey,
    /// Zero.
    pub reserved2: [u8; 60],
    /// The author key's signature over the ID key.
    pub id_key_sig: EcSignature,
    /// Public author key; zero without one.
    pub author_key: EcPublicKey,
    /// Zero.
    pub reserved3: [u8; 892],
}

layout!(IdAuth, 4096, {
    id_key_algo: 0, author_key_algo: 4, reserved1: 8, id_block_sig: 64, id_key: 576, reserved2: 1604, id_key_sig: 1664,
    author_key: 2176, reserved3: 3204,
});

impl IdAuth {
    /// An authentication without an author key.
    pub fn new(id_key: EcPublicKey, id_block_sig: EcSignature) -> Self {
        let mut auth = Self::new_zeroed();
        auth.id_key_algo = U32::new(ALGORITHM_P384);
        auth.id_block_sig = id_block_sig;
        auth.id_key = id_key;
        auth
    }

    /// Whether there is an author key: AUTH_KEY_EN of LAUNCH_FINISH.
    pub fn has_author_key(&self) -> bool {
        self.author_key_algo != U32::ZERO
    }
}

impl fmt::Debug for IdAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("IdAuth");
        out.field("id_key", &self.id_key).field("id_block_sig", &self.id_block_sig);
        if self.has_author_key() {
            out.field("author_key", &self.author_key).field("id_key_sig", &self.id_key_sig);
        }
        out.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_turn_round_and_long_ones_are_refused() {
        let mut big_endian = [0; 48];
        (big_endian[0], big_endian[47]) = (0x12, 0x34);
        let number = Number::from_be(&big_endian);
        assert_eq!((number.0[0], number.0[47], number.0[48]), (0x34, 0x12, 0));
        assert_eq!(number.to_be(), Some(big_endian));
        assert!(format!("{number:?}").starts_with("0x1200"));
        let mut long = number;
        long.0[71] = 1;
        assert_eq!(long.to_be(), None);
        assert_eq!(format!("{:?}", Number([0; 72])), "0x00");
    }
}

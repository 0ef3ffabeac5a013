// SPDX-License-Identifier: Apache-2.0
//! The attestation report: what the firmware signs about a guest.
//!
//! Only the layout is here; which versions have which fields, and what must hold before any of it is trusted,
//! belongs to the verifier. A report a guest asked for names its VMPL (0 to 3); one the host asked for has
//! [`VMPL_HOST`] and must never be taken for the other. Source: firmware ABI 7.3, "ATTESTATION_REPORT
//! Structure".

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::digest::Digest;
use crate::layout::layout;
use crate::tcb::TcbVersion;

/// The VMPL of a report the host asked for.
pub const VMPL_HOST: u32 = 0xffff_ffff;
/// Bytes of a report that the signature covers.
pub const SIGNED_LEN: usize = 0x2a0;
/// ECDSA P-384 with SHA-384.
pub const ALGORITHM_P384: u32 = 1;

/// A report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Report {
    /// Version of the layout: 2, 3 or 5 have been seen.
    pub version: U32,
    /// Security version of the guest, from the ID block.
    pub guest_svn: U32,
    /// Guest policy.
    pub policy: U64,
    /// Family id, from the ID block.
    pub family_id: [u8; 16],
    /// Image id, from the ID block.
    pub image_id: [u8; 16],
    /// VMPL that asked, or [`VMPL_HOST`].
    pub vmpl: U32,
    /// Algorithm of the signature.
    pub signature_algo: U32,
    /// TCB that runs.
    pub current_tcb: TcbVersion,
    /// Bit 0 SMT, 1 TSME, 2 ECC, 3 RAPL off, 4 ciphertext hiding, 5 alias check done, 7 TIO.
    pub platform_info: U64,
    /// Bit 0 author key present, bit 1 chip key masked, bits 4:2 signing key (0 VCEK, 1 VLEK, 7 none).
    pub key_info: U32,
    /// Zero.
    pub reserved1: U32,
    /// What the guest put in.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: Digest,
    /// What the host put in at LAUNCH_FINISH.
    pub host_data: [u8; 32],
    /// Digest of the ID key; zero without an ID block.
    pub id_key_digest: Digest,
    /// Digest of the author key; zero without one.
    pub author_key_digest: Digest,
    /// Identifies this guest.
    pub report_id: [u8; 32],
    /// Identifies its migration agent.
    pub report_id_ma: [u8; 32],
    /// TCB the signing key is derived for.
    pub reported_tcb: TcbVersion,
    /// Processor family; from version 3.
    pub cpuid_family: u8,
    /// Processor model; from version 3.
    pub cpuid_model: u8,
    /// Processor stepping; from version 3.
    pub cpuid_stepping: u8,
    /// Zero.
    pub reserved2: [u8; 21],
    /// Identifies the chip; zero when masked.
    pub chip_id: [u8; 64],
    /// TCB below which the platform cannot go back.
    pub committed_tcb: TcbVersion,
    /// Running firmware: build, minor, major.
    pub current_version: [u8; 3],
    /// Zero.
    pub reserved3: u8,
    /// Committed firmware: build, minor, major.
    pub committed_version: [u8; 3],
    /// Zero.
    pub reserved4: u8,
    /// TCB when the guest was launched.
    pub launch_tcb: TcbVersion,
    /// Mitigations in force when the guest was launched; from version 5.
    pub launch_mit_vector: U64,
    /// Mitigations in force now; from version 5.
    pub current_mit_vector: U64,
    /// Zero.
    pub reserved5: [u8; 152],
    /// Signature over the first [`SIGNED_LEN`] bytes.
    pub signature: crate::id::EcSignature,
}

layout!(Report, 1184, {
    version: 0x00, guest_svn: 0x04, policy: 0x08, family_id: 0x10, image_id: 0x20, vmpl: 0x30, signature_algo: 0x34,
    current_tcb: 0x38, platform_info: 0x40, key_info: 0x48, reserved1: 0x4c, report_data: 0x50, measurement: 0x90,
    host_data: 0xc0, id_key_digest: 0xe0, author_key_digest: 0x110, report_id: 0x140, report_id_ma: 0x160,
    reported_tcb: 0x180, cpuid_family: 0x188, cpuid_model: 0x189, cpuid_stepping: 0x18a, reserved2: 0x18b,
    chip_id: 0x1a0, committed_tcb: 0x1e0, current_version: 0x1e8, reserved3: 0x1eb, committed_version: 0x1ec,
    reserved4: 0x1ef, launch_tcb: 0x1f0, launch_mit_vector: 0x1f8, current_mit_vector: 0x200, reserved5: 0x208,
    signature: 0x2a0,
});

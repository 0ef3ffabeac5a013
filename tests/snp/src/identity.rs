// SPDX-License-Identifier: Apache-2.0
//! Launch digests and ID blocks, written a second time: the security processor has its own code for both.
//!
//! Sources: SEV-SNP firmware ABI (56860), 8.17.2 PAGE_INFO and 8.18 ID block; the VMSA's fields as KVM fills
//! them for a vCPU that was not touched since its creation.

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::vm::PAGE;

const VMSA: u8 = 2;
const VMSA_GPA: u64 = 0xffff_ffff_f000;

/// A launch digest in the making.
#[derive(Debug, Clone, Copy)]
pub struct Digest([u8; 48]);

impl Digest {
    /// Of a guest without pages.
    pub fn new() -> Self {
        Self([0; 48])
    }

    /// With a page of contents more.
    pub fn page(self, kind: u8, gpa: u64, contents: &[u8; PAGE]) -> Self {
        let mut info = Vec::with_capacity(112);
        info.extend(self.0);
        info.extend(digest(&SHA384, contents).as_ref());
        info.extend(112u16.to_le_bytes());
        // Type, not a migration agent's, no rights of the lower VMPLs, reserved.
        info.extend([kind, 0, 0, 0, 0, 0]);
        info.extend(gpa.to_le_bytes());
        let mut next = [0; 48];
        next.copy_from_slice(digest(&SHA384, &info).as_ref());
        Self(next)
    }

    /// With the vCPU, as KVM adds it at LAUNCH_FINISH.
    pub fn vcpu(self) -> Self {
        self.page(VMSA, VMSA_GPA, &reset_vmsa())
    }
}

/// The state of a vCPU after KVM_CREATE_VCPU.
fn reset_vmsa() -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    // Selector, attributes, limit, base.
    let segment = |selector: u16, attributes: u16, base: u64| {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&selector.to_le_bytes());
        bytes[2..4].copy_from_slice(&attributes.to_le_bytes());
        bytes[4..8].copy_from_slice(&0xffffu32.to_le_bytes());
        bytes[8..].copy_from_slice(&base.to_le_bytes());
        bytes
    };
    for at in [0x00, 0x20, 0x30, 0x40, 0x50] {
        put(at, &segment(0, 0x92, 0)); // ES, SS, DS, FS, GS
    }
    put(0x10, &segment(0xf000, 0x9a, 0xffff_0000)); // CS
    put(0x60, &segment(0, 0, 0)); // GDTR
    put(0x70, &segment(0, 0x82, 0)); // LDTR
    put(0x80, &segment(0, 0, 0)); // IDTR
    put(0x90, &segment(0, 0x83, 0)); // TR
    for (at, value) in [
        (0xd0, 0x1000),                 // EFER: SVME
        (0x148, 0x40),                  // CR4: MCE
        (0x158, 0x10),                  // CR0: ET
        (0x160, 0x400),                 // DR7
        (0x168, 0xffff_0ff0),           // DR6
        (0x170, 0x2),                   // RFLAGS
        (0x178, 0xfff0),                // RIP
        (0x268, 0x0007_0406_0007_0406), // PAT
        (0x310, 0x600),                 // RDX: the processor's signature, which was not set
        (0x3b0, 1),                     // SEV features: SNP active
        (0x3e8, 1),                     // XCR0
    ] {
        put(at, &u64::to_le_bytes(value));
    }
    put(0x408, &0x1f80u32.to_le_bytes()); // MXCSR
    put(0x410, &0x37fu16.to_le_bytes()); // x87 control word
    page
}

/// An ID block for `digest` and `policy`, and its authentication by a key made for it.
pub fn id_block(digest: Digest, policy: u64) -> Result<([u8; 96], Box<[u8; PAGE]>)> {
    let mut block = [0; 96];
    block[..48].copy_from_slice(&digest.0);
    block[48..64].copy_from_slice(b"cvmm test family");
    block[64..80].copy_from_slice(b"cvmm test image\0");
    block[80..84].copy_from_slice(&1u32.to_le_bytes()); // version
    block[84..88].copy_from_slice(&7u32.to_le_bytes()); // guest SVN
    block[88..96].copy_from_slice(&policy.to_le_bytes());
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).ok().context("make an ID key")?;
    let signature = key.sign(&SystemRandom::new(), &block).ok().context("sign the ID block")?;
    let mut auth = Box::new([0; PAGE]);
    auth[..4].copy_from_slice(&1u32.to_le_bytes()); // ECDSA P-384 with SHA-384
    let mut little_endian = |at: usize, number: &[u8]| {
        for (byte, value) in auth[at..at + 48].iter_mut().zip(number.iter().rev()) {
            *byte = *value;
        }
    };
    little_endian(64, &signature.as_ref()[..48]); // R
    little_endian(64 + 72, &signature.as_ref()[48..]); // S
    // The public key is 4, X, Y.
    little_endian(576 + 4, &key.public_key().as_ref()[1..49]);
    little_endian(576 + 76, &key.public_key().as_ref()[49..97]);
    auth[576..580].copy_from_slice(&2u32.to_le_bytes()); // P-384
    Ok((block, auth))
}

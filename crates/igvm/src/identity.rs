// SPDX-License-Identifier: Apache-2.0
//! ID blocks as headers of an IGVM file.
//!
//! The header has the fields of ID block and ID authentication without their reserved bytes, and without the
//! policy, which is that of the file.

use cvmm_launch::id_block::{IdError, Identity};
use cvmm_snp::digest::Digest;
use cvmm_snp::id::{EcPublicKey, EcSignature, IdAuth, IdBlock};
use cvmm_snp::policy::GuestPolicy;
use igvm_defs::{
    IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY as PublicKey,
    IGVM_VHS_SNP_ID_BLOCK_SIGNATURE as Signature,
};
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// The header of an ID block.
pub(crate) fn to_header(identity: &Identity, mask: u32) -> IGVM_VHS_SNP_ID_BLOCK {
    let (block, auth) = (identity.block(), identity.auth());
    IGVM_VHS_SNP_ID_BLOCK {
        compatibility_mask: mask,
        author_key_enabled: u8::from(auth.has_author_key()),
        reserved: [0; 3],
        ld: block.launch_digest.0,
        family_id: block.family_id,
        image_id: block.image_id,
        version: block.version.get(),
        guest_svn: block.guest_svn.get(),
        id_key_algorithm: auth.id_key_algo.get(),
        author_key_algorithm: auth.author_key_algo.get(),
        id_key_signature: signature(&auth.id_block_sig),
        id_public_key: key(&auth.id_key),
        author_key_signature: signature(&auth.id_key_sig),
        author_public_key: key(&auth.author_key),
    }
}

/// The ID block of a header, with its signatures verified.
pub(crate) fn from_header(header: &IGVM_VHS_SNP_ID_BLOCK, policy: GuestPolicy) -> Result<Identity, IdError> {
    let mut block = IdBlock::new(Digest(header.ld), policy);
    block.family_id = header.family_id;
    block.image_id = header.image_id;
    block.version = U32::new(header.version);
    block.guest_svn = U32::new(header.guest_svn);
    let mut auth = IdAuth::new_zeroed();
    auth.id_key_algo = U32::new(header.id_key_algorithm);
    auth.author_key_algo = U32::new(header.author_key_algorithm);
    put_signature(&mut auth.id_block_sig, &header.id_key_signature);
    put_key(&mut auth.id_key, &header.id_public_key);
    put_signature(&mut auth.id_key_sig, &header.author_key_signature);
    put_key(&mut auth.author_key, &header.author_public_key);
    Identity::from_bytes(block.as_bytes(), auth.as_bytes())
}

fn signature(from: &EcSignature) -> Signature {
    Signature { r_comp: number(from.r.as_bytes()), s_comp: number(from.s.as_bytes()) }
}

fn key(from: &EcPublicKey) -> PublicKey {
    PublicKey {
        curve: from.curve.get(),
        reserved: 0,
        qx: number(from.qx.as_bytes()),
        qy: number(from.qy.as_bytes()),
    }
}

/// Numbers of keys and signatures have 72 bytes in both formats.
fn number(bytes: &[u8]) -> [u8; 72] {
    let mut number = [0; 72];
    for (to, from) in number.iter_mut().zip(bytes) {
        *to = *from;
    }
    number
}

fn put_signature(to: &mut EcSignature, from: &Signature) {
    to.r.as_mut_bytes().copy_from_slice(&from.r_comp);
    to.s.as_mut_bytes().copy_from_slice(&from.s_comp);
}

fn put_key(to: &mut EcPublicKey, from: &PublicKey) {
    to.curve = U32::new(from.curve);
    to.qx.as_mut_bytes().copy_from_slice(&from.qx);
    to.qy.as_mut_bytes().copy_from_slice(&from.qy);
}

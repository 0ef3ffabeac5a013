// SPDX-License-Identifier: Apache-2.0
//! Secure Boot keys of a guest: PK, KEK, db and dbx.
//!
//! An owner names certificates and lists in several formats ([`source`]). They become the four UEFI
//! variables, each a run of `EFI_SIGNATURE_LIST`s ([`list`]), which are checked together ([`Keys`]): the
//! firmware has no other place to say what is wrong than a console. The variables go into measured pages of
//! the launch (`cvmm_launch`), and all four have one file format ([`Keys::to_bytes`]), which is also that
//! of the key region in the firmware image.
//!
//! A db says which programs may run, not which one does.

#![forbid(unsafe_code)]

mod certificate;
mod keys;
pub mod list;
pub mod preset;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod source;

pub use certificate::{Certificate, CertificateError};
pub use keys::{HEADER_LEN, Keys, KeysError, MAGIC, MAX_FILE, MAX_TOTAL, MAX_VARIABLE, VERSION, Variable};

/// A GUID as it lies in memory.
pub type Guid = [u8; 16];

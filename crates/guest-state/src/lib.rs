// SPDX-License-Identifier: Apache-2.0
//! A VM's state file: what its TPM remembers.
//!
//! The container is a VMGS file, version 3 ([`format`](mod@format)), so that its tools can look at it. On top of it:
//!
//! - Encryption is required: a file that says it has none is refused, not read.
//! - Each file in it begins, inside of the encryption, with the VM's name, its own id, an epoch and a counter, so that none can come from
//!   another VM, another place or another time.
//! - A change is all there or not at all, and on the disk when the call returns ([`container`]).
//! - The epoch goes up with each start of the VM, and the gate, which has the key, says which one it expects: a file that was rolled
//!   back or copied is refused (`docs/reference/state.md`).
//!
//! [`Store`] is the file; [`container::Container`] is the same over anything that can be read, written and synced, which is where the
//! tests put their faults. Every refusal has a code ([`StateError::code`]).

pub mod container;
mod crypto;
mod error;
pub mod format;
pub mod info;
mod key;
mod kind;
pub mod medium;
mod store;

pub use container::{Blob, Expected, Stored};
pub use error::{CODES, StateError};
pub use format::{KEY_LEN, MAX_CONTENT};
pub use key::{KeyFileError, KeyFormat, StateKey};
pub use kind::{Kind, VmId};
pub use store::Store;

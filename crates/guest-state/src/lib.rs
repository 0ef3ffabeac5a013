// SPDX-License-Identifier: Apache-2.0
//! A VM's state file: the persistent state of its TPM.
//!
//! The container is a VMGS file, version 3 ([`format`](mod@format)), so that VMGS tools can inspect it. In
//! addition:
//!
//! - Encryption is required: a file whose header says that it is not encrypted is refused.
//! - Each file in it begins, inside the encryption, with the VM's name, its own id, an epoch and a counter,
//!   so that files of a different VM, kind or time are detected.
//! - Changes are atomic, and durable when the call returns ([`container`]).
//! - The epoch increases with each start of the VM, and the gate, which holds the key, says which one it
//!   expects: a file that was rolled back or copied is refused (`docs/reference/state.md`).
//!
//! [`Store`] is the file on a disk; [`container::Container`] works on any medium that can be read, written
//! and synced, so that tests can inject faults. Every refusal has a code ([`StateError::code`]).

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

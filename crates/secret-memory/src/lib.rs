// SPDX-License-Identifier: Apache-2.0
//! Memory for keys that is neither swapped out nor dumped, in a process that leaves no core file.
//!
//! - [`deny_dumps`] is the first call of every program: no core file, whatever the limits or `core_pattern`
//!   say, and no debugger of the same user. It covers all of the process, libraries included.
//! - [`Secret`] and [`SecretBytes`] hold bytes in pages that are locked (`mlock`), left out of dumps that
//!   root takes (`MADV_DONTDUMP`), and overwritten when they are dropped. Secrets of up to [`SLOT`] bytes
//!   share pages; longer ones have their own.
//! - [`private_file`] reads files with keys, which only this user may access, into such memory.
//!
//! Not covered by the locked pages: what a cryptographic library copies into its own memory (key schedules,
//! parsed private keys), and what passes through the stack. Where the host may swap, keep the whole process
//! out of it (`MemorySwapMax=0` in its unit).
//!
//! If a limit forbids locking, one warning is logged; [`check_lock`] is for programs that prefer to stop.

mod pages;
pub mod private_file;
mod process;
mod secret;

pub use pages::{LockError, SLOT, check_lock};
pub use process::{DumpError, deny_dumps};
pub use secret::{Secret, SecretBytes};

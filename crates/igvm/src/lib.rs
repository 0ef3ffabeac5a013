// SPDX-License-Identifier: Apache-2.0
//! Launch plans as IGVM files.
//!
//! An IGVM file (Independent Guest Virtual Machine) has the initial pages of a guest, the state of its
//! processors and its policy in the order in which they are launched. [`load`] makes a launch plan of a file
//! that COCONUT's igvmbuilder, QEMU's tools or cloud-hypervisor's tools have made; [`Export`] writes a plan
//! for QEMU and cloud-hypervisor. Both ways, the plan is the one that is measured and launched, so the digest
//! is that of the plan.
//!
//! A file is untrusted. Of its headers at most [`MAX_HEADERS`] bytes are held in memory, pages are read when
//! they are launched, and every refusal names the header and its offset. What cvmm does not implement is
//! refused and never ignored, unless the header belongs to a different platform.
//!
//! The crate `igvm` has a reader too. It holds the whole file, does not say where an error is, and its checks
//! are assertions in part; so this crate uses the definitions of `igvm_defs` only, and is tested against
//! `igvm`.

#![forbid(unsafe_code)]

mod error;
mod headers;
mod identity;
mod load;
mod names;
mod pages;
mod parameters;
pub mod reasons;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
mod write;

pub use error::{IgvmError, IgvmProblem, Place};
pub use headers::MAX_HEADERS;
pub use load::{Guest, Machine, load};
pub use parameters::{MAX_AREA, MAX_AREAS};
pub use write::{Export, ExportError};

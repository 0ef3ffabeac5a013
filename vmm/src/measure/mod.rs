// SPDX-License-Identifier: Apache-2.0
//! What will be launched, and the digest the security processor will give it: `cvmm measure`.
//!
//! A [`Subject`] is a firmware with a boot profile on a machine, from a `vm.toml` or from options like those of
//! `sev-snp-measure`. Measuring it gives a [`Listing`]: the launch plan page range by page range with the running digest,
//! and the VMSA of each vCPU by field. Listings can be shown, saved as JSON and compared. A listing from a `vm.toml` is made of
//! the plan `cvmm run` launches, by the same code.

mod compare;
mod error;
mod listing;
mod show;
mod subject;

pub use compare::compare;
pub use error::MeasureError;
pub use listing::{Id, Listing};
pub use show::explain;
pub use subject::{Options, Subject, firmware_digest};

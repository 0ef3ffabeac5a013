// SPDX-License-Identifier: Apache-2.0
//! What will be launched, and the digest the security processor will give it: behind `cvmm measure`.
//!
//! A [`Subject`] is a firmware with a boot profile on a machine: from the files of a VM, as the caller opened
//! them for a launch, or from options like those of `sev-snp-measure`. Measuring it gives a [`Listing`]: the
//! launch plan page range by page range with the running digest, and the VMSA of each vCPU by field. Listings
//! can be shown ([`explain`]), saved as JSON and compared ([`compare`]). The plan is the one that `cvmm run`
//! launches, so what is measured and what is launched cannot differ. What the guest's TPM will have measured
//! after that is in [`pcrs`].

#![forbid(unsafe_code)]

mod compare;
mod error;
mod listing;
pub mod pcrs;
mod show;
mod subject;

pub use compare::compare;
pub use error::MeasureError;
pub use listing::{Contents, FirmwareFacts, Format, Id, Import, Listing, Origin, VmsaRun};
pub use show::explain;
pub use subject::{Options, Subject, firmware_digest};

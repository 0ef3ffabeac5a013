// SPDX-License-Identifier: Apache-2.0
//! Offline appraisal: verifies evidence in files, without a gate, a network or a host.
//!
//! A report ([`appraise`]), a bundle with all evidence of a guest ([`appraise_bundle`], made by [`bundle`]),
//! or a folder of reports on which a policy is tried ([`trial`]). It uses the verifier and the policy engine
//! of the gate, except for Rego code, which only the gate evaluates. Requirements that are not given are not
//! checked: without a policy the verdict only covers the report's signature, and report data is compared only
//! if it is given.

#![forbid(unsafe_code)]

mod bundle;
mod evidence;
mod file;
mod identity;
mod parts;
mod rego;
mod report;
mod trial;

pub use bundle::{BundleRequirements, BundleVerdict, TpmVerdict, appraise_bundle};
pub use evidence::{certificate, revocation_list, vek_chain};
pub use file::{FileError, read, read_text};
pub use identity::Voucher;
pub use parts::{LaunchParts, Parts, TpmParts, bundle};
pub use rego::check_rego;
pub use report::{Files, Requirements, UnverifiedReport, Verdict, appraise};
pub use trial::{Outcome, trial};

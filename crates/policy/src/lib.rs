// SPDX-License-Identifier: Apache-2.0
//! Policies: which guests may run, and on which platforms.
//!
//! A policy is a TOML file (docs/guide/policy.md). What it does not mention is refused or has to be at its
//! strict default. Under everything lies a floor, which only keys that begin with `unsafe_` lower; each of
//! those is a warning ([`Policy::warnings`]).
//!
//! A policy appraises what is to be launched ([`Policy::appraise_launch`]), the platform it was launched on
//! ([`Policy::appraise_platform`]), the claims of a verified report ([`Policy::appraise_claims`]), and the
//! quote of a running guest's TPM ([`Policy::appraise_quote`]). Each returns all reasons for a denial; an
//! empty list is an acceptance.
//!
//! `authoring` (a feature) writes policies, [`import`] takes over policies of other programs, and [`rego`]
//! runs code that a policy may name.

#![forbid(unsafe_code)]

mod appraise;
#[cfg(feature = "authoring")]
pub mod authoring;
mod error;
mod evidence;
mod explain;
mod guest;
pub mod import;
mod platform;
mod policy;
mod reasons;
pub mod rego;
mod release;
#[cfg(test)]
mod tests;
mod text;
mod ticket;
mod version;
mod vtpm;

pub use appraise::{CODES, Expected, LaunchFacts, PlatformFacts};
pub use error::{MAX_FILE, PolicyError};
pub use evidence::EvidenceClass;
pub use guest::{GuestBit, GuestRules, is_name, unproven, vcpu_signature};
pub use platform::{CrlRule, MitVector, PlatformBit, PlatformRules};
pub use policy::{Policy, RegoFile};
pub use release::{Release, guid};
pub use ticket::TicketRules;
pub use version::GateVersion;
pub use vtpm::{Requirement, VtpmRules};

// SPDX-License-Identifier: Apache-2.0
//! What a guest starts from.
//!
//! A [`plan::LaunchPlan`] is the ordered list of pages that exist before the first instruction, and the state of
//! each vCPU. It is built once from a firmware image and a boot profile, and consumed by whoever places the pages
//! (and, for SEV-SNP, by the digest calculator too), so that what is measured and what is launched cannot differ.
//! [`digest`] and [`vmsa`] say what the security processor will make of a plan, before there is a guest. This crate talks to no
//! hypervisor.

pub mod blob;
pub mod digest;
pub mod firmware;
pub mod first_stage;
pub mod guid;
mod hash;
pub mod hashes;
pub mod id_block;
pub mod kernel;
pub mod memory;
mod page;
pub mod plan;
pub mod reasons;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod uki;
pub mod vmsa;

#[cfg(test)]
mod psp_tests;
#[cfg(test)]
mod testing;

// SPDX-License-Identifier: Apache-2.0
//! Launch plans, their digests and ID blocks.
//!
//! A [`plan::LaunchPlan`] is the ordered list of pages that exist before the first instruction, and the state
//! of each vCPU. It is built once from a firmware image and a boot profile. The launcher and, for SEV-SNP,
//! the digest calculator consume the same plan, so that what is measured and what is launched cannot differ.
//! [`digest`] and [`vmsa`] predict what the security processor will measure. This crate does not talk to a
//! hypervisor.

#![forbid(unsafe_code)]

pub mod blob;
pub mod digest;
pub mod firmware;
pub mod first_stage;
pub mod guid;
mod hash;
pub mod hashes;
pub mod id_block;
pub mod kernel;
pub mod measured;
pub mod memory;
mod page;
pub mod plan;
pub mod reasons;
pub mod registers;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod start;
pub mod uki;
pub mod vmsa;

// SPDX-License-Identifier: Apache-2.0
//! Files that the gate decides by: what operators put there, and what it remembers itself.
//!
//! | module | folder | written by |
//! |---|---|---|
//! | [`admissions`] | `state/vms` | the gate |
//! | [`vm_keys`], [`tpms`] | `state/vm-keys`, `state/tpms` | the gate |
//! | `quota` | `state/*.clients` | the gate |
//! | [`artifacts`] | `artifacts` | operators (`cvmm-gate artifact import`) |
//! | [`certificates`] | `certificates` | operators (`cvmm-gate certs import`) |
//! | [`secrets`] | `secrets` | operators |

pub mod admissions;
pub mod artifacts;
pub mod certificates;
pub(crate) mod quota;
pub mod secrets;
pub mod tpms;
pub mod vm_keys;

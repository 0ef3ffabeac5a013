// SPDX-License-Identifier: Apache-2.0
//! swtpm's protocol in front of cvmm's TPM engine.
//!
//! The program `cvmm-vtpm` of this package serves [`swtpm::Service`] on sockets, for VMMs and test suites
//! that know swtpm. cvmm itself links the engine (`cvmm-vtpm`) and speaks no such protocol. The library
//! exists for the fuzz target of [`swtpm::Control`].
#![deny(clippy::disallowed_macros)]
#![forbid(unsafe_code)]

pub mod swtpm;

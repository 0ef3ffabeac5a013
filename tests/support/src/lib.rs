// SPDX-License-Identifier: Apache-2.0
//! Fixtures shared by the tests of several crates. Only a dev-dependency: nothing outside `tests/` links it.
//!
//! | module | feature | what it has |
//! |---|---|---|
//! | `suite` | `suite` | a harness whose tests can report at run time that they did not run |
//! | `needs`, `artefacts` | | what a test needs of the machine, and files that are not in the repository |
//! | `program` | | a copy of a program, to run it |
//! | `cores`, `memory`, `manual` | | checks that several programs share: core files, secrets in memory, manual pages |
//! | `der`, `tls` | `tls` | DER by hand, certificates for TLS |
//! | `psp` | `psp` | a host for the software security processor, and a guest's messages to it |
//! | `launch` | `launch` | launch plans, launched page by page by that processor |
//! | `attest` | `attest` | forged reports and certificates, the published vectors |
//! | `gate` | `gate` | a gate in a temporary folder, in this process or its own, and guests that it admits |
//!
//! A crate whose unit tests use a fixture sees its own types twice: once as the crate under test, once behind
//! the fixture. Fixtures for unit tests therefore take and give bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fixture that fails is a failed test"
)]
#![allow(missing_debug_implementations, reason = "fixtures are not printed")]

pub mod artefacts;
#[cfg(feature = "attest")]
pub mod attest;
pub mod cores;
#[cfg(any(feature = "attest", feature = "tls"))]
pub mod der;
#[cfg(feature = "gate")]
pub mod gate;
#[cfg(feature = "launch")]
pub mod launch;
pub mod manual;
pub mod memory;
pub mod needs;
pub mod program;
#[cfg(feature = "psp")]
pub mod psp;
#[cfg(feature = "suite")]
pub mod suite;
#[cfg(feature = "tls")]
pub mod tls;

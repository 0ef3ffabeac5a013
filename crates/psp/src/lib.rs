// SPDX-License-Identifier: Apache-2.0
//! The AMD Secure Processor of an SEV-SNP host, in software.
//!
//! A [`Psp`] executes the mailbox commands of the SNP firmware against a [`Host`], which is memory, an RMP and a
//! CPUID: the SNP host emulator through the C interface in `include/cvmm_psp.h` ([`ffi`]), or a test. It keeps platform
//! and guest state, computes launch digests, checks ID blocks and CPUID pages, answers guest messages and signs
//! attestation reports under a test PKI ([`Pki`]) that any verifier can be pointed at.
//!
//! It protects nothing. Its secrets lie in ordinary memory and its roots are anybody's; it exists so that launch and
//! attestation code can be tested where there is no such processor. It must never be a dependency of a program that
//! runs or verifies guests.
//!
//! Facts come from the kernel's driver and headers, the `sev` crate, QEMU and reports of real chips; AMD's firmware
//! ABI document (56860) was not at hand. Where they leave a status code open, the module that chose it says so.

mod chip;
pub mod command;
mod config;
mod cpuid;
mod crypto;
mod digest;
mod fault;
pub mod ffi;
mod guest;
mod host;
mod idblock;
mod launch;
mod legacy;
mod message;
mod pages;
mod pki;
mod platform;
mod policy;
mod product;
mod psp;
mod report;
mod request;
mod secrets;
mod status;

pub use chip::{Chip, HASHSTICK_LEN};
pub use config::{Config, ConfigError, CpuidAllow, CpuidCheck, DebugRule, Fault};
pub use crypto::CryptoError;
pub use digest::{LaunchDigest, PageType};
pub use guest::GuestState;
pub use host::{Host, HostFault, LARGE_PAGE, PAGE, PERM_ALL, PageState, RmpEntry};
pub use idblock::{AUTH_LEN, BLOCK_LEN};
pub use message::HEADER_LEN;
pub use pki::{Authority, Pki, PkiError};
pub use policy::Policy;
pub use product::{Product, Tcb};
pub use psp::{NewError, Psp};
pub use report::REPORT_LEN;
pub use status::{Outcome, Status};

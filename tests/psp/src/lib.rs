// SPDX-License-Identifier: Apache-2.0
//! The AMD Secure Processor of an SEV-SNP host, in software.
//!
//! A [`Psp`] executes the mailbox commands of the SNP firmware against a [`Host`], which is memory, an RMP
//! and a CPUID: the SNP host emulator through the C interface in `include/cvmm_psp.h` ([`ffi`]), or a test.
//! It keeps platform and guest state, computes launch digests, checks ID blocks and CPUID pages, answers
//! guest messages and signs attestation reports under a test PKI ([`Pki`]) that any verifier can be pointed
//! at.
//!
//! It protects nothing. Its secrets lie in ordinary memory and anyone can make its roots; it exists so that
//! launch and attestation code can be tested where there is no such processor. It must never be a dependency
//! of a program that runs or verifies guests.
//!
//! # What is faithful and what is not
//!
//! Facts come from the kernel's driver and headers, the `sev` crate, QEMU and reports of real chips; AMD's
//! firmware ABI document (56860) was not at hand.
//!
//! | part | here |
//! |---|---|
//! | launch digest | exact: equal to `sev-snp-measure` in every case of `tests/golden` |
//! | reports, versions 2, 3, 5 | layout of real reports; version 4, never seen published, is written like 3 |
//! | certificates | AMD's profile, as real ones were read; roots of our own |
//! | guest messages | format and nonces as Linux and `sev` have them; requests 3, 5, 17 of the types that exist |
//! | page states | checked by every command; swapping, moving and metadata of pages are UNSUPPORTED |
//! | CPUID pages | the checks that matter for KVM's guests; real firmware has more (module `cpuid`) |
//! | derived keys | depend on what they should; the values are those of no real chip |
//! | VLEK hashstick | its place and use; the wrapping is our own, a real one is refused |
//! | SEV and SEV-ES guests, migration, firmware download | not there: UNSUPPORTED |
//! | guest contexts | kept in the library; the context page holds zeros, not an encrypted context |
//!
//! Chosen without a source, so no test of another program should depend on it:
//!
//! - the order of checks where several would fail, of signatures before measurement before policy in an ID
//!   block;
//! - POLICY_FAILURE for a malformed policy, INVALID_PARAM for a wrong version or algorithm in an ID block;
//! - AEAD_OFLOW for any sequence number but the next, BAD_MEASUREMENT for a message or hashstick that is not
//!   authentic, INVALID_PARAM for reserved bytes of a message header that are not zero;
//! - SNP_HV_REPORT_REQ only for running guests;
//! - a loaded VLEK is dropped when the reported TCB grows beyond the hashstick's;
//! - RESOURCE_LIMIT for more than 4096 contexts and for range lists of more than 8 TiB outside the RMP;
//! - DFFLUSH_REQUIRED follows ASIDs, WBINVD_REQUIRED (off by default) the whole machine, not single cores.

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
pub mod memory;
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

// SPDX-License-Identifier: Apache-2.0
//! The AMD Secure Processor of an SEV-SNP host, in software: for tests and for the emulator, never for production.
//!
//! In progress. What is here: the command numbers and status codes, products and TCB encodings, the chip's identity,
//! configuration, guest policy, the launch digest, the cryptography, and injected faults. What is missing: the state
//! machine that answers commands, guest messages and reports, the test PKI, and the C interface that
//! `include/cvmm_psp.h` declares; without them the emulator builds an L1 without SEV-SNP.

#![allow(dead_code, reason = "the state machine that uses these parts is not here yet")]

pub mod chip;
pub mod command;
pub mod config;
pub mod crypto;
pub mod digest;
pub mod fault;
pub mod host;
pub mod policy;
pub mod product;
pub mod status;

// SPDX-License-Identifier: Apache-2.0
//! The interface between the first stage of a guest, the VMM and the gate.
//!
//! The first stage is the first program that an SNP guest executes. It is placed in the firmware image's
//! padding, so it is measured. Next to it is a measured page ([`params`]) with the gate's key and the hash of
//! the unified kernel image. It runs alone, on one processor:
//!
//! ```text
//! first stage                     VMM                            gate
//!   hello  ----------------------> challenge {nonce, VM} <------- approval
//!   generates a key, requests a report from the PSP over nonce, VM and key
//!   evidence {report, key} ------> evidence -------------------> verifies, appraises
//!   <----------------------------- ticket {signed} <------------- ticket, secrets sealed to the key
//!   verifies it with the key in the measured page; opens the secrets
//!   fill {offset} ---------------> a chunk of the UKI in shared memory
//!   copies it to private pages, hashes what it copied
//!   wipes itself, resets the processor, jumps to the firmware
//! ```
//!
//! Any other event ends the guest, with a [`stop::Stop`] that the VMM reports. This crate is pure and runs in
//! unit tests, under Miri and in the fuzzer; code that touches the processor is in the program itself
//! (`image/`).

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod layout;
pub mod mailbox;
pub mod params;
pub mod psp;
pub mod report_data;
pub mod secrets;
pub mod stop;
pub mod ticket;

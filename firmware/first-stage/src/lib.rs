// SPDX-License-Identifier: Apache-2.0
//! What the first stage of a guest, the VMM and the gate agree on.
//!
//! The first stage is the first program an SNP guest executes. It lives in the firmware image's padding, so it is measured, and beside
//! it lies a measured page ([`params`]) that names the gate's key and the unified kernel image. It runs alone, on one processor:
//!
//! ```text
//! first stage                     VMM                            gate
//!   hello  ----------------------> challenge {nonce, VM} <------- approval
//!   makes a key, asks the PSP for a report over nonce, VM and key
//!   evidence {report, key} ------> evidence -------------------> verifies, judges
//!   <----------------------------- ticket {signed} <------------- ticket, secrets sealed to the key
//!   verifies it with the key in the measured page; opens the secrets
//!   fill {offset} ---------------> a piece of the UKI in shared memory
//!   copies it to private pages, hashes what it copied
//!   wipes itself, resets the processor, jumps to the firmware
//! ```
//!
//! Whatever else happens ends the guest, with a [`stop::Stop`] that the VMM turns into words. Everything here is pure and runs in unit
//! tests, under Miri and in the fuzzer; what touches the processor is in the program itself (`image/`).

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

// SPDX-License-Identifier: Apache-2.0
//! What the writer of a unified kernel image and the stub in it agree on.
//!
//! A kernel normally unpacks itself after the firmware has started it. `cvmm uki build` unpacks it once, at
//! build time, and puts the result into the section `.linux` as a [`payload`]. The stub (`image/`) is the
//! image's EFI program: it places the kernel ([`place`], [`payload::Payload::unpack`]), fills in the zero
//! page ([`zero_page`], [`e820`], [`unaccepted`]) and enters the kernel by the 64-bit boot protocol. This
//! crate is the part of the stub that needs no firmware, so it runs in unit tests and in the fuzzer.
//!
//! Sources: Linux Documentation/arch/x86/{boot,zero-page}.rst, the UEFI specification.

#![no_std]
#![forbid(unsafe_code)]

pub mod e820;
pub mod event_log;
pub mod memory_map;
pub mod payload;
pub mod place;
pub mod program;
pub mod sections;
pub mod unaccepted;
pub mod zero_page;

#[cfg(test)]
extern crate std;

// SPDX-License-Identifier: Apache-2.0
//! The first stage as bytes.
//!
//! `build.rs` builds the program (`../image`) for its address in the firmware's padding, for the same target
//! as everything else, and takes its two segments out of the executable. The build is reproducible: the same
//! sources and compiler give the same bytes, so verifiers can compute the launch digest themselves.

use cvmm_first_stage::layout::PROGRAM_MAX;

/// The program with its data, to be placed at [`cvmm_first_stage::layout::PROGRAM`]. Zeros follow.
pub static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/program.bin"));
/// The exit page, to be placed at [`cvmm_first_stage::layout::EXIT`]. The rest of the page stays as it is.
pub static EXIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/exit.bin"));

const _: () = assert!(PROGRAM.len() as u64 <= PROGRAM_MAX && EXIT.len() <= 4096);

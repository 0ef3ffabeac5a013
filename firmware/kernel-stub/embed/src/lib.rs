// SPDX-License-Identifier: Apache-2.0
//! The stub of unified kernel images as bytes.
//!
//! `build.rs` builds the program (`../image`) for the same target as everything else and takes its two
//! segments out of the executable. The build is reproducible: the same sources and compiler give the same
//! bytes, and `cvmm uki build` then gives the same image.

use cvmm_kernel_stub::program::Program;

/// The stub.
pub static PROGRAM: Program = include!(concat!(env!("OUT_DIR"), "/program.rs"));

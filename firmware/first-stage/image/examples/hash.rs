// SPDX-License-Identifier: Apache-2.0
//! The hash of the first stage in an ordinary program, compiled as in the stage, for `tests/bench/stage-hash`:
//! SHA-256 of as many bytes as the argument says, between two breakpoints. Only the digest is printed.

use std::arch::asm;

use sha2::{Digest, Sha256};

fn main() {
    let len = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let bytes: Vec<u8> = (0..len).map(|at: usize| at as u8).collect();
    // SAFETY: a breakpoint, for a tracer; it changes nothing.
    unsafe { asm!("int3") };
    let digest = Sha256::new().chain_update(&bytes).finalize();
    // SAFETY: as above.
    unsafe { asm!("int3") };
    println!("{digest:x}");
}

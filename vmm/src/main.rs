// SPDX-License-Identifier: Apache-2.0
//! The `cvmm` program.

fn main() {}

// SPDX-License-Identifier: Apache-2.0
//! The `cvmm` program: the command line with the machine plugged in.

use std::process::ExitCode;

fn main() -> ExitCode {
    cvmm::cli::main(cvmm::run::run)
}

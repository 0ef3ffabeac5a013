// SPDX-License-Identifier: Apache-2.0
//! The `cvmm` program: the command line with the machine plugged in.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything is read that may be secret.
    if let Err(error) = cvmm_secret_memory::deny_dumps() {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    // This program is also what runs a TPM in a process of its own.
    cvmm_vtpm::process::child_main_if_asked();
    cvmm::cli::main(cvmm::run::run)
}

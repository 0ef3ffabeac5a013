// SPDX-License-Identifier: Apache-2.0
//! The program that `ProcessEngine` starts in the tests of this crate.

fn main() -> std::process::ExitCode {
    cvmm_vtpm::process::child_main_if_asked();
    std::process::ExitCode::FAILURE
}

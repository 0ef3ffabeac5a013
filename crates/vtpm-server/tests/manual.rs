// SPDX-License-Identifier: Apache-2.0
//! `man` and `completions`.

use cvmm_test_support::manual;

#[test]
fn the_manual_and_the_completions_know_the_commands() {
    manual::prints_its_manual(
        env!("CARGO_BIN_EXE_cvmm-vtpm"),
        "cvmm-vtpm",
        &["socket", "completions", "man"],
    );
}

// SPDX-License-Identifier: Apache-2.0
//! `man` and `completions`.

#[path = "../../manual/tests/common/program.rs"]
mod program;

#[test]
fn the_manual_and_the_completions_know_the_commands() {
    program::prints_its_manual(
        env!("CARGO_BIN_EXE_cvmm-vtpm"),
        "cvmm-vtpm",
        &["socket", "completions", "man"],
    );
}

// SPDX-License-Identifier: Apache-2.0
//! Tiny guests on this machine's own KVM: no firmware, no operating system, a script each (`script`).
//!
//! They reach what a well-behaved guest never does, in milliseconds. Where `/dev/kvm` is missing, each test says so and
//! passes. The guests need no hardware virtualisation of the test machine that is any good: they run a few ten thousand
//! instructions, so a KVM that emulates each is fast enough.

#![expect(clippy::unwrap_used, reason = "a test helper that fails shall say where")]
#![expect(clippy::panic, reason = "likewise")]
#![expect(clippy::print_stdout, reason = "a skipped test says so")]

#[path = "../common/mod.rs"]
mod common;
mod console;
#[expect(unsafe_code, reason = "kill(2) has no safe interface in std")]
mod core_files;
#[path = "../../../crates/secret-memory/tests/common/cores.rs"]
mod cores;
mod hostile;
mod life;
#[expect(unsafe_code, reason = "takes the assembled interpreter from read-only data")]
mod script;
mod signals;
mod smp;
#[expect(unsafe_code, reason = "openpty and termios have no safe interface in std")]
mod terminal;
mod tpm;
mod virtio;

use common::{Ended, Lab, has_kvm};
use script::Script;

/// A VM for `script`, or `None` where there is no KVM.
fn lab(script: Script) -> Option<Lab> {
    has_kvm().then(|| Lab::new(&script.image()))
}

/// Runs `script` to its end.
fn run(script: Script) -> Option<Ended> {
    lab(script).map(|lab| lab.start().finish())
}

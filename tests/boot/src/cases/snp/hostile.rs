// SPDX-License-Identifier: Apache-2.0
//! Guests that ask for nonsense: every request is answered, or the guest is stopped with the reason; nothing
//! of it is the VMM's problem.

use anyhow::{Result, ensure};

use super::super::{Case, Host, on};
use super::{last_words, next_one_works, terminates};
use crate::harness::payload::{self, BASE, DONE, Step};
use crate::harness::{Ctx, Vm, contract};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "snp-requests",
        60,
        requests,
        "page state changes outside of RAM, beyond the address space, of the page that runs, repeated",
    ),
    on(
        Host::Snp,
        "snp-no-memory",
        60,
        no_memory,
        "a private access outside of memory; an access to memory that was not accepted",
    ),
];

/// Lines of one kind that cvmm logs at once (`cvmm_log_limit::BURST`).
const LOGGED: usize = 4;

fn change(gfn: u64, private: bool, granted: bool) -> Step {
    Step::Change { gfn, private, granted }
}

fn requests(ctx: &Ctx) -> Result<()> {
    let ram_end = payload::RAM_END >> 12;
    let mut steps = Vec::new();
    for gfn in [0x100, ram_end - 1] {
        steps.extend([change(gfn, false, true), change(gfn, false, true), change(gfn, true, true)]);
    }
    // What it is launched with is private already.
    steps.extend([change(payload::CPUID >> 12, true, true), change(BASE >> 12, true, true)]);
    // The first page behind RAM, the hole below 4 GiB, interrupt controllers, the first page behind all
    // memory, and the highest of all. No memory, so nothing to make private; shared they are, as MMIO is.
    for gfn in [ram_end, 0x8_0000, 0xf_ec00, 0xf_ee00, 0x10_0000, 1 << 36, (1 << 40) - 1] {
        steps.extend([change(gfn, true, false), change(gfn, false, true)]);
    }
    // The same page many times, then still answered.
    for _ in 0..200 {
        steps.extend([change(0x200, false, true), change(0x200, true, true)]);
    }
    steps.push(change(0x200, true, true));
    let ended = terminates(ctx, &payload::spec(ctx, "requests", &steps)?, DONE)?;
    // Seven refusals, and nothing that makes the guest stop after seven: the log has the first of them only.
    let refusals = ended.messages.matches("page state change refused").count();
    ensure!(refusals == LOGGED, "cvmm logged {refusals} refusals, {LOGGED} were expected");

    // It takes the ground from under its own feet: whatever the processor makes of that, it ends.
    let page = change(0xf_ffff, false, true);
    let mut vm = Vm::start(ctx, &payload::spec(ctx, "suicide", &[page, Step::Hold])?)?;
    let ended = vm.end(contract::TRIPLE_FAULT)?;
    ensure!(ended.messages.contains("triple fault"), "{}", last_words(&ended.messages));
    next_one_works(ctx, "next")
}

fn no_memory(ctx: &Ctx) -> Result<()> {
    for address in [0x8000_0000_u32, 0xfee0_0000, payload::RAM_END as u32] {
        let mut vm =
            Vm::start(ctx, &payload::spec(ctx, &format!("touch-{address:x}"), &[Step::Touch(address)])?)?;
        let ended = vm.end(contract::MEMORY_VIOLATION)?;
        let text = format!("{address:#x}");
        ensure!(
            ended.messages.contains(&text),
            "the message does not name {text}: {}",
            last_words(&ended.messages)
        );
    }
    // RAM that it has not validated: its own processor refuses (#VC, for which this guest has no handler).
    Vm::start(ctx, &payload::spec(ctx, "unaccepted", &[Step::Touch(0x10_0000)])?)?
        .end(contract::TRIPLE_FAULT)?;
    next_one_works(ctx, "next")
}

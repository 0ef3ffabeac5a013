// SPDX-License-Identifier: Apache-2.0
//! A stop signal while a guest is in its first stage: there is no operating system yet that a power button
//! could reach, so the VM ends at once.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::super::{Case, Host, on};
use super::gate::{read_frame, write_frame};
use super::last_words;
use super::stage::gated;
use crate::harness::{Ctx, Vm, contract};

pub const CASES: &[Case] = &[on(
    Host::Snp,
    "stage-stop",
    240,
    stop,
    "SIGTERM while the first stage waits for its ticket: the VM ends, although the ticket comes, and no firmware runs",
)];

/// How long the first stage may take to show its evidence.
const EVIDENCE: Duration = Duration::from_secs(120);
/// Several times as long as cvmm takes to notice a signal (`STOP_POLL_INTERVAL`).
const NOTICED: Duration = Duration::from_secs(2);

fn stop(ctx: &Ctx) -> Result<()> {
    let (gate, mut spec) = gated(ctx, "boot")?;
    let socket = gate.path(&format!("held-{}.sock", ctx.next_number()));
    let listener = UnixListener::bind(&socket)?;
    let real = gate.socket();
    let held = socket.to_string_lossy();
    spec.gate = spec.gate.map(|table| table.replace(&*real.to_string_lossy(), &held));
    let (shown, evidence) = channel();
    let (signalled, signal) = channel();
    // Between cvmm and the gate: holds the evidence back until cvmm has the signal.
    let relay = thread::spawn(move || -> Result<()> {
        let (mut vmm, _) = listener.accept()?;
        let mut gate = UnixStream::connect(real)?;
        write_frame(&mut gate, &read_frame(&mut vmm)?)?;
        write_frame(&mut vmm, &read_frame(&mut gate)?)?;
        let evidence = read_frame(&mut vmm)?;
        shown.send(())?;
        signal.recv_timeout(EVIDENCE)?;
        write_frame(&mut gate, &evidence)?;
        let ticket = read_frame(&mut gate)?;
        ensure!(String::from_utf8_lossy(&ticket).contains("\"stage\""), "no ticket for the first stage");
        write_frame(&mut vmm, &ticket)
    });
    let mut vm = Vm::start(ctx, &spec)?;
    evidence.recv_timeout(EVIDENCE).context("the first stage did not show its evidence")?;
    vm.signal(libc::SIGTERM)?;
    thread::sleep(NOTICED);
    signalled.send(())?;
    let ended = vm.end(contract::STOPPED)?;
    match relay.join() {
        Ok(result) => result.context("the relay")?,
        Err(_) => bail!("the relay panicked"),
    }
    ensure!(
        ended.messages.contains("stopped while the guest was in its first stage"),
        "another reason: {}",
        last_words(&ended.messages)
    );
    let timeline = ended.timeline()?;
    ensure!(timeline.at(contract::FIRST_RUN).is_some(), "the first stage did not run");
    ensure!(timeline.at(contract::FIRMWARE).is_none(), "the firmware ran");
    ensure!(ended.console.is_empty(), "a guest that was stopped said something: {:?}", ended.console);
    Ok(())
}

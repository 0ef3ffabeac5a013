// SPDX-License-Identifier: Apache-2.0
//! A host between cvmm and the gate that lies to the first stage: with other guests' tickets and reports, and
//! with tickets that only the signing key of the gate could sign (the host has that key here), so that each
//! check of the stage is the one that refuses.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::{Case, Host, on};
use super::gate::{read_frame, write_frame};
use super::last_words;
use super::stage::gated;
use crate::harness::gate::Gate;
use crate::harness::vm::Ended;
use crate::harness::{Ctx, Spec, Vm, contract};

pub const CASES: &[Case] = &[on(
    Host::Snp,
    "stage-lies",
    300,
    lies,
    "tickets for a different VM, key, report, time or launch, and a different guest's report: each is refused with its own reason",
)];

// Of a ticket (firmware/first-stage/src/ticket.rs); a second time here, on purpose.
const LIFETIME: usize = 12;
const KEY: usize = 48;
const REPORT: usize = 80;
const VM_ID: usize = 128;
const SEALED: usize = 272;
const SIGNATURE: usize = 96;
const LABEL: &[u8] = b"cvmm first-stage ticket v1\0";

/// What stands between: may change what cvmm shows, and what the gate answers to it.
pub(super) trait Between: Send {
    fn approval(&mut self, _: &mut Value) -> Result<()> {
        Ok(())
    }
    fn evidence(&mut self, _: &mut Value) -> Result<()> {
        Ok(())
    }
    fn ticket(&mut self, _: &mut Value) -> Result<()> {
        Ok(())
    }
}

/// Runs the guest of `spec` with `between` at the gate's socket. It must end before its firmware runs.
pub(super) fn run<B: Between + 'static>(
    ctx: &Ctx,
    gate: &Gate,
    spec: &Spec,
    mut between: B,
    code: i32,
) -> Result<(Ended, B)> {
    let socket = gate.path(&format!("between-{}.sock", ctx.next_number()));
    let listener = UnixListener::bind(&socket)?;
    let real = gate.socket();
    let relay = thread::spawn(move || -> Result<B> {
        let (mut vmm, _) = listener.accept()?;
        let mut gate = UnixStream::connect(real)?;
        write_frame(&mut gate, &read_frame(&mut vmm)?)?;
        let mut approval = serde_json::from_slice(&read_frame(&mut gate)?)?;
        between.approval(&mut approval)?;
        write_frame(&mut vmm, approval.to_string().as_bytes())?;
        let mut evidence = serde_json::from_slice(&read_frame(&mut vmm)?)?;
        between.evidence(&mut evidence)?;
        write_frame(&mut gate, evidence.to_string().as_bytes())?;
        let mut answer = serde_json::from_slice(&read_frame(&mut gate)?)?;
        between.ticket(&mut answer)?;
        write_frame(&mut vmm, answer.to_string().as_bytes())?;
        Ok(between)
    });
    let mut spec = spec.clone();
    let (real, socket) = (gate.socket(), socket.to_string_lossy().into_owned());
    spec.gate = spec.gate.map(|table| table.replace(&*real.to_string_lossy(), &socket));
    let ended = Vm::start(ctx, &spec)?.end(code);
    let between = match relay.join() {
        Ok(between) => between.context("the host between")?,
        Err(_) => anyhow::bail!("the host between panicked"),
    };
    let ended = ended?;
    ensure!(ended.timeline()?.at(contract::FIRST_RUN).is_some(), "the first stage did not run");
    ensure!(ended.timeline()?.at(contract::FIRMWARE).is_none(), "the firmware ran");
    ensure!(ended.console.is_empty(), "a guest that was not admitted said something");
    Ok((ended, between))
}

/// Another guest's start: what it showed and got is kept, and it does not get it.
#[derive(Default)]
struct Thief {
    shown: Option<(Value, Value)>,
    ticket: Option<Value>,
}

impl Between for Thief {
    fn evidence(&mut self, evidence: &mut Value) -> Result<()> {
        self.shown = Some((evidence["report"].clone(), evidence["key"].clone()));
        Ok(())
    }

    fn ticket(&mut self, answer: &mut Value) -> Result<()> {
        self.ticket = Some(answer["stage"].clone());
        ensure!(answer["stage"].is_string(), "no ticket for the first stage: {answer}");
        answer["stage"] = STANDARD.encode([0; 400]).into();
        Ok(())
    }
}

/// Shows another guest's report.
struct Relay((Value, Value));

impl Between for Relay {
    fn evidence(&mut self, evidence: &mut Value) -> Result<()> {
        (evidence["report"], evidence["key"]) = self.0.clone();
        Ok(())
    }
}

/// Gives another guest's ticket.
struct Other(Value);

impl Between for Other {
    fn ticket(&mut self, answer: &mut Value) -> Result<()> {
        answer["stage"] = self.0.clone();
        Ok(())
    }
}

/// Changes a ticket, signs it again, and gives it later.
struct Forger {
    key: EcdsaKeyPair,
    change: fn(&mut [u8]),
    late: Duration,
}

impl Between for Forger {
    fn ticket(&mut self, answer: &mut Value) -> Result<()> {
        let mut ticket = STANDARD.decode(answer["stage"].as_str().context("no ticket")?)?;
        ticket.truncate(ticket.len().saturating_sub(SIGNATURE));
        ensure!(ticket.len() > SEALED, "the ticket has no secrets");
        (self.change)(&mut ticket);
        let signed = [LABEL, &ticket].concat();
        let signature = self.key.sign(&SystemRandom::new(), &signed).ok().context("sign a ticket")?;
        ticket.extend_from_slice(signature.as_ref());
        answer["stage"] = STANDARD.encode(ticket).into();
        thread::sleep(self.late);
        Ok(())
    }
}

/// The key that the gate signs with, or another.
fn signer(gate: &Gate) -> Result<EcdsaKeyPair> {
    let pem = fs::read_to_string(gate.path("keys/verdict.pem"))?;
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, &STANDARD.decode(body)?);
    key.ok().context("the gate's key is not understood here")
}

fn lies(ctx: &Ctx) -> Result<()> {
    let (gate, spec) = gated(ctx, "boot")?;
    let other = {
        let mut other = spec.clone();
        other.gate = other.gate.map(|table| table + "vm_id = \"other\"\n");
        other
    };
    let says = |ended: &Ended, code: &str| -> Result<()> {
        ensure!(ended.messages.contains(code), "no {code} in: {}", last_words(&ended.messages));
        Ok(())
    };

    // The gate has admitted another guest, and the host has what went to and fro.
    let (ended, thief) = run(ctx, &gate, &other, Thief::default(), contract::TERMINATED)?;
    says(&ended, "stage.ticket-signature")?;
    let (ended, _) = run(ctx, &gate, &spec, Other(thief.ticket.context("no ticket")?), contract::TERMINATED)?;
    says(&ended, "stage.ticket-nonce")?;
    let (ended, _) =
        run(ctx, &gate, &spec, Relay(thief.shown.context("nothing shown")?), contract::GATE_DENIED)?;
    says(&ended, "policy.report-data")?;
    says(&ended, "policy.host-data")?;

    // Even with the gate's key, a ticket is for one guest, one report, one key, one time.
    const AT_ONCE: Duration = Duration::ZERO;
    // At 6 GHz, which no time stamp counter has, this is longer than no time.
    const LATE: Duration = Duration::from_secs(8);
    type Forgery = (&'static str, fn(&mut [u8]), Duration);
    let forgeries: [Forgery; 5] = [
        ("stage.ticket-key", |ticket| ticket[KEY] ^= 1, AT_ONCE),
        ("stage.ticket-report", |ticket| ticket[REPORT] ^= 1, AT_ONCE),
        ("stage.ticket-vm", |ticket| ticket[VM_ID] ^= 1, AT_ONCE),
        ("stage.secrets-open", |ticket| ticket[SEALED] ^= 1, AT_ONCE),
        ("stage.ticket-late", |ticket| ticket[LIFETIME..LIFETIME + 4].fill(0), LATE),
    ];
    for (code, change, late) in forgeries {
        let forger = Forger { key: signer(&gate)?, change, late };
        let (ended, _) = run(ctx, &gate, &spec, forger, contract::TERMINATED)?;
        says(&ended, code)?;
    }
    // And without it, none.
    let forger = Forger { key: signer(&Gate::new(ctx)?)?, change: |_| {}, late: AT_ONCE };
    let (ended, _) = run(ctx, &gate, &spec, forger, contract::TERMINATED)?;
    says(&ended, "stage.ticket-signature")
}

// SPDX-License-Identifier: Apache-2.0
//! A VMM that takes from the gate what it can get and runs the guest without its ticket. cvmm's types do not
//! bind it: it is another program (here: a launch with `--without-gate` and the approval that the gate gave
//! cvmm). Nothing on the host can stop it; what is told here is what it does not get.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::{Case, Host, on};
use super::gate::{ask, guest, has, kept_out, launch, read_frame, report_data, write_frame};
use super::{refused, terminates};
use crate::harness::gate::Gate;
use crate::harness::payload::DONE;
use crate::harness::report::{Report, measure};
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[on(
    Host::Snp,
    "gate-skipped",
    400,
    skipped,
    "a VMM that takes the gate's approval and runs the guest without a ticket: the approval fits no other guest, and the gate does not accept this one",
)];

fn skipped(ctx: &Ctx) -> Result<()> {
    let spec = guest(ctx, "guest")?;
    let mut gate = Gate::new(ctx)?;
    gate.trust(ctx)?;
    gate.admit(ctx, &spec, "", "", "")?;
    gate.start()?;
    let stolen = stolen(ctx, &gate, &spec)?;
    let approval = stolen.clone().give(&spec);

    // The approval is of this guest only: the security processor refuses every other, whatever the VMM.
    let mut more = stolen.clone().give(&spec);
    more.vcpus = 2;
    refused(ctx, &more, contract::UNMEASURED)?;
    let other = stolen.give(&spec).with_snp("policy", "0x30001");
    refused(ctx, &other, contract::UNMEASURED)?;

    // The right guest runs. That is the limit of a gate on the host's side.
    terminates(ctx, &approval, DONE)?;
    // But it is unknown: the gate has admitted no such VM, and a guest's question about it ends at once.
    let audit = fs::read_to_string(gate.path("audit.log"))?;
    ensure!(!audit.contains("\"event\":\"admitted\""), "the gate admitted a guest without evidence");
    let (_, answer) = ask(&gate, "0")?;
    ensure!(codes(&answer) == ["gate.vm"], "a VM that was never admitted got {answer}");

    // Once a VM of that name was admitted there is a challenge, and the next guest that the host runs without
    // a ticket can answer it: with the right measurement, a signed report, the gate's own ID key. HOST_DATA
    // belongs to a different launch.
    terminates(ctx, &gate.guards(&spec), DONE)?;
    let (mut line, challenge) = ask(&gate, &launch(&gate)?)?;
    let nonce = challenge["nonce"].as_str().context("no challenge")?;
    let data = report_data(nonce, "test")?;
    let image = images::uki(ctx, "report", &cmdline("ttyS0", &format!("report cvmm.nonce={data}")))?;
    let rogue = Spec::uki(ctx, image).snp();
    let admitted = gate.admission("test")?;
    gate.admit(ctx, &rogue, "", "", "")?;
    gate.signal(libc::SIGHUP)?;
    thread::sleep(std::time::Duration::from_millis(500));
    let rogue = stolen_for(ctx, &gate, &rogue)?;
    let report = Report::of(&Vm::start(ctx, &rogue)?.end_well()?)?;
    ensure!(report.report_data() == data, "the report is not for this challenge");
    ensure!(report.measurement() == measure(ctx, &rogue, &[])?, "another guest than was asked for");
    ensure!(report.id_key_digest() != "0".repeat(96), "the guest has not the gate's ID block");
    ensure!(!admitted.contains(report.host_data()), "two launches have one HOST_DATA");
    let evidence = serde_json::json!({
        "type": "guest-evidence", "session": challenge["session"], "report": report.base64()?,
    });
    write_frame(&mut line, evidence.to_string().as_bytes())?;
    let answer: Value = serde_json::from_slice(&read_frame(&mut line)?)?;
    let codes = codes(&answer);
    ensure!(codes.contains(&"policy.host-data".to_owned()), "no policy.host-data in {answer}");
    ensure!(!codes.contains(&"policy.id-key".to_owned()), "the gate does not know its own key: {answer}");
    Ok(())
}

fn codes(answer: &Value) -> Vec<String> {
    let reasons = answer["reasons"].as_array().into_iter().flatten();
    reasons.filter_map(|reason| reason["code"].as_str()).map(str::to_owned).collect()
}

/// What the gate gives before a launch.
#[derive(Clone)]
struct Stolen {
    id_block: PathBuf,
    id_auth: PathBuf,
    host_data: String,
}

impl Stolen {
    /// A launch with it, without admission.
    fn give(self, spec: &Spec) -> Spec {
        let quoted = |path: &PathBuf| format!("{:?}", path.display().to_string());
        spec.clone()
            .with_snp("id_block", quoted(&self.id_block))
            .with_snp("id_auth", quoted(&self.id_auth))
            .with_snp("host_data", format!("\"{}\"", self.host_data))
    }
}

fn stolen_for(ctx: &Ctx, gate: &Gate, spec: &Spec) -> Result<Spec> {
    Ok(stolen(ctx, gate, spec)?.give(spec))
}

/// Lets cvmm ask about the guest of `spec`, keeps the gate's approval, and hangs up on both. cvmm itself does
/// not run the guest.
fn stolen(ctx: &Ctx, gate: &Gate, spec: &Spec) -> Result<Stolen> {
    let between = gate.path(&format!("between-{}.sock", ctx.next_number()));
    let listener = UnixListener::bind(&between)?;
    let real = gate.socket();
    let thief = thread::spawn(move || -> Result<Value> {
        let (mut vmm, _) = listener.accept()?;
        let mut gate = UnixStream::connect(real)?;
        write_frame(&mut gate, &read_frame(&mut vmm)?)?;
        let answer = read_frame(&mut gate)?;
        write_frame(&mut vmm, &answer)?;
        Ok(serde_json::from_slice(&answer)?)
    });
    let mut asking = gate.guards(spec);
    let (real, between) = (gate.socket(), between.to_string_lossy().into_owned());
    asking.gate = asking.gate.map(|table| table.replace(&*real.to_string_lossy(), &between));
    has(&kept_out(ctx, &asking, contract::GATE_SILENT)?, "gate.")?;
    let approval = match thief.join() {
        Ok(approval) => approval.context("the thief")?,
        Err(_) => anyhow::bail!("the thief panicked"),
    };
    let keep = |name: &'static str| -> Result<PathBuf> {
        let text = approval[name].as_str().with_context(|| format!("no {name} in {approval}"))?;
        let path = ctx.own_file(name, ctx.next_number(), "bin");
        fs::write(&path, STANDARD.decode(text)?)?;
        Ok(path)
    };
    let host_data = approval["host_data"].as_str().context("no HOST_DATA")?.to_owned();
    Ok(Stolen { id_block: keep("id_block")?, id_auth: keep("id_auth")?, host_data })
}

// SPDX-License-Identifier: Apache-2.0
//! No guest runs unless the gate admits it: the right one does, every other one and every failure of the gate
//! is told and ends there.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cvmm_gate_protocol::binding::{self, Purpose};
use cvmm_gate_protocol::frame;
use cvmm_gate_protocol::messages::MAX_FRAME;

use super::super::{Case, Host, on};
use super::{last_words, next_one_works, terminates};
use crate::harness::gate::Gate;
use crate::harness::payload::{self, DONE, Step};
use crate::harness::report::{Report, measure};
use crate::harness::spec::cmdline;
use crate::harness::{Ctx, Disk, Spec, Vm, contract, images};

pub const CASES: &[Case] = &[
    on(
        Host::Snp,
        "gate-admits",
        60,
        admits,
        "the right guest runs, twice; the audit log tells of both and verifies",
    ),
    on(
        Host::Snp,
        "gate-refuses",
        120,
        refuses,
        "another vCPU count, firmware, guest policy, knob, least TCB, evidence: refused with the reason, and nothing runs",
    ),
    on(
        Host::Snp,
        "gate-fails",
        120,
        fails,
        "a gate that is absent, stopped, killed before or between its answers, or an impostor: the guest does not run",
    ),
    on(
        Host::Snp,
        "gate-replay",
        60,
        replay,
        "recorded answers of the gate, played to the same question again",
    ),
    on(
        Host::Snp,
        "gate-uki",
        300,
        uki,
        "Linux from a UKI; its report shows the gate's ID key and HOST_DATA",
    )
    .long(),
    on(
        Host::Snp,
        "gate-attest",
        400,
        attest,
        "a running guest's own report is judged; a guest that was launched without the gate is known by its report",
    ).long(),
];

pub(super) fn guest(ctx: &Ctx, name: &str) -> Result<Spec> {
    payload::spec(ctx, name, &[] as &[Step])
}

/// Runs a guest that the gate must not admit; returns cvmm's messages.
pub(super) fn kept_out(ctx: &Ctx, spec: &Spec, code: i32) -> Result<String> {
    let ended = Vm::start(ctx, spec)?.end(code)?;
    ensure!(ended.timeline()?.at(contract::FIRST_RUN).is_none(), "a guest that was not admitted ran");
    ensure!(ended.spent < Duration::from_secs(20), "cvmm took {:?} to say so", ended.spent);
    Ok(ended.messages)
}

pub(super) fn has(message: &str, word: &str) -> Result<()> {
    ensure!(message.contains(word), "no {word:?} in: {}", last_words(message));
    Ok(())
}

fn admits(ctx: &Ctx) -> Result<()> {
    let spec = guest(ctx, "guest")?;
    let mut gate = Gate::for_guest(ctx, &spec)?;
    for _ in 0..2 {
        let ended = terminates(ctx, &gate.guards(&spec), DONE)?;
        for word in ["gate approved the launch", "gate admitted the guest", "id-block"] {
            has(&ended.messages, word)?;
        }
        ensure!(!ended.messages.contains("without an attestation gate"), "cvmm says that there is no gate");
    }
    gate.end(libc::SIGTERM)?;
    let key = gate.path("keys/verdict.pem.pub");
    let log = gate.path("audit.log");
    gate.run(&["audit", "verify", "--key", &key.to_string_lossy(), &log.to_string_lossy()])?;
    let audit = fs::read_to_string(&log)?;
    ensure!(audit.matches("\"event\":\"admitted\"").count() == 2, "the audit log has not both admissions");
    // Both wishes at once are none.
    let mut both = gate.guards(&spec);
    both.without_gate = true;
    has(&kept_out(ctx, &both, contract::CONFIG)?, "--without-gate")
}

fn refuses(ctx: &Ctx) -> Result<()> {
    let spec = guest(ctx, "guest")?;
    let mut gate = Gate::for_guest(ctx, &spec)?;
    let denied = |gate: &Gate, spec: &Spec, word: &str| -> Result<()> {
        let message = kept_out(ctx, &gate.guards(spec), contract::GATE_DENIED)?;
        has(&message, word).with_context(|| format!("expected {word}"))
    };
    let mut more = spec.clone();
    more.vcpus = 2;
    denied(&gate, &more, "policy.measurement")?;
    // A byte of the firmware: the gate does not even have the file. With it, the digest is another.
    let mut other = fs::read(&spec.firmware)?;
    let byte = other.get_mut(0x2000).context("a short firmware")?;
    *byte ^= 1;
    let mut changed = spec.clone();
    changed.firmware = ctx.own_path("changed.fd");
    fs::write(&changed.firmware, &other)?;
    denied(&gate, &changed, "gate.artifact")?;
    let files = changed.firmware.to_string_lossy().into_owned();
    gate.run(&["artifact", "import", "--config", &gate.path("gate.toml").to_string_lossy(), &files])?;
    denied(&gate, &changed, "policy.measurement")?;
    denied(&gate, &spec.clone().with_snp("policy", "0xb0000"), "policy.debug")?;
    let mut knob = spec.clone();
    knob.debug.push(("mtrr", "false".to_owned()));
    denied(&gate, &knob, "policy.debug-knob")?;
    denied(&gate, &spec.clone().with_snp("cpuid_corrections", "\"caches\""), "policy.cpuid-corrections")?;

    // The platform, and what is thought of evidence: refused after the launch, before the first instruction.
    gate.admit(ctx, &spec, "", "", "min_firmware = \"9.0.0\"")?;
    gate.reload()?;
    denied(&gate, &spec, "policy.firmware")?;
    gate.admit(ctx, &spec, "evidence = \"guest-report\"", "", "")?;
    gate.reload()?;
    denied(&gate, &spec, "policy.evidence")?;
    gate.admit(ctx, &spec, "", "", "")?;
    let text = fs::read_to_string(gate.path("policies/test.toml"))?;
    gate.policy(&text.replace("microcode = 213", "microcode = 214"))?;
    gate.reload()?;
    denied(&gate, &spec, "policy.min-tcb")?;
    // An older policy is not taken: what is in force stays.
    gate.policy(&text.replace("version = 4", "version = 1"))?;
    gate.reload()?;
    has(&gate.log(), "policy.rollback")?;
    denied(&gate, &spec, "policy.min-tcb")?;
    next_one_works(ctx, "next")
}

fn fails(ctx: &Ctx) -> Result<()> {
    let spec = guest(ctx, "guest")?;
    let mut gate = Gate::new(ctx)?;
    gate.admit(ctx, &spec, "", "", "")?;
    has(&kept_out(ctx, &gate.guards(&spec), contract::GATE_UNREACHABLE)?, "gate.unreachable")?;
    gate.start()?;
    gate.signal(libc::SIGSTOP)?;
    has(&kept_out(ctx, &gate.guards(&spec), contract::GATE_SILENT)?, "gate.timeout")?;
    gate.signal(libc::SIGCONT)?;
    terminates(ctx, &gate.guards(&spec), DONE)?;

    // Between its answers: the guest is launched and never runs.
    let mut vm = Vm::start(ctx, &gate.guards(&spec))?;
    vm.until("the gate's approval", |vm| vm.messages().contains("gate approved").then_some(()))?;
    gate.end(libc::SIGKILL)?;
    let ended = vm.end_soon(contract::GATE_SILENT)?;
    ensure!(ended.timeline()?.at(contract::FIRST_RUN).is_none(), "a guest whose gate was killed ran");
    // It starts again over what it left behind, and decides as before.
    gate.start()?;
    terminates(ctx, &gate.guards(&spec), DONE)?;

    // A different key, or no key.
    let other = Gate::new(ctx)?;
    let stranger = gate.guards_with(&spec, &other.path("keys/verdict.pem.pub"));
    has(&kept_out(ctx, &stranger, contract::TICKET)?, "ticket.signature")?;
    kept_out(ctx, &gate.guards_with(&spec, &spec.firmware), contract::FILE)?;
    // The gate's own key is gone: it does not start, and says which.
    gate.end(libc::SIGTERM)?;
    fs::remove_file(gate.path("keys/verdict.pem"))?;
    ensure!(gate.start().is_err(), "the gate starts without its key");
    has(&gate.log(), "verdict.pem")?;
    next_one_works(ctx, "next")
}

/// Listens where the gate is expected. Passes messages on and records the answers; then plays them.
fn replay(ctx: &Ctx) -> Result<()> {
    let spec = guest(ctx, "guest")?;
    let gate = Gate::for_guest(ctx, &spec)?;
    let between = gate.path("between.sock");
    let listener = UnixListener::bind(&between)?;
    let real = gate.socket();
    let recorder = thread::spawn(move || -> Result<()> {
        let mut answers = Vec::new();
        let (mut vmm, _) = listener.accept()?;
        let mut gate = UnixStream::connect(real)?;
        for _ in 0..2 {
            write_frame(&mut gate, &read_frame(&mut vmm)?)?;
            let answer = read_frame(&mut gate)?;
            write_frame(&mut vmm, &answer)?;
            answers.push(answer);
        }
        let (mut vmm, _) = listener.accept()?;
        for answer in answers {
            read_frame(&mut vmm)?;
            write_frame(&mut vmm, &answer)?;
        }
        let (mut vmm, _) = listener.accept()?;
        read_frame(&mut vmm)?;
        write_frame(&mut vmm, b"yes")
    });
    let mut spec = gate.guards(&spec);
    let (real, between) = (gate.socket(), between);
    spec.gate = spec.gate.map(|table| table.replace(&*real.to_string_lossy(), &between.to_string_lossy()));
    terminates(ctx, &spec, DONE)?;
    has(&kept_out(ctx, &spec, contract::TICKET)?, "ticket mismatch in VMM nonce")?;
    has(&kept_out(ctx, &spec, contract::GATE_ANSWER)?, "gate.answer")?;
    match recorder.join() {
        Ok(recorded) => recorded.context("the recorder"),
        Err(_) => anyhow::bail!("the recorder panicked"),
    }
}

pub(super) fn read_frame(stream: &mut UnixStream) -> Result<Vec<u8>> {
    Ok(frame::read(stream, MAX_FRAME)?)
}

pub(super) fn write_frame(stream: &mut UnixStream, body: &[u8]) -> Result<()> {
    Ok(frame::write(stream, body, MAX_FRAME)?)
}

/// The gate's name for the latest admitted launch of VM `test`.
pub(super) fn launch(gate: &Gate) -> Result<String> {
    let admission: serde_json::Value = serde_json::from_str(&gate.admission("test")?)?;
    Ok(admission["session"].as_str().context("an admission without a session")?.to_owned())
}

/// Asks for a challenge as the guest of VM `test` in this launch. The answer is a denial or the challenge.
pub(super) fn ask(gate: &Gate, launch: &str) -> Result<(UnixStream, serde_json::Value)> {
    let mut line = UnixStream::connect(gate.socket())?;
    let open = serde_json::json!({
        "type": "guest-channel", "protocol": 1, "policy": "test", "vm_id": "test", "launch": launch,
    });
    write_frame(&mut line, open.to_string().as_bytes())?;
    let mut answer: serde_json::Value = serde_json::from_slice(&read_frame(&mut line)?)?;
    if answer["type"] == "opened" {
        write_frame(&mut line, br#"{"type":"attest","protocol":1,"vm_id":"test"}"#)?;
        answer = serde_json::from_slice(&read_frame(&mut line)?)?;
    }
    Ok((line, answer))
}

fn uki(ctx: &Ctx) -> Result<()> {
    let nonce = "5a".repeat(64);
    let image = images::uki(ctx, "report", &cmdline("ttyS0", &format!("report cvmm.nonce={nonce}")))?;
    let spec = Spec::uki(ctx, image).snp();
    let gate = Gate::for_guest(ctx, &spec)?;
    let ended = Vm::start(ctx, &gate.guards(&spec))?.end_well()?;
    let report = Report::of(&ended)?;
    ensure!(report.report_data() == nonce, "the report is not of this guest");
    let admission = gate.admission("test")?;
    for (what, value) in [("launch digest", report.measurement()), ("HOST_DATA", report.host_data())] {
        ensure!(admission.contains(value), "the gate admitted another {what} than {value}: {admission}");
    }
    ensure!(report.id_key_digest() != "0".repeat(96), "the guest was launched without the gate's ID block");

    // One byte of the UKI, behind everything that is used: Linux would not mind.
    let uki = match &spec.boot {
        crate::harness::Boot::Uki(uki) => uki.clone(),
        _ => anyhow::bail!("not a UKI"),
    };
    let mut bytes = fs::read(&uki)?;
    *bytes.last_mut().context("an empty UKI")? ^= 1;
    let changed = ctx.own_path("changed.efi");
    fs::write(&changed, bytes)?;
    let changed = Spec::uki(ctx, changed).snp();
    has(&kept_out(ctx, &gate.guards(&changed), contract::GATE_DENIED)?, "gate.artifact")
}

/// A disk with the guest's program.
pub(super) fn tool(ctx: &Ctx) -> Result<PathBuf> {
    let tool = ctx.own_path("tool.img");
    if !tool.exists() {
        let mut bytes = fs::read(ctx.cvmm.with_file_name("cvmm-guest"))?;
        bytes.resize(bytes.len().next_multiple_of(1 << 20), 0);
        fs::write(&tool, bytes)?;
    }
    Ok(tool)
}

/// A guest with the tool, that shows itself to the gate as `vm`.
fn asking(ctx: &Ctx) -> Result<Spec> {
    let tool = tool(ctx)?;
    let image = images::uki(ctx, "attest", &cmdline("ttyS0", "attest cvmm.vm=test"))?;
    let mut spec = Spec::uki(ctx, image).snp();
    spec.disks.push(Disk { serial: "tool", read_only: true, ..Disk::data(&tool) });
    Ok(spec)
}

fn attest(ctx: &Ctx) -> Result<()> {
    let spec = asking(ctx)?;
    let mut gate = Gate::new(ctx)?;
    gate.trust(ctx)?;
    gate.admit(ctx, &spec, "", "", "")?;
    gate.start()?;
    let with_line = |gate: &Gate| {
        let mut spec = gate.guards(&spec);
        spec.gate = spec.gate.map(|table| table + "channel = true\n");
        spec
    };
    let ended = Vm::start(ctx, &with_line(&gate))?.end_well()?;
    let verdict = ended.facts().get("verdict").copied().map(str::to_owned);
    let verdict = verdict.with_context(|| format!("refused: {:?}", ended.facts().get("refused")))?;
    ensure!(verdict.split('.').count() == 3, "no token: {verdict}");
    let audit = fs::read_to_string(gate.path("audit.log"))?;
    ensure!(audit.contains(&verdict), "the gate did not give this verdict");

    // The same guest, launched by a host that did not ask: it takes the challenge itself and has the guest
    // answer it. All is right but the ID key and HOST_DATA, which only an admitted launch has.
    let (mut line, challenge) = ask(&gate, &launch(&gate)?)?;
    let nonce = challenge["nonce"].as_str().context("no challenge")?;
    let report_data = report_data(nonce, "test")?;
    let image = images::uki(ctx, "report", &cmdline("ttyS0", &format!("report cvmm.nonce={report_data}")))?;
    let rogue = Spec::uki(ctx, image).snp();
    // So that it is not the measurement that gives it away.
    let (digest, asked) = (measure(ctx, &rogue, &[])?, measure(ctx, &spec, &[])?);
    let policy = fs::read_to_string(gate.path("policies/test.toml"))?;
    let policy =
        policy.replace("version = 1", "version = 2").replace(&asked, &format!("{asked}\", \"{digest}"));
    gate.policy(&policy)?;
    gate.signal(libc::SIGHUP)?;
    let ended = Vm::start(ctx, &rogue)?.end_well()?;
    let report = Report::of(&ended)?;
    ensure!(report.report_data() == report_data, "the report is not for this challenge");
    let answer = serde_json::json!({
        "type": "guest-evidence", "session": challenge["session"], "report": report.base64()?,
    });
    write_frame(&mut line, answer.to_string().as_bytes())?;
    let answer: serde_json::Value = serde_json::from_slice(&read_frame(&mut line)?)?;
    ensure!(answer["type"] == "denied", "a guest that was not admitted got {answer}");
    let codes: Vec<_> = answer["reasons"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|reason| reason["code"].as_str())
        .collect();
    for code in ["policy.host-data", "policy.id-key", "policy.measurement"] {
        ensure!(codes.contains(&code), "no {code} in {answer}");
    }
    ensure!(codes.len() == 3, "more reasons than expected: {answer}");
    Ok(())
}

/// What a guest has to put into its report for the gate's nonce, as hexadecimal digits.
pub(super) fn report_data(nonce: &str, vm_id: &str) -> Result<String> {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, nonce)?;
    let nonce = bytes.as_slice().try_into().context("the nonce has a wrong length")?;
    let data = binding::report_data(Purpose::Attest, nonce, vm_id, &[]);
    Ok(data.iter().map(|byte| format!("{byte:02x}")).collect())
}

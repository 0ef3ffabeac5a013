// SPDX-License-Identifier: Apache-2.0
//! `cvmm-guest`: what a confidential guest does about its own attestation.
//!
//! `attest` asks the gate for a challenge, the security processor for a report over it (by the kernel's configfs-tsm), and the gate
//! for its verdict, which it prints. It talks through a virtio console that the VMM connects to the gate (`gate.channel` in
//! vm.toml). Host and VMM only carry the messages: the report is signed by the security processor, the verdict by the gate.

mod port;
mod tsm;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Parser, Subcommand};
use cvmm_gate_client::binding::{Purpose, report_data};
use cvmm_gate_client::frame;
use cvmm_gate_client::protocol::{Attest, Challenge, GuestEvidence, NONCE_LEN, PROTOCOL, Request, Response};

use crate::port::Port;

/// For inside a confidential guest.
#[derive(Debug, Parser)]
#[command(name = "cvmm-guest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the gate a report of this guest; print its verdict (a JWT); exit code 0, 1, or 2 if the gate said no
    Attest {
        /// This VM's name at the gate
        #[arg(long, value_name = "NAME")]
        vm_id: String,
        /// The virtio console that is connected to the gate
        #[arg(long, value_name = "DEVICE", default_value = "/dev/hvc0")]
        port: PathBuf,
        /// Seconds to wait for each answer
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        timeout: u64,
    },
}

fn main() -> ExitCode {
    let Command::Attest { vm_id, port, timeout } = Cli::parse().command;
    match attest(&vm_id, &port, Duration::from_secs(timeout)) {
        Ok(Verdict::Yes(jwt)) => {
            // Whoever asked reads it from there; if he does not, it is not ours to mend.
            let _ = writeln!(std::io::stdout(), "{jwt}");
            ExitCode::SUCCESS
        }
        Ok(Verdict::No(reasons)) => {
            let _ = writeln!(std::io::stderr(), "error: the gate refused: {reasons}");
            ExitCode::from(2)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

enum Verdict {
    Yes(String),
    No(String),
}

fn attest(vm_id: &str, device: &std::path::Path, timeout: Duration) -> Result<Verdict> {
    let mut port = Port::open(device).with_context(|| format!("cannot use {}", device.display()))?;
    let ask = Request::Attest(Attest { protocol: PROTOCOL, vm_id: vm_id.to_owned() });
    let challenge = match exchange(&mut port, &ask, timeout)? {
        Response::Challenge(challenge) => challenge,
        other => return verdict(other),
    };
    let Challenge { session, nonce, deadline_ms: _ } = challenge;
    let nonce: [u8; NONCE_LEN] = STANDARD
        .decode(nonce)
        .ok()
        .and_then(|nonce| nonce.try_into().ok())
        .context("the gate's nonce is malformed")?;
    let report = tsm::report(&report_data(Purpose::Attest, &nonce, vm_id, &[]))?;
    let evidence = GuestEvidence {
        session,
        report: STANDARD.encode(report.report),
        certificates: (!report.certificates.is_empty()).then(|| STANDARD.encode(report.certificates)),
        key: None,
        quote: None,
    };
    verdict(exchange(&mut port, &Request::GuestEvidence(evidence), timeout)?)
}

fn exchange(port: &mut Port, request: &Request, timeout: Duration) -> Result<Response> {
    let deadline = Instant::now() + timeout;
    frame::write(port, &serde_json::to_vec(request)?, deadline).context("the question did not leave")?;
    let answer = frame::read(port, deadline).context("the gate did not answer")?;
    serde_json::from_slice(&answer).context("the gate's answer is not understood")
}

fn verdict(response: Response) -> Result<Verdict> {
    match response {
        Response::Ticket(ticket) => Ok(Verdict::Yes(ticket.jwt)),
        Response::Denied(denied) => {
            let reasons: Vec<_> = denied.reasons.iter().map(ToString::to_string).collect();
            Ok(Verdict::No(reasons.join("; ")))
        }
        _ => bail!("the gate answered another question"),
    }
}

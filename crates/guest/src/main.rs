// SPDX-License-Identifier: Apache-2.0
//! `cvmm-guest`: attestation from inside a confidential guest.
//!
//! `attest` requests a challenge from the gate, a quote over it from the TPM if there is one, a report over
//! both from the security processor (by the kernel's configfs-tsm), and a verdict from the gate, which it
//! prints. It uses a virtio console that the VMM connects to the gate (`gate.channel` in vm.toml). Host and
//! VMM only forward messages: the security processor signs the report, the gate signs the verdict. `--bundle`
//! writes the evidence to a file instead, for the verifier that gave the nonce.

mod evidence;
mod exit_status;
mod port;
mod tpm;
mod tsm;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{CommandFactory, Parser, Subcommand};
use cvmm_gate_client::frame;
use cvmm_gate_protocol::bundle;
use cvmm_gate_protocol::messages::{
    Attest, Challenge, GuestEvidence, NONCE_LEN, PROTOCOL, Request, Response,
};
use cvmm_manual::{CompletionArgs, ManArgs};
use cvmm_output::Existing;

use crate::evidence::Evidence;
use crate::exit_status::ExitStatus;
use crate::port::Port;

/// Attestation from inside a confidential guest
#[derive(Debug, Parser)]
#[command(name = "cvmm-guest", version, after_help = ExitStatus::table())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send a report of this guest to the gate, with a quote if it has a cvmm TPM, and print the verdict (a
    /// JWT); exit code 0, 1 on errors, or 2 if the gate refused
    Attest {
        /// This VM's name at the gate
        #[arg(long, value_name = "NAME")]
        vm_id: String,
        /// Virtio console that is connected to the gate
        #[arg(long, value_name = "DEVICE", default_value = "/dev/hvc0")]
        port: PathBuf,
        /// Seconds to wait for each response
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        timeout: u64,
        /// Write the evidence to a file for cvmm attest verify, instead of sending it to the gate. An
        /// existing file is replaced only if it is such a bundle
        #[arg(long, value_name = "FILE", requires = "nonce", conflicts_with_all = ["port", "timeout"])]
        bundle: Option<PathBuf>,
        /// Nonce of the verifier, 64 hexadecimal digits, never used before
        #[arg(long, value_name = "HEX", requires = "bundle", value_parser = nonce)]
        nonce: Option<[u8; NONCE_LEN]>,
    },
    /// Print a shell completion script
    Completions(CompletionArgs),
    /// Print the manual page of a command (roff)
    Man(ManArgs),
}

fn nonce(text: &str) -> Result<[u8; NONCE_LEN], String> {
    let mut nonce = [0; NONCE_LEN];
    hex::decode_to_slice(text, &mut nonce)
        .map_err(|_| format!("expected {} hexadecimal digits", 2 * NONCE_LEN))?;
    Ok(nonce)
}

fn main() -> ExitCode {
    // Before any secret is read.
    if let Err(error) = cvmm_secret_memory::deny_dumps() {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitStatus::Failed.into();
    }
    let done = match Cli::parse().command {
        Command::Attest { vm_id, port, timeout, bundle, nonce } => match bundle.zip(nonce) {
            Some((path, nonce)) => write_bundle(&vm_id, &path, &nonce).map(|()| Outcome::Written),
            None => attest(&vm_id, &port, Duration::from_secs(timeout)),
        },
        Command::Completions(args) => Ok(Outcome::Text(cvmm_manual::completions(Cli::command(), args))),
        Command::Man(args) => cvmm_manual::man(Cli::command(), &args).map(Outcome::Text).map_err(Into::into),
    };
    match done {
        Ok(Outcome::Written) => ExitStatus::Done.into(),
        Ok(Outcome::Text(text)) => {
            // EPIPE is the reader's choice.
            let _ = std::io::stdout().write_all(&text);
            ExitStatus::Done.into()
        }
        Ok(Outcome::Ticket(jwt)) => {
            // As above.
            let _ = writeln!(std::io::stdout(), "{jwt}");
            ExitStatus::Done.into()
        }
        Ok(Outcome::Denied(reasons)) => {
            let _ = writeln!(std::io::stderr(), "error: the gate refused: {reasons}");
            ExitStatus::Refused.into()
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitStatus::Failed.into()
        }
    }
}

/// The result of a command.
enum Outcome {
    /// The gate's ticket, a JWT.
    Ticket(String),
    /// The gate's reasons.
    Denied(String),
    /// A file was written.
    Written,
    /// Text for standard output.
    Text(Vec<u8>),
}

fn write_bundle(vm_id: &str, path: &Path, nonce: &[u8; NONCE_LEN]) -> Result<()> {
    let evidence = Evidence::collect(vm_id, nonce)?;
    let mut text = serde_json::to_string_pretty(&evidence.bundle(vm_id)?)?;
    text.push('\n');
    Ok(cvmm_output::write(path, text.as_bytes(), 0o644, Existing::ReplaceOwn(&bundle::is_bundle))?)
}

fn attest(vm_id: &str, device: &Path, timeout: Duration) -> Result<Outcome> {
    let mut port = Port::open(device).with_context(|| format!("cannot open {}", device.display()))?;
    let request = Request::Attest(Attest { protocol: PROTOCOL, vm_id: vm_id.to_owned() });
    let challenge = match exchange(&mut port, &request, timeout)? {
        Response::Challenge(challenge) => challenge,
        other => return outcome(other),
    };
    let Challenge { session, nonce, deadline_ms: _ } = challenge;
    let nonce: [u8; NONCE_LEN] = STANDARD
        .decode(nonce)
        .ok()
        .and_then(|nonce| nonce.try_into().ok())
        .context("the gate sent a malformed nonce")?;
    let evidence = Evidence::collect(vm_id, &nonce)?;
    let evidence = GuestEvidence {
        session,
        report: STANDARD.encode(&evidence.report),
        certificates: evidence.certificates.as_ref().map(|table| STANDARD.encode(table)),
        key: None,
        quote: evidence.quote(),
    };
    outcome(exchange(&mut port, &Request::GuestEvidence(evidence), timeout)?)
}

fn exchange(port: &mut Port, request: &Request, timeout: Duration) -> Result<Response> {
    let deadline = Instant::now() + timeout;
    frame::write(port, &serde_json::to_vec(request)?, deadline)
        .context("cannot send the request to the gate")?;
    let response = frame::read(port, deadline).context("no response from the gate")?;
    serde_json::from_slice(&response).context("invalid response from the gate")
}

fn outcome(response: Response) -> Result<Outcome> {
    match response {
        Response::Ticket(ticket) => Ok(Outcome::Ticket(ticket.jwt)),
        Response::Denial(denied) => {
            let reasons: Vec<_> = denied.reasons.iter().map(ToString::to_string).collect();
            Ok(Outcome::Denied(reasons.join("; ")))
        }
        _ => bail!("unexpected response from the gate"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_needs_a_nonce_and_a_nonce_has_32_bytes() {
        let parse = |words: &[&str]| {
            Cli::try_parse_from([&["cvmm-guest", "attest", "--vm-id", "vm"], words].concat()).is_ok()
        };
        let good = "0f".repeat(32);
        assert!(parse(&[]) && parse(&["--bundle", "b", "--nonce", &good]));
        assert!(!parse(&["--bundle", "b"]) && !parse(&["--nonce", &good]));
        for bad in ["", "0f", &"0g".repeat(32), &"é".repeat(32)] {
            assert!(!parse(&["--bundle", "b", "--nonce", bad]), "{bad}");
        }
    }
}

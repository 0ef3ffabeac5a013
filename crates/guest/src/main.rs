// SPDX-License-Identifier: Apache-2.0
//! `cvmm-guest`: what a confidential guest does about its own attestation.
//!
//! `attest` asks the gate for a challenge, the TPM for a quote over it if there is one, the security processor for a report over both
//! (by the kernel's configfs-tsm), and the gate for its verdict, which it prints. It talks through a virtio console that the VMM connects
//! to the gate (`gate.channel` in vm.toml). Host and VMM only carry the messages: the report is signed by the security processor, the
//! verdict by the gate. With `--bundle` nobody is asked: all of it goes into a file, for whoever gave the nonce.

mod port;
mod show;
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

use crate::port::Port;
use crate::show::show;

/// For inside a confidential guest.
#[derive(Debug, Parser)]
#[command(name = "cvmm-guest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the gate a report of this guest, and a quote if it has a TPM of cvmm's; print its verdict (a JWT); exit code 0, 1, or 2 if the gate said no
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
        /// Write the evidence into a file instead of asking the gate: cvmm attest verify judges it. An existing file is replaced only
        /// if it is such a bundle
        #[arg(long, value_name = "FILE", requires = "nonce", conflicts_with_all = ["port", "timeout"])]
        bundle: Option<PathBuf>,
        /// The question that the bundle answers, 64 hexadecimal digits: from whoever judges it, and new each time
        #[arg(long, value_name = "HEX", requires = "bundle", value_parser = nonce)]
        nonce: Option<[u8; NONCE_LEN]>,
    },
    /// Print a shell completion script
    Completions(CompletionArgs),
    /// Print the manual page of a command (roff)
    Man(ManArgs),
}

fn nonce(text: &str) -> Result<[u8; NONCE_LEN], String> {
    let wrong = || format!("{} hexadecimal digits are needed", 2 * NONCE_LEN);
    if text.len() != 2 * NONCE_LEN || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut nonce = [0; NONCE_LEN];
    for (at, byte) in nonce.iter_mut().enumerate() {
        let digits = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(nonce)
}

fn main() -> ExitCode {
    // Before anything is read that may be secret.
    if let Err(error) = cvmm_secret_memory::deny_dumps() {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    let done = match Cli::parse().command {
        Command::Attest { vm_id, port, timeout, bundle, nonce } => match bundle.zip(nonce) {
            Some((path, nonce)) => write_bundle(&vm_id, &path, &nonce).map(|()| Verdict::Written),
            None => attest(&vm_id, &port, Duration::from_secs(timeout)),
        },
        Command::Completions(args) => Ok(Verdict::Printed(cvmm_manual::completions(Cli::command(), args))),
        Command::Man(args) => {
            cvmm_manual::man(Cli::command(), &args).map(Verdict::Printed).map_err(Into::into)
        }
    };
    match done {
        Ok(Verdict::Written) => ExitCode::SUCCESS,
        Ok(Verdict::Printed(text)) => {
            // EPIPE is the reader's choice.
            let _ = std::io::stdout().write_all(&text);
            ExitCode::SUCCESS
        }
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
    Written,
    Printed(Vec<u8>),
}

fn write_bundle(vm_id: &str, path: &Path, nonce: &[u8; NONCE_LEN]) -> Result<()> {
    let shown = show(vm_id, nonce)?;
    let mut text = serde_json::to_string_pretty(&shown.bundle(vm_id)?)?;
    text.push('\n');
    Ok(cvmm_output::write(path, text.as_bytes(), 0o644, Existing::ReplaceOwn(&bundle::is_bundle))?)
}

fn attest(vm_id: &str, device: &Path, timeout: Duration) -> Result<Verdict> {
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
    let shown = show(vm_id, &nonce)?;
    let evidence = GuestEvidence {
        session,
        report: STANDARD.encode(&shown.report),
        certificates: shown.certificates.as_ref().map(|table| STANDARD.encode(table)),
        key: None,
        quote: shown.quote(),
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

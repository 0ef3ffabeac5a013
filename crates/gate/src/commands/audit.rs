// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate audit`, for operators and auditors.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use cvmm_gate::audit::{Verification, verify};
use cvmm_gate::config::Config;
use cvmm_gate::rotation::{Rotation, rotate};
use cvmm_gate_protocol::ticket::VerdictKey;
use serde_json::json;

use super::{ExitStatus, owner, print, print_json};

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Verify the chain and the signatures; exit code 0 or 1
    Verify {
        /// Public verdict key, PEM; repeat for a log that was signed with several keys
        #[arg(long, value_name = "KEY.PEM", required = true)]
        key: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Log files, in order: rotated ones first
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Continue the log in a new file, whether the gate is running or not; prints where the old one is
    Rotate {
        /// Configuration file
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
        /// The log was truncated, or moved while the gate was down: continue this copy
        #[arg(long, value_name = "COPY", conflicts_with = "lost")]
        previous: Option<PathBuf>,
        /// The log was truncated or removed, and there is no copy: continue, and say so in the new file
        #[arg(long)]
        lost: bool,
    },
}

pub fn run(command: AuditCommand) -> Result<ExitStatus> {
    match command {
        AuditCommand::Verify { key, json, files } => {
            let read = |path: &PathBuf| {
                let text =
                    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                VerdictKey::from_pem(&text).with_context(|| format!("{} is not a public key", path.display()))
            };
            let keys = key.iter().map(read).collect::<Result<Vec<_>>>()?;
            let Verification { first, end, signed, lost, appended, .. } = verify(&files, &keys)?;
            if json {
                print_json(
                    &json!({ "first": first.seq, "lines": end.seq, "signed": signed, "lost": lost, "appended": appended }),
                )?;
                return Ok(ExitStatus::Done);
            }
            if first.seq > 0 {
                print(&format!("begins after line {}: earlier files were not given\n", first.seq))?;
            }
            for line in lost {
                print(&format!("line {}: lines before it are lost\n", line + 1))?;
            }
            for line in appended {
                print(&format!(
                    "line {}: not written by the gate: it follows the gate's \"close\" and has no signature\n",
                    line + 1
                ))?;
            }
            print(&format!("{} lines, signed up to line {signed}\n", end.seq))?;
        }
        AuditCommand::Rotate { config, previous, lost } => {
            let config = Config::load(&config)?;
            owner::check([&*config.keys, &*config.state, &*config.audit])?;
            let Rotation { lines, old } = rotate(&config, previous.as_deref(), lost)?;
            match old {
                Some(old) => print(&format!("{}  lines up to {lines}\n", old.display()))?,
                None => print(&format!("continues after line {lines}\n"))?,
            }
        }
    }
    Ok(ExitStatus::Done)
}

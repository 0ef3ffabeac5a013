// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate`: the command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use cvmm_gate::config::Config;
use cvmm_gate::engine::Engine;
use cvmm_gate::keys::Signer;
use cvmm_gate::server::Listeners;
use cvmm_gate::{artifacts, audit, policies, server, setup};
use cvmm_gate_client::ticket::VerdictKey;
use tracing_subscriber::EnvFilter;

/// Attestation gate: decides whether confidential guests may run.
#[derive(Debug, Parser)]
#[command(name = "cvmm-gate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new gate: folders, keys and a gate.toml
    Init {
        /// Where
        folder: PathBuf,
    },
    /// Serve until SIGTERM; SIGHUP reads the policies again
    Serve {
        /// The configuration
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
    },
    /// Check the configuration, keys, policies and audit log, and serve nobody
    Check {
        /// The configuration
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
    },
    /// Sign policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Files that guests are launched from
    #[command(subcommand)]
    Artifact(ArtifactCommand),
    /// The audit log
    #[command(subcommand)]
    Audit(AuditCommand),
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Write FILE.jws
    Sign {
        /// Private key, PEM
        #[arg(long, value_name = "KEY.PEM")]
        key: PathBuf,
        /// The policy
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ArtifactCommand {
    /// Copy firmware images and UKIs to where the gate finds them; prints their SHA-384
    Import {
        /// The configuration
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Verify the chain and the signatures; exit code 0 or 1
    Verify {
        /// The verdict key's public half, PEM
        #[arg(long, value_name = "KEY.PEM")]
        key: PathBuf,
        /// The log
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("CVMM_GATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what was asked for")]
fn run(command: Command) -> Result<()> {
    match command {
        Command::Init { folder } => {
            setup::init(&folder)?;
            println!("{}", folder.join("gate.toml").display());
        }
        Command::Serve { config } => {
            let engine = Arc::new(Engine::open(Config::load(&config)?)?);
            let socket = engine.config().socket.clone();
            let listening = |at: &dyn std::fmt::Display| format!("cannot listen at {at}");
            let status = engine.config().status;
            let listeners = Listeners {
                socket: server::bind(&socket).with_context(|| listening(&socket.display()))?,
                status: status
                    .map(|at| server::bind_status(at).with_context(|| listening(&at)))
                    .transpose()?,
            };
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                // Most of them wait for a batch of the audit log: the more there are, the fewer syncs are needed.
                .max_blocking_threads(64)
                .build()
                .context("cannot start threads")?;
            tracing::info!(socket = %socket.display(), "serving");
            runtime.block_on(async {
                server::serve(Arc::clone(&engine), listeners, server::signals()?).await
            })?;
            // Answers in the making are in the log before its last line.
            drop(runtime);
            engine.close();
            std::fs::remove_file(&socket).with_context(|| format!("cannot remove {}", socket.display()))?;
        }
        Command::Check { config } => {
            Engine::open(Config::load(&config)?)?.close();
        }
        Command::Policy(PolicyCommand::Sign { key, file }) => {
            policies::sign(&file, &Signer::load(&key)?)?;
            println!("{}", policies::signature_path(&file).display());
        }
        Command::Artifact(ArtifactCommand::Import { config, files }) => {
            let config = Config::load(&config)?;
            for file in files {
                println!("{}  {}", artifacts::import(&config.artifacts, &file)?, file.display());
            }
        }
        Command::Audit(AuditCommand::Verify { key, file }) => {
            let text =
                std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
            let verified = audit::verify(&file, &VerdictKey::from_pem(&text)?)?;
            println!("{} lines, signed up to line {}", verified.seq, verified.signed);
        }
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate`: the command line.

mod commands;
mod process;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use commands::audit::AuditCommand;
use commands::certs::CertsCommand;
use commands::keys::KeysCommand;
use commands::state_keys::StateKeysCommand;
use commands::{Ended, owner, print};
use cvmm_gate::clock::unix_time;
use cvmm_gate::config::{Config, ConfigError};
use cvmm_gate::engine::Engine;
use cvmm_gate::keys::Signer;
use cvmm_gate::sandbox::More;
use cvmm_gate::server::Listeners;
use cvmm_gate::store::artifacts;
use cvmm_gate::store::artifacts::ArtifactError;
use cvmm_gate::{control, engine, expiry, policies, sandbox, server, setup};
use cvmm_manual::{CompletionArgs, ManArgs};
use cvmm_secret_memory::deny_dumps;
use tracing_subscriber::EnvFilter;

/// Attestation gate: decides whether confidential guests may run.
#[derive(Debug, Parser)]
#[command(name = "cvmm-gate", version, after_help = Ended::table())]
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
    /// Check and sign policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Files that guests are launched from
    #[command(subcommand)]
    Artifact(ArtifactCommand),
    /// Certificates and revocation lists
    #[command(subcommand)]
    Certs(CertsCommand),
    /// The gate's own keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The keys of VMs' state files
    #[command(subcommand)]
    StateKeys(StateKeysCommand),
    /// The audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print a shell completion script
    Completions(CompletionArgs),
    /// Print the manual page of a command (roff)
    Man(ManArgs),
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Check whether a gate could use a policy, its Rego code included; the signature is not looked at
    Check {
        /// The policy
        file: PathBuf,
    },
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
    /// Copy firmware images and UKIs to where the gate finds them; prints their SHA-384; exit code 0, or 3 if one is nothing that the gate
    /// can use
    Import {
        /// The configuration
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    // Before anything is read that may be secret.
    if let Err(error) = deny_dumps() {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    log();
    match run(Cli::parse().command) {
        Ok(ended) => ExitCode::from(ended as u8),
        Err(error) => {
            commands::complain(&error);
            let config = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if config { Ended::Usage } else { Ended::Failed } as u8)
        }
    }
}

/// The log. A person at a terminal needs no times; a journal and a file get them and no colours.
fn log() {
    let filter = EnvFilter::try_from_env("CVMM_GATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // A log on a full disk loses lines. To say so on the same standard error would panic.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(!terminal)
        .log_internal_errors(false);
    if terminal { builder.without_time().init() } else { builder.init() }
}

/// Root needs no gate to be taken over: a gate of its own user is the point.
fn not_root(config: &Config) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    if !root {
        return Ok(());
    }
    if !config.unsafe_run_as_root {
        bail!(
            "the gate does not serve as root: run it as a user of its own (docs/guide/gate.md has a systemd unit), or set unsafe_run_as_root = true"
        )
    }
    tracing::warn!("unsafe_run_as_root: only the sandbox is between this process and the machine");
    Ok(())
}

fn run(command: Command) -> Result<Ended> {
    match command {
        Command::Init { folder } => {
            owner::check([folder.as_path()])?;
            setup::init(&folder)?;
            print(&format!("{}\n", folder.join("gate.toml").display()))?;
        }
        Command::Serve { config } => {
            let config = Config::load(&config)?;
            not_root(&config)?;
            owner::check([&*config.keys, &*config.state])?;
            let engine = Arc::new(Engine::open(config)?);
            let socket = engine.config().socket.clone();
            let listening = |at: &dyn std::fmt::Display| format!("cannot listen at {at}");
            let status = engine.config().status;
            let rcar = engine.rcar_config().map(|rcar| rcar.listen);
            let tcp = |at| server::bind_tcp(at).with_context(|| listening(&at));
            let listeners = Listeners {
                tls: engine.config().tls.as_ref().map(server::bind_tls).transpose()?,
                socket: server::bind(&socket).with_context(|| listening(&socket.display()))?,
                status: status.map(tcp).transpose()?,
                rcar: rcar.map(tcp).transpose()?,
            };
            let commands =
                control::bind(&engine.config().state).context("cannot listen in the state folder")?;
            process::limit_malloc_arenas();
            process::raise_nofile_limit();
            let manager = process::ServiceManager::from_env()
                .context("cannot reach the service manager (NOTIFY_SOCKET)")?;
            // Everything that has to be opened is; threads are not there yet.
            let confinement = sandbox::enter(engine.config(), &More::of(engine.config()))?;
            engine.metrics().confined(confinement);
            tracing::info!("sandbox: {confinement}");
            engine.start()?;
            let served = Arc::clone(&engine);
            std::thread::Builder::new()
                .name("control".to_owned())
                .spawn(move || control::serve(&commands, &served))
                .context("cannot start threads")?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                // Most of them wait for a batch of the audit log: the more there are, the fewer syncs are needed.
                .max_blocking_threads(64)
                .build()
                .context("cannot start threads")?;
            tracing::info!(socket = %socket.display(), "serving");
            runtime.block_on(async {
                // Before anybody is told that it may be stopped.
                let control = server::signals()?;
                manager.ready();
                server::serve(Arc::clone(&engine), listeners, control).await
            })?;
            manager.stopping();
            // Answers in the making are in the log before its last line.
            drop(runtime);
            engine.close();
            // The sandbox may keep it there: the next start takes a socket that nobody listens at.
            match std::fs::remove_file(&socket) {
                Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => {
                    return Err(error).with_context(|| format!("cannot remove {}", socket.display()));
                }
                _ => {}
            }
            process::exit_immediately();
        }
        Command::Check { config } => {
            let config = Config::load(&config)?;
            owner::check([&*config.keys, &*config.state])?;
            Engine::check(&config)?;
            let now = unix_time();
            let trust = engine::trust(config.unsafe_test_roots.as_deref())?;
            for warning in expiry::warnings(&expiry::scan(&config, &trust, now), now) {
                tracing::warn!("{warning}");
            }
            if let Some(tls) = &config.tls {
                tls.load()?;
            }
        }
        Command::Policy(PolicyCommand::Check { file }) => {
            let policy = policies::check(&file)?;
            print(&format!(
                "{}: valid (policy {}, version {})\n",
                file.display(),
                policy.id,
                policy.version
            ))?;
        }
        Command::Policy(PolicyCommand::Sign { key, file }) => {
            owner::check([cvmm_gate::files::folder_of(&file)])?;
            policies::sign(&file, &Signer::load(&key)?)?;
            print(&format!("{}\n", policies::signature_path(&file).display()))?;
        }
        Command::Artifact(ArtifactCommand::Import { config, files }) => {
            let config = Config::load(&config)?;
            owner::check([&*config.artifacts])?;
            let mut ended = Ended::Done;
            for file in files {
                match artifacts::import(&config.artifacts, &file) {
                    Ok(digest) => print(&format!("{digest}  {}\n", file.display()))?,
                    Err(error @ ArtifactError::Kind { .. }) => {
                        commands::complain(&error.into());
                        ended = Ended::NotGood;
                    }
                    Err(ArtifactError::File(error)) => return Err(error.into()),
                }
            }
            return Ok(ended);
        }
        Command::Audit(command) => return commands::audit::run(command),
        Command::Certs(command) => return commands::certs::run(command),
        Command::Keys(command) => return commands::keys::run(command),
        Command::StateKeys(command) => return commands::state_keys::run(command),
        Command::Completions(args) => return commands::manual::completions(Cli::command(), args),
        Command::Man(args) => return commands::manual::man(Cli::command(), &args),
    }
    Ok(Ended::Done)
}

// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate serve`.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cvmm_gate::config::Config;
use cvmm_gate::engine::Engine;
use cvmm_gate::server::{self, Listeners};
use cvmm_gate::{control, sandbox};

use super::{ExitStatus, owner};
use crate::process;

/// Threads that answer. Most of them wait for a batch of the audit log: the more there are, the fewer syncs
/// are needed.
const MAX_BLOCKING_THREADS: usize = 64;

pub fn run(config: &Path) -> Result<ExitStatus> {
    let config = Config::load(config)?;
    refuse_root(&config)?;
    owner::check([&*config.keys, &*config.state])?;
    let engine = Arc::new(Engine::open(config)?);
    let config = engine.config();
    let listeners = listen(&engine)?;
    let commands = control::bind(&config.state).context("cannot listen in the state folder")?;
    process::limit_malloc_arenas();
    process::raise_nofile_limit();
    let manager =
        process::ServiceManager::from_env().context("cannot reach the service manager (NOTIFY_SOCKET)")?;
    // Everything that has to be opened is open now, and there is one thread.
    let confinement = sandbox::enter(config.sandbox, &config.sandbox_rules())?;
    engine.metrics().confined(confinement);
    tracing::info!("sandbox: {confinement}");
    engine.start()?;
    let served = Arc::clone(&engine);
    std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            control::serve(&commands, |file, from, exchange| served.rotate_audit(file, from, exchange));
        })
        .context("cannot start threads")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build()
        .context("cannot start threads")?;
    tracing::info!(socket = %config.socket.display(), "serving");
    runtime.block_on(async {
        // Before the service manager can stop it.
        let control = server::signals()?;
        manager.ready();
        server::serve(Arc::clone(&engine), listeners, control).await
    })?;
    manager.stopping();
    // Answers in progress are logged before the last line.
    drop(runtime);
    engine.close();
    // The sandbox may not allow it; the next start replaces a socket on which no process listens.
    match std::fs::remove_file(&config.socket) {
        Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => {
            return Err(error).with_context(|| format!("cannot remove {}", config.socket.display()));
        }
        _ => {}
    }
    process::exit_immediately();
}

fn listen(engine: &Engine) -> Result<Listeners> {
    let config = engine.config();
    let failed = |at: &dyn Display| format!("cannot listen on {at}");
    let tcp = |at| server::bind_tcp(at).with_context(|| failed(&at));
    Ok(Listeners {
        tls: config.tls.as_ref().map(server::bind_tls).transpose()?,
        socket: server::bind(&config.socket).with_context(|| failed(&config.socket.display()))?,
        status: config.status.map(tcp).transpose()?,
        rcar: engine.rcar_config().map(|rcar| tcp(rcar.listen)).transpose()?,
    })
}

/// A gate that runs as root gives away the machine if it is taken over: it should have its own user.
fn refuse_root(config: &Config) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    if !config.unsafe_run_as_root {
        bail!(
            "the gate does not serve as root: run it as its own user (docs/guide/gate.md has a systemd unit), or set unsafe_run_as_root = true"
        )
    }
    tracing::warn!("unsafe_run_as_root: only the sandbox protects the machine from this process");
    Ok(())
}

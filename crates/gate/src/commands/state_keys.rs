// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate state-keys`, for operators. VMs get their keys from the running gate.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use cvmm_gate::clock::unix_time;
use cvmm_gate::config::Config;
use cvmm_gate::files::create_private_folder;
use cvmm_gate::lock::StateLock;
use cvmm_gate::store::tpms::Tpms;
use cvmm_gate::store::vm_keys::{StoreKey, VmKeys};
use cvmm_gate::tpm_ca::TpmCa;

use super::{ExitStatus, owner, print_json};

#[derive(Debug, Subcommand)]
pub enum StateKeysCommand {
    /// Create what is missing of the store key, which encrypts VMs' keys, the authority that certifies their
    /// TPMs, and their folders; `cvmm-gate init` does this too
    Init {
        /// Configuration file
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
    },
    /// Print the policy, epochs and counter of a VM as JSON
    Show(Vm),
    /// Write the key of a VM to a new file that only this user can read, for `cvmm state`
    Export {
        #[command(flatten)]
        vm: Vm,
        /// Output file
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Remove the record of a VM with its key, while the gate does not serve: its state file cannot be opened
    /// any more
    Forget(Vm),
}

#[derive(Args, Debug)]
pub struct Vm {
    /// Configuration file
    #[arg(long, short, value_name = "GATE.TOML")]
    config: PathBuf,
    /// VM name
    name: String,
}

fn open(config: &Path) -> Result<VmKeys> {
    of(&Config::load(config)?)
}

fn of(config: &Config) -> Result<VmKeys> {
    owner::check([&*config.keys, &*config.state])?;
    Ok(VmKeys::open(&config.state.join("vm-keys"), StoreKey::load(&config.keys.join("store.key"))?)?)
}

pub fn run(command: StateKeysCommand) -> Result<ExitStatus> {
    match command {
        StateKeysCommand::Init { config } => {
            let config = Config::load(&config)?;
            owner::check([&*config.keys, &*config.state])?;
            let _lock = StateLock::take(&config.state)?;
            for name in ["vm-keys", "tpms"] {
                create_private_folder(&config.state.join(name))?;
            }
            let store_key = config.keys.join("store.key");
            let authority = TpmCa::exists(&config.keys);
            // A gate that was set up by an earlier version may have only one of the two.
            if !store_key.exists() || authority {
                StoreKey::generate(&store_key)?;
            }
            if !authority {
                TpmCa::generate(&config.keys, unix_time())?;
            }
        }
        StateKeysCommand::Show(vm) => print_json(&open(&vm.config)?.summary(&vm.name)?)?,
        StateKeysCommand::Export { vm, out } => {
            let keys = open(&vm.config)?.export(&vm.name)?;
            // While the key is being changed, the file opens with the old one.
            let key = keys.first().context("the record has no key")?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&out);
            file.and_then(|mut file| file.write_all(key.expose()))
                .with_context(|| format!("cannot write {}", out.display()))?;
        }
        StateKeysCommand::Forget(vm) => {
            let config = Config::load(&vm.config)?;
            owner::check([&*config.keys, &*config.state])?;
            // A running gate may have given the key to a VM.
            let _lock = StateLock::take(&config.state)?;
            of(&config)?.forget(&vm.name)?;
            Tpms::new(&config.state.join("tpms")).forget(&vm.name)?;
        }
    }
    Ok(ExitStatus::Done)
}

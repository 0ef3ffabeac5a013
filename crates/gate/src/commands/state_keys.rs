// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate state-keys`: for operators. The gate itself gives keys to VMs.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use cvmm_gate::clock::unix_time;
use cvmm_gate::config::Config;
use cvmm_gate::keys::private_folder;
use cvmm_gate::lock::StateLock;
use cvmm_gate::store::tpms::Tpms;
use cvmm_gate::store::vm_keys::{StoreKey, VmKeys};
use cvmm_gate::tpm_ca::TpmCa;

use super::{Ended, owner, print_json};

#[derive(Debug, Subcommand)]
pub enum StateKeysCommand {
    /// Make what is missing of the store key, by which VMs' keys are encrypted, the authority that certifies their TPMs, and their
    /// folders; `cvmm-gate init` has done so already
    Init {
        /// The configuration
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
    },
    /// Print a VM's policy, epochs and counter as JSON
    Show(Vm),
    /// Write a VM's key to a new file that only its user can read, for `cvmm state`
    Export {
        #[command(flatten)]
        vm: Vm,
        /// The file
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Forget a VM and its key, while the gate does not serve: nobody can open its state file again
    Forget(Vm),
}

#[derive(Args, Debug)]
pub struct Vm {
    /// The configuration
    #[arg(long, short, value_name = "GATE.TOML")]
    config: PathBuf,
    /// The VM's name
    name: String,
}

fn open(config: &Path) -> Result<VmKeys> {
    of(&Config::load(config)?)
}

fn of(config: &Config) -> Result<VmKeys> {
    owner::check([&*config.keys, &*config.state])?;
    Ok(VmKeys::open(&config.state.join("vm-keys"), StoreKey::load(&config.keys.join("store.key"))?)?)
}

pub fn run(command: StateKeysCommand) -> Result<Ended> {
    match command {
        StateKeysCommand::Init { config } => {
            let config = Config::load(&config)?;
            owner::check([&*config.keys, &*config.state])?;
            let _lock = StateLock::take(&config.state)?;
            for name in ["vm-keys", "tpms"] {
                private_folder(&config.state.join(name))?;
            }
            let store_key = config.keys.join("store.key");
            let authority = TpmCa::exists(&config.keys);
            // A gate that was set up before there was one of the two gets the other.
            if !store_key.exists() || authority {
                StoreKey::generate(&store_key)?;
            }
            if !authority {
                TpmCa::generate(&config.keys, unix_time())?;
            }
        }
        StateKeysCommand::Show(vm) => print_json(&open(&vm.config)?.standing(&vm.name)?)?,
        StateKeysCommand::Export { vm, out } => {
            let keys = open(&vm.config)?.export(&vm.name)?;
            // While the key changes the file opens with the old one until the change is over.
            let key = keys.first().context("the record has no key")?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&out);
            file.and_then(|mut file| file.write_all(key.expose()))
                .with_context(|| format!("cannot write {}", out.display()))?;
        }
        StateKeysCommand::Forget(vm) => {
            let config = Config::load(&vm.config)?;
            owner::check([&*config.keys, &*config.state])?;
            // A gate that is running may have given the key to a VM.
            let _lock = StateLock::take(&config.state)?;
            of(&config)?.forget(&vm.name)?;
            Tpms::new(&config.state.join("tpms")).forget(&vm.name)?;
        }
    }
    Ok(Ended::Done)
}

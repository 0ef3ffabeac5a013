// SPDX-License-Identifier: Apache-2.0
//! The grammar of `cvmm state`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cvmm_guest_state::{Kind, VmId};

#[derive(Debug, Subcommand)]
pub(super) enum StateCommand {
    /// Create a new, empty state file
    Create(CreateArgs),
    /// Show what a state file reveals without its key; none of it is verified
    Info {
        /// The state file
        file: PathBuf,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Decrypt and verify all of a state file; exit code 0 or 30
    Check(CheckArgs),
    /// Change the key of a state file
    ///
    /// If it is interrupted, run it again with the same two keys: until it completes, either key opens the
    /// file, afterwards only the new one.
    Rekey(RekeyArgs),
    /// Write what is in a state file, decrypted, to files
    Export(ExportArgs),
}

/// The state file and its key.
#[derive(Args, Debug)]
pub(super) struct StateFile {
    /// The state file
    pub(super) file: PathBuf,
    /// Its key: a file of 32 raw bytes, for its user only (cvmm-gate state-keys export)
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    pub(super) opened: StateFile,
    /// The VM's name
    #[arg(long, value_name = "NAME")]
    pub(super) vm_id: VmId,
    /// The first epoch. The gate accepts the file of a new VM with epoch 0
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) epoch: u64,
    /// Print the result as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) opened: StateFile,
    /// Require that it belongs to this VM
    #[arg(long, value_name = "NAME")]
    pub(super) vm_id: Option<VmId>,
    /// Require at least this epoch
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) least_epoch: u64,
    /// Require at least this many changes
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) least_counter: u64,
    /// Print what was found, or the reason, as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RekeyArgs {
    #[command(flatten)]
    pub(super) opened: StateFile,
    /// The new key: a file of 32 raw bytes, for its user only
    #[arg(long, value_name = "FILE")]
    pub(super) new_key: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) opened: StateFile,
    /// Only this: tpm-permanent, tpm-volatile, tpm-device, tpm-save-state
    #[arg(long, value_name = "NAME")]
    pub(super) kind: Option<Kind>,
    /// Folder for files NAME.bin, which only their user can read; none of them is overwritten
    #[arg(long, short, value_name = "FOLDER")]
    pub(super) out: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    pub(super) json: bool,
}

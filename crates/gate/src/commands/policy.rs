// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate policy`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use cvmm_gate::files::folder_of;
use cvmm_gate::keys::Signer;
use cvmm_gate::policies;

use super::{ExitStatus, owner, print};

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check whether a gate could use a policy, including its Rego code; the signature is not checked
    Check {
        /// Policy file
        file: PathBuf,
    },
    /// Sign a policy; writes FILE.jws
    Sign {
        /// Private key, PEM
        #[arg(long, value_name = "KEY.PEM")]
        key: PathBuf,
        /// Policy file
        file: PathBuf,
    },
}

pub fn run(command: PolicyCommand) -> Result<ExitStatus> {
    match command {
        PolicyCommand::Check { file } => {
            let policy = policies::check(&file)?;
            let (id, version) = (policy.id, policy.version);
            print(&format!("{}: valid (policy {id}, version {version})\n", file.display()))?;
        }
        PolicyCommand::Sign { key, file } => {
            owner::check([folder_of(&file)])?;
            policies::sign(&file, &Signer::load(&key)?)?;
            print(&format!("{}\n", policies::signature_path(&file).display()))?;
        }
    }
    Ok(ExitStatus::Done)
}

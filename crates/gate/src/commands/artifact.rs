// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate artifact`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use cvmm_gate::config::Config;
use cvmm_gate::store::artifacts::{self, ArtifactError};

use super::{ExitStatus, owner, print, print_error};

#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// Copy firmware images and UKIs into the gate's folder and print their SHA-384; exit code 0, or 3 if the
    /// gate cannot use one of them
    Import {
        /// Configuration file
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
        /// Firmware images and UKIs
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

pub fn run(ArtifactCommand::Import { config, files }: ArtifactCommand) -> Result<ExitStatus> {
    let config = Config::load(&config)?;
    owner::check([&*config.artifacts])?;
    let mut status = ExitStatus::Done;
    for file in files {
        match artifacts::import(&config.artifacts, &file) {
            Ok(digest) => print(&format!("{digest}  {}\n", file.display()))?,
            Err(error @ ArtifactError::Kind { .. }) => {
                print_error(&error.into());
                status = ExitStatus::NotGood;
            }
            Err(ArtifactError::File(error)) => return Err(error.into()),
        }
    }
    Ok(status)
}

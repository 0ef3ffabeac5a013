// SPDX-License-Identifier: Apache-2.0
//! The `cvmm` program: the command line with the machine plugged in.

use std::process::ExitCode;

use cvmm::cli::{self, RunOptions};
use cvmm::config::Config;
use cvmm::exit_code::{ExitReport, ExitStatus};

/// WIRE HERE: replace `no_machine` by `cvmm::run::run` once it exists, and delete the rest of this file.
fn main() -> ExitCode {
    cli::main(no_machine)
}

fn no_machine(config: Config, _: RunOptions) -> Result<NoMachine, NoMachine> {
    Err(NoMachine(config.name))
}

#[derive(Debug, thiserror::Error)]
#[error("cannot run \"{0}\": this build of cvmm has no machine yet")]
struct NoMachine(String);

impl ExitReport for NoMachine {
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::Internal
    }
}

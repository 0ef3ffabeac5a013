// SPDX-License-Identifier: Apache-2.0
//! `cvmm-hostile`: cvmm with a hostile host between guest and machine, for the boot tests.
//!
//! Its command line is that of `cvmm`, whose library it links. What the host does is in the environment
//! variable `CVMM_HOSTILE` (`attack`). It goes between guest and machine through `cvmm::machine::interpose`,
//! the one seam that cvmm has for this: it has the powers of a host, and no more. In particular it cannot
//! make a guest run that was not admitted.

mod attack;
mod host;
mod stage;

use std::io::Write;
use std::process::ExitCode;

use attack::{Attack, VARIABLE};
use host::HostileHost;

fn main() -> ExitCode {
    if let Err(error) = cvmm_secret_memory::deny_dumps() {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        return ExitCode::FAILURE;
    }
    cvmm_vtpm::process::child_main_if_asked();
    let attack =
        match std::env::var(VARIABLE).map_err(|error| error.to_string()).and_then(|text| text.parse()) {
            Ok(attack) => attack,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "error: {VARIABLE}: {error}");
                return ExitCode::FAILURE;
            }
        };
    announce(&attack);
    let host = HostileHost::new(attack);
    cvmm::cli::main(|config, options| cvmm::run::run_with(&config, &options, &host))
}

fn announce(attack: &Attack) {
    let _ = writeln!(std::io::stderr(), "this host is hostile: {attack:?}");
}

// SPDX-License-Identifier: Apache-2.0
//! The host between guest and machine.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use cvmm::inputs::Inputs;
use cvmm::machine::interpose::{GuestAccess, Interposer};
use cvmm_launch::blob::Blob;
use cvmm_launch::plan::PageSink;

use crate::attack::Attack;
use crate::stage;

/// A host that carries out one attack, on every machine of a VM.
#[derive(Debug)]
pub struct HostileHost {
    attack: Attack,
    /// The ticket of the previous start; a reset is a start.
    last_ticket: Mutex<Option<Vec<u8>>>,
}

impl HostileHost {
    /// Carries out `attack`.
    pub fn new(attack: Attack) -> Self {
        Self { attack, last_ticket: Mutex::default() }
    }
}

/// A test whose host cannot attack must not pass.
fn must<T>(what: &Path, result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "error: {}: {error}", what.display());
        std::process::exit(1)
    })
}

impl Interposer for HostileHost {
    fn opened(&self, inputs: &mut Inputs) {
        let open = |path: &Path| must(path, Blob::open(path));
        match (&self.attack, &mut inputs.served) {
            (Attack::Kernel(path), Some(served)) => served.kernel = open(path),
            (Attack::Initrd(path), Some(served)) => served.initrd = Some(open(path)),
            (Attack::Cmdline(cmdline), Some(served)) => served.cmdline.clone_from(cmdline),
            (Attack::Shim(path), _) => inputs.more_files.push(("etc/boot/shim".to_owned(), open(path))),
            _ => {}
        }
    }

    fn launched(&self, guest: GuestAccess<'_>) {
        if let Attack::Variables(path) = &self.attack {
            let bytes = must(path, std::fs::read(path));
            let firmware =
                must(path, guest.firmware.ok_or_else(|| io::Error::other("the guest has no firmware image")));
            must(path, guest.memory.sink().write(firmware.gpa(), &bytes));
        }
    }

    fn stage_message(&self, guest: GuestAccess<'_>, serve: &mut dyn FnMut()) {
        match self.attack {
            Attack::Stage(attack) => stage::attack(attack, guest, &self.last_ticket, serve),
            _ => serve(),
        }
    }
}

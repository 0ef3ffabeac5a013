// SPDX-License-Identifier: Apache-2.0
//! What the command line says of a run: exit codes and exit counts.

use std::collections::BTreeMap;

use super::{Outcome, RunError};
use crate::exit_code::{ExitReport, ExitStatus};
use crate::machine::{DeviceError, MachineError, StageError, TpmCounts};
use crate::vm::control::Ending;
use crate::vm::memory::MemoryError;

fn of_ending(ending: &Ending) -> ExitStatus {
    match ending {
        Ending::PowerOff => ExitStatus::Success,
        Ending::TripleFault { .. } => ExitStatus::TripleFault,
        Ending::InternalError { .. } => ExitStatus::KvmInternalError,
        Ending::Terminated { .. } => ExitStatus::Terminated,
        Ending::MemoryViolation { .. } => ExitStatus::MemoryViolation,
        Ending::Stopped => ExitStatus::Stopped,
        Ending::Silent(_) => ExitStatus::Silent,
        Ending::Revoked { .. } => ExitStatus::GateDenied,
        Ending::Reset => ExitStatus::Reset,
    }
}

impl ExitReport for Outcome {
    fn exit_status(&self) -> ExitStatus {
        of_ending(&self.ending)
    }

    fn exits(&self) -> Option<BTreeMap<String, u64>> {
        let counts = &self.exits;
        let mut exits = BTreeMap::from([
            ("interrupted".to_owned(), counts.interrupted),
            ("conversion".to_owned(), counts.conversions),
            ("other".to_owned(), counts.other),
        ]);
        match &counts.ports {
            Some(ports) => exits.extend(ports.iter().map(|(port, count)| (format!("io.{port:#x}"), *count))),
            None => exits.extend([("io.in".to_owned(), counts.io_in), ("io.out".to_owned(), counts.io_out)]),
        }
        match &counts.mmio_pages {
            Some(pages) => {
                exits.extend(pages.iter().map(|(page, count)| (format!("mmio.{page:#x}"), *count)))
            }
            None => exits.extend([
                ("mmio.read".to_owned(), counts.mmio_read),
                ("mmio.write".to_owned(), counts.mmio_write),
            ]),
        }
        exits.extend(self.tpm.iter().flat_map(TpmCounts::rows).map(|(name, count)| (name.to_owned(), count)));
        Some(exits)
    }
}

impl ExitReport for RunError {
    fn exit_status(&self) -> ExitStatus {
        match self {
            Self::NoGate => ExitStatus::NotAdmitted,
            Self::Host(_) | Self::SnpHost(_) => ExitStatus::Host,
            Self::Input(_) => ExitStatus::LaunchRefused,
            Self::Console(_) | Self::Machine(MachineError::Device(DeviceError::Disk { .. })) => {
                ExitStatus::File
            }
            Self::Machine(MachineError::Memory(MemoryError::Allocate { .. })) => ExitStatus::Host,
            Self::Machine(MachineError::Snp(error)) => error.exit_status(),
            Self::Gate(error) | Self::Machine(MachineError::Gate(error)) => error.exit_status(),
            Self::Machine(MachineError::Stage(StageError::Gate(error))) => error.exit_status(),
            Self::Machine(MachineError::Stage(StageError::Ended(ending))) => of_ending(ending),
            Self::Machine(MachineError::Stage(StageError::Time(_))) => ExitStatus::NotAdmitted,
            Self::Machine(MachineError::Stage(StageError::Stopped)) => ExitStatus::Stopped,
            Self::Vtpm(error) => error.exit_status(),
            Self::TwoWishes | Self::NoKey => ExitStatus::Usage,
            Self::Machine(MachineError::Place(_)) => ExitStatus::LaunchRefused,
            Self::Machine(_) | Self::Events(_) => ExitStatus::Internal,
        }
    }

    fn reason_code(&self) -> Option<&'static str> {
        match self {
            Self::Input(error) => error.code(),
            _ => None,
        }
    }
}

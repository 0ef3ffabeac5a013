// SPDX-License-Identifier: Apache-2.0
//! Why a VM could not be run.

use std::io;

use cvmm_kvm::cpuid::CpuidError;
use cvmm_kvm::host::HostError;
use thiserror::Error;

use super::console::ConsoleError;
use crate::admission::AdmissionError;
use crate::inputs::InputError;
use crate::machine::{MachineError, StageError};
use crate::vtpm::VtpmError;

/// Why a VM could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// An SNP guest without a gate.
    #[error(
        "SNP guests require an attestation gate: add a [gate] section to vm.toml, or pass --without-gate to run unattested"
    )]
    GateRequired,
    /// A TPM with persistent state, whose key only a gate has.
    #[error(
        "vtpm.state requires a gate, which has the key of the state file: remove vtpm.state, or run without --without-gate"
    )]
    StateWithoutGate,
    /// Both `[gate]` and `--without-gate` were given.
    #[error("--without-gate conflicts with [gate] in vm.toml; remove one of them")]
    ConflictingGateOptions,
    /// The gate.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The host's SNP.
    #[error(transparent)]
    SnpHost(#[from] cvmm_kvm_snp::probe::HostError),
    /// The host's KVM.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The host's CPUID.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// A file the VM starts from.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The first stage.
    #[error(transparent)]
    Stage(#[from] StageError<AdmissionError>),
    /// The guest's TPM.
    #[error(transparent)]
    Vtpm(#[from] VtpmError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The guest's channel to the gate.
    #[error("cannot create the guest's channel to the gate: {0}")]
    Channel(#[source] io::Error),
    /// Signals or the event loop.
    #[error("cannot watch for signals: {0}")]
    Events(#[source] io::Error),
}

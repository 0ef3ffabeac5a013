// SPDX-License-Identifier: Apache-2.0
//! The states in which virtual CPUs start, and what is measured of them.

use cvmm_snp::vmsa::Vmsa;

use crate::registers::StartRegisters;
use crate::vmsa::{VcpuModel, first_stage, reset};

/// State in which a virtual CPU starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuStart {
    /// The architectural reset state with another code segment base and instruction pointer.
    Reset {
        /// First instruction: the base of CS plus IP. An ordinary guest's application processors never use
        /// theirs, they wait for a SIPI.
        eip: u32,
    },
    /// 64-bit mode, at the first stage ([`crate::first_stage`]).
    FirstStage {
        /// Where the stage is.
        place: u32,
    },
    /// Registers that an IGVM file gives.
    Registers(StartRegisters),
}

/// The VMSA of a vCPU that starts in state `start`.
pub fn initial(start: &VcpuStart, model: VcpuModel) -> Vmsa {
    match start {
        VcpuStart::Reset { eip } => reset(*eip, model),
        VcpuStart::FirstStage { place } => first_stage(u64::from(*place), model),
        VcpuStart::Registers(registers) => registers.vmsa(model.features),
    }
}

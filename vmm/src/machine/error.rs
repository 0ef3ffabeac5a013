// SPDX-License-Identifier: Apache-2.0
//! Why a machine could not be built or started.

use cvmm_kvm::cpuid::CpuidError;
use cvmm_kvm::memory::MemoryError;
use cvmm_kvm::vcpu::VcpuError;
use cvmm_launch::plan::PlaceError;
use thiserror::Error;

use super::devices::DeviceError;
use super::snp::SnpError;

/// Why a machine could not be built or started.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A KVM call that makes the VM failed.
    #[error("kvm: cannot {what}: {source}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A host resource (event descriptor, thread) was refused.
    #[error("cannot create {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        #[source]
        source: std::io::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// CPUID.
    #[error(transparent)]
    Cpuid(#[from] CpuidError),
    /// A vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A page of the launch plan could not be placed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The SNP launch.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// The plan has no vCPU.
    #[error("the launch plan has no vcpu")]
    NoVcpu,
    /// The admission belongs to a different guest.
    #[error("the admission belongs to a different guest")]
    NotAdmitted,
}

impl MachineError {
    /// For a KVM call.
    pub(super) fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { what, source }
    }

    /// For a host resource.
    pub(super) fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Making an SNP VM: everything that must come before its memory and its vCPUs.

use std::sync::Arc;

use cvmm_snp::features::SevFeatures;
use kvm_bindings::{kvm_enable_cap, kvm_sev_init};
use kvm_ioctls::{Cap, Kvm, VmFd};
use thiserror::Error;

use crate::probe::SnpHost;
use crate::sys::{self, SevCallError};

/// Why an SNP VM could not be made.
#[derive(Debug, Error)]
pub enum CreateError {
    /// KVM_CREATE_VM.
    #[error("kvm refused to create an sev-snp vm: {0}")]
    Create(#[source] kvm_ioctls::Error),
    /// KVM_ENABLE_CAP.
    #[error("kvm refused to hand page state changes to the vmm (KVM_CAP_EXIT_HYPERCALL): {0}")]
    ExitHypercall(#[source] kvm_ioctls::Error),
    /// SEV_FEATURES this kernel does not launch with.
    #[error(
        "sev features {wanted:#x} are not available: this kernel and processor allow {available:#x} in addition to snp_active"
    )]
    Features {
        /// Asked for.
        wanted: u64,
        /// Allowed.
        available: u64,
    },
    /// All ASIDs for SNP guests are taken.
    #[error(
        "no asid is free for an sev-snp guest: as many run as the firmware setup allows (\"SEV-ES ASID space limit\")"
    )]
    NoAsid,
    /// KVM_SEV_SNP_ENABLE_REQ_CERTS.
    #[error("kvm refused to ask this process for certificates: {0}")]
    Certificates(#[source] SevCallError),
    /// KVM_SEV_INIT2, otherwise.
    #[error("cannot initialise sev-snp for the vm: {0}")]
    Init(#[source] SevCallError),
}

/// A VM that is initialised for SNP and has no vCPU yet.
#[derive(Debug)]
pub struct SnpVm {
    vm: Arc<VmFd>,
    host: Arc<SnpHost>,
    features: SevFeatures,
}

impl SnpVm {
    /// Creates the VM. `features` are the SEV_FEATURES of all vCPUs, with SNP_ACTIVE; they are part of the
    /// launch digest.
    pub fn create(kvm: &Kvm, host: &Arc<SnpHost>, features: SevFeatures) -> Result<Self, CreateError> {
        let optional = features.0 & !SevFeatures::SNP_ACTIVE.0;
        if optional & !host.vmsa_features() != 0 {
            return Err(CreateError::Features { wanted: optional, available: host.vmsa_features() });
        }
        let vm = kvm.create_vm_with_type(sys::VM_TYPE_SNP).map_err(CreateError::Create)?;
        let mut cap = kvm_enable_cap { cap: Cap::ExitHypercall as u32, ..Default::default() };
        cap.args[0] = 1 << sys::HC_MAP_GPA_RANGE;
        vm.enable_cap(&cap).map_err(CreateError::ExitHypercall)?;
        let mut init = kvm_sev_init { vmsa_features: optional, ghcb_version: 2, ..Default::default() };
        sys::sev_command(&vm, host.sev(), sys::SEV_INIT2, &mut init).map_err(|error| match error.errno {
            libc::EBUSY => CreateError::NoAsid,
            _ => CreateError::Init(error),
        })?;
        Ok(Self { vm: Arc::new(vm), host: Arc::clone(host), features })
    }

    /// The VM, for the irqchip, memory and vCPUs.
    pub fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// SEV_FEATURES of its vCPUs.
    pub fn features(&self) -> SevFeatures {
        self.features
    }

    /// Asks KVM to fetch certificates from this process whenever the guest requests a report with them (exit
    /// reason 43). Before the first vCPU. `false`: this kernel cannot (Linux 6.12), guests get reports
    /// without certificates.
    pub fn request_certificates(&self) -> Result<bool, CreateError> {
        // The command has no data.
        match self.command(sys::SNP_ENABLE_REQ_CERTS, &mut 0_u64) {
            Ok(()) => Ok(true),
            Err(SevCallError { errno: libc::EINVAL | libc::ENOTTY, .. }) => Ok(false),
            Err(error) => Err(CreateError::Certificates(error)),
        }
    }

    pub(crate) fn policy_bits(&self) -> Option<u64> {
        self.host.policy_bits()
    }

    pub(crate) fn command<T>(&self, id: u32, data: &mut T) -> Result<(), SevCallError> {
        sys::sev_command(&self.vm, self.host.sev(), id, data)
    }
}

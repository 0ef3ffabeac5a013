// SPDX-License-Identifier: Apache-2.0
//! Whether this host can launch SNP guests, and what its kernel knows.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use cvmm_sev_host::{SevDevice, SevHostError};
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

use crate::sys;

/// Why this host cannot launch an SNP guest.
#[derive(Debug, Error)]
pub enum HostError {
    /// KVM has no SNP VM type.
    #[error(
        "this host's kvm cannot make sev-snp guests (vm types {0:#x}): it needs an EPYC of the third generation or \
         later, sev-snp enabled in its firmware setup, and a kernel of 6.11 or later with kvm_amd sev_snp=Y; \
         cvmm doctor says what is missing"
    )]
    NoVmType(u64),
    /// A capability that launching needs.
    #[error("the host kernel's KVM lacks {0}, which sev-snp guests need: a kernel of 6.11 or later has it")]
    MissingCapability(&'static str),
    /// The device node.
    #[error("{0}; it needs the ccp driver and read permission (a launch writes nothing to it)")]
    SevDevice(#[from] SevHostError),
}

/// What KVM answers when it is asked about SNP, without a judgement and without the security processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// KVM_CAP_VM_TYPES: a bit for each type.
    pub vm_types: u64,
    /// KVM_CAP_EXIT_HYPERCALL: a bit for each hypercall that can be handed to the VMM.
    pub exit_hypercall: u64,
    /// KVM_CAP_USER_MEMORY2.
    pub user_memory2: bool,
    /// KVM_CAP_MEMORY_FAULT_INFO.
    pub memory_fault_info: bool,
    /// KVM_CAP_MEMORY_ATTRIBUTES: the attributes that memory can have.
    pub memory_attributes: u64,
    /// KVM_CAP_GUEST_MEMFD.
    pub guest_memfd: bool,
    /// KVM_X86_SEV_VMSA_FEATURES: optional SEV_FEATURES; `None`, here and below, if the kernel does not say.
    pub vmsa_features: Option<u64>,
    /// KVM_X86_SNP_POLICY_BITS.
    pub policy_bits: Option<u64>,
    /// KVM_X86_SEV_SNP_REQ_CERTS: not zero if guests can be served certificates.
    pub certificates: Option<u64>,
}

impl Support {
    /// Asks.
    pub fn ask(kvm: &Kvm) -> Self {
        // A negative answer means a kernel that does not know the capability.
        let value = |capability| u64::try_from(kvm.check_extension_raw(capability)).unwrap_or(0);
        let attribute = |attribute| sys::system_attribute(kvm, sys::GROUP_SEV, attribute);
        Self {
            vm_types: value(sys::CAP_VM_TYPES),
            exit_hypercall: value(Cap::ExitHypercall as u64),
            user_memory2: value(Cap::UserMemory2 as u64) != 0,
            memory_fault_info: value(Cap::MemoryFaultInfo as u64) != 0,
            memory_attributes: value(Cap::MemoryAttributes as u64),
            guest_memfd: value(Cap::GuestMemfd as u64) != 0,
            vmsa_features: attribute(sys::ATTR_VMSA_FEATURES),
            policy_bits: attribute(sys::ATTR_SNP_POLICY_BITS),
            certificates: attribute(ATTR_SNP_REQ_CERTS),
        }
    }

    /// Whether KVM has the SNP VM type.
    pub fn has_snp(&self) -> bool {
        self.vm_types & 1 << sys::VM_TYPE_SNP != 0
    }

    /// Whether page state changes can be handed to the VMM.
    pub fn has_map_gpa_range(&self) -> bool {
        self.exit_hypercall & 1 << sys::HC_MAP_GPA_RANGE != 0
    }

    /// Whether memory can be made private.
    pub fn has_private_memory(&self) -> bool {
        self.memory_attributes & sys::ATTRIBUTE_PRIVATE != 0
    }
}

/// KVM_X86_SEV_SNP_REQ_CERTS; not in Linux 6.12.
const ATTR_SNP_REQ_CERTS: u64 = 2;

/// Makes a VM of the SNP type and closes it. It takes no ASID: KVM gives one when the VM is initialised.
pub fn try_create(kvm: &Kvm) -> Result<(), kvm_ioctls::Error> {
    kvm.create_vm_with_type(sys::VM_TYPE_SNP).map(drop)
}

/// The host's SNP: opened and probed once per process.
#[derive(Debug)]
pub struct SnpHost {
    sev: SevDevice,
    vmsa_features: u64,
    policy_bits: Option<u64>,
}

impl SnpHost {
    /// Opens the security processor and asks KVM.
    pub fn open(kvm: &Kvm) -> Result<Self, HostError> {
        Self::open_at(kvm, Path::new(cvmm_sev_host::PATH))
    }

    fn open_at(kvm: &Kvm, path: &Path) -> Result<Self, HostError> {
        // A negative answer means a kernel that does not know the capability.
        let types = u64::try_from(kvm.check_extension_raw(sys::CAP_VM_TYPES)).unwrap_or(0);
        if types & 1 << sys::VM_TYPE_SNP == 0 {
            return Err(HostError::NoVmType(types));
        }
        let has = |capability, bits: i32, name| match kvm.check_extension_int(capability) {
            value if value > 0 && value & bits == bits => Ok(()),
            _ => Err(HostError::MissingCapability(name)),
        };
        has(Cap::ExitHypercall, 1 << sys::HC_MAP_GPA_RANGE, "KVM_CAP_EXIT_HYPERCALL")?;
        has(Cap::UserMemory2, 0, "KVM_CAP_USER_MEMORY2")?;
        has(Cap::MemoryFaultInfo, 0, "KVM_CAP_MEMORY_FAULT_INFO")?;
        let sev = SevDevice::open_at(path)?;
        let attribute = |attribute| sys::system_attribute(kvm, sys::GROUP_SEV, attribute);
        Ok(Self {
            sev,
            vmsa_features: attribute(sys::ATTR_VMSA_FEATURES).unwrap_or(0),
            policy_bits: attribute(sys::ATTR_SNP_POLICY_BITS),
        })
    }

    /// Optional SEV_FEATURES this kernel can launch with (DEBUG_SWAP, SECURE_TSC); SNP_ACTIVE is not among
    /// them.
    pub fn vmsa_features(&self) -> u64 {
        self.vmsa_features
    }

    /// Policy bits this kernel and firmware can honour; `None` if the kernel does not say.
    pub fn policy_bits(&self) -> Option<u64> {
        self.policy_bits
    }

    pub(crate) fn sev(&self) -> BorrowedFd<'_> {
        self.sev.as_fd()
    }
}

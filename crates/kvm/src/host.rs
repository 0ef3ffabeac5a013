// SPDX-License-Identifier: Apache-2.0
//! The host's KVM: opened once, checked against a list of what cvmm cannot do without.

use std::io;

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

/// The KVM device.
pub const KVM_PATH: &str = "/dev/kvm";

/// Why this host cannot run a VM.
#[derive(Debug, Error)]
pub enum HostError {
    /// The device node does not exist.
    #[error(
        "{KVM_PATH} does not exist: load kvm_amd or kvm_intel, enable virtualisation in the firmware setup, or \
         run on a host that has it"
    )]
    NoKvm,
    /// The user may not open it.
    #[error("no permission to open {KVM_PATH}: add this user to the group that owns it (usually \"kvm\")")]
    NoPermission,
    /// Anything else open() said.
    #[error("cannot open {KVM_PATH}: {0}")]
    Open(#[source] io::Error),
    /// Not the KVM interface this program speaks.
    #[error("{KVM_PATH} has API version {0}, expected {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// A capability is missing.
    #[error("the host kernel's KVM lacks {0}: a kernel of 5.15 or later has it")]
    MissingCapability(&'static str),
    /// More vCPUs than the kernel takes.
    #[error("vcpus = {wanted} but this host's KVM allows at most {allowed} in one VM")]
    TooManyVcpus {
        /// Asked for.
        wanted: u32,
        /// KVM_CAP_MAX_VCPUS.
        allowed: usize,
    },
}

/// Capabilities without which the machine cannot be built, with the name the kernel documents them by.
const REQUIRED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IoeventfdNoLength, "KVM_CAP_IOEVENTFD_NO_LENGTH"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
];

/// Opens [`KVM_PATH`] and checks that a VM with `vcpus` vCPUs can be built on it.
pub fn open(vcpus: u32) -> Result<Kvm, HostError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => HostError::NoKvm,
        libc::EACCES | libc::EPERM => HostError::NoPermission,
        errno => HostError::Open(io::Error::from_raw_os_error(errno)),
    })?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(HostError::ApiVersion(version));
    }
    for (capability, name) in REQUIRED {
        if !kvm.check_extension(capability) {
            return Err(HostError::MissingCapability(name));
        }
    }
    let allowed = kvm.get_max_vcpus();
    if vcpus as usize > allowed {
        return Err(HostError::TooManyVcpus { wanted: vcpus, allowed });
    }
    Ok(kvm)
}

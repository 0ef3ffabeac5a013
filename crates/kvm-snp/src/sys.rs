// SPDX-License-Identifier: Apache-2.0
//! What kvm-bindings and kvm-ioctls lack, and the one place that issues KVM_MEMORY_ENCRYPT_OP.
//!
//! Numbers are from Linux include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h.
#![expect(unsafe_code, reason = "hands addresses of buffers to the kernel")]

use std::os::fd::{AsRawFd, BorrowedFd};

use cvmm_snp::status::SevError;
use kvm_bindings::kvm_sev_cmd;
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

/// KVM_X86_SNP_VM.
pub const VM_TYPE_SNP: u64 = 4;
/// KVM_MEMORY_ATTRIBUTE_PRIVATE.
pub const ATTRIBUTE_PRIVATE: u64 = 1 << 3;
/// KVM_MEM_GUEST_MEMFD.
pub const MEM_GUEST_MEMFD: u32 = 1 << 2;
/// KVM_HC_MAP_GPA_RANGE.
pub const HC_MAP_GPA_RANGE: u64 = 12;
/// KVM_CAP_VM_TYPES.
pub const CAP_VM_TYPES: u64 = 235;

/// KVM_SEV_INIT2.
pub const SEV_INIT2: u32 = 22;
/// KVM_SEV_SNP_LAUNCH_START.
pub const SNP_LAUNCH_START: u32 = 100;
/// KVM_SEV_SNP_LAUNCH_UPDATE.
pub const SNP_LAUNCH_UPDATE: u32 = 101;
/// KVM_SEV_SNP_LAUNCH_FINISH.
pub const SNP_LAUNCH_FINISH: u32 = 102;
/// KVM_SEV_SNP_ENABLE_REQ_CERTS; not in Linux 6.12.
pub const SNP_ENABLE_REQ_CERTS: u32 = 103;
/// KVM_SEV_SNP_HV_REPORT_REQ, of a patch that no released kernel has (version 7, March 2026): the number may
/// change.
pub const SNP_HV_REPORT_REQ: u32 = 104;

/// `kvm_sev_snp_hv_report_req` of that patch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HostReportRequest {
    /// Where the response goes.
    pub address: u64,
    /// Bytes there.
    pub len: u64,
    /// 0: the VLEK if there is one, else the VCEK.
    pub key: u8,
    /// Zero.
    pub reserved1: [u8; 7],
    /// Zero.
    pub reserved2: [u64; 4],
}

/// Group and attributes of the system device attributes on /dev/kvm (KVM_X86_GRP_SEV).
pub const GROUP_SEV: u32 = 1;
/// KVM_X86_SEV_VMSA_FEATURES.
pub const ATTR_VMSA_FEATURES: u64 = 0;
/// KVM_X86_SNP_POLICY_BITS; not in Linux 6.12.
pub const ATTR_SNP_POLICY_BITS: u64 = 1;

ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, kvm_bindings::KVMIO, 0xe2, kvm_bindings::kvm_device_attr);

/// A failed SEV command: the kernel's errno and what the firmware said, if it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SevCallError {
    /// The kernel's answer.
    pub errno: i32,
    /// The firmware's; `None` if the kernel failed before or after the firmware call.
    pub firmware: Option<SevError>,
}

impl std::fmt::Display for SevCallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kernel = std::io::Error::from_raw_os_error(self.errno);
        match self.firmware {
            Some(firmware) => write!(f, "firmware status {firmware} ({kernel})"),
            None => write!(f, "{kernel}"),
        }
    }
}

/// Issues command `id` with `data`. Whether what `data` points to is readable and writable for the kernel is
/// the caller's business: it reports a bad address, it does not crash.
pub fn sev_command<T>(vm: &VmFd, sev: BorrowedFd<'_>, id: u32, data: &mut T) -> Result<(), SevCallError> {
    let mut command = kvm_sev_cmd {
        id,
        data: std::ptr::from_mut(data) as u64,
        // No firmware call, until the kernel says otherwise.
        error: u32::MAX,
        // Descriptors are not negative while they are borrowed.
        sev_fd: u32::try_from(sev.as_raw_fd()).unwrap_or(u32::MAX),
        ..Default::default()
    };
    let result = vm.encrypt_op_sev(&mut command);
    let firmware = SevError::from_code(command.error).filter(|error| *error != SevError::NoCall);
    match (result, firmware) {
        (Ok(()), None) => Ok(()),
        // Never seen (Linux 6.12 hides what stopped an update that made some progress), but a refusal is not
        // a success.
        (Ok(()), firmware) => Err(SevCallError { errno: libc::EIO, firmware }),
        (Err(error), firmware) => Err(SevCallError { errno: error.errno(), firmware }),
    }
}

/// Reads a system attribute of /dev/kvm; `None` if the kernel has none such.
pub fn system_attribute(kvm: &kvm_ioctls::Kvm, group: u32, attribute: u64) -> Option<u64> {
    let mut value = 0_u64;
    let request = kvm_bindings::kvm_device_attr {
        group,
        attr: attribute,
        addr: std::ptr::from_mut(&mut value) as u64,
        ..Default::default()
    };
    // SAFETY: the request names 8 writable bytes, which is what these attributes are; both outlive the call.
    let result = unsafe { ioctl_with_ref(kvm, KVM_GET_DEVICE_ATTR(), &request) };
    (result == 0).then_some(value)
}

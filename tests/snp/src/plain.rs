// SPDX-License-Identifier: Apache-2.0
//! A plain KVM guest with the memory of an SNP one: the control of what SNP changes.
#![expect(unsafe_code, reason = "KVM keeps addresses of our memory")]

use anyhow::{Context, Result};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::sys::Mapping;
use crate::vm::{LOW_SIZE, PAGE, TOP};

/// A plain guest.
#[derive(Debug)]
pub struct PlainVm {
    vcpu: VcpuFd,
    _vm: VmFd,
    low: Mapping,
    _top: Mapping,
}

impl PlainVm {
    /// A guest that will run `code` from reset.
    pub fn new(code: &[u8]) -> Result<Self> {
        let vm = Kvm::new().context("/dev/kvm")?.create_vm().context("KVM_CREATE_VM")?;
        let (low, mut top) = (Mapping::new(LOW_SIZE)?, Mapping::new(PAGE)?);
        top.bytes().copy_from_slice(&crate::code::reset_page(code));
        for (slot, gpa, memory) in [(0, 0, &low), (1, TOP, &top)] {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: gpa,
                memory_size: memory.size() as u64,
                userspace_addr: memory.address(),
            };
            // SAFETY: the mapping lives as long as the VM.
            unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
        }
        let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        Ok(Self { vcpu, _vm: vm, low, _top: top })
    }

    /// Run it; true if it ended with HLT.
    pub fn run(&mut self) -> Result<bool> {
        Ok(matches!(self.vcpu.run().context("KVM_RUN")?, VcpuExit::Hlt))
    }

    /// The guest's first 64 KiB.
    pub fn memory(&mut self) -> &mut [u8] {
        self.low.bytes()
    }
}

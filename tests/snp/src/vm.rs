// SPDX-License-Identifier: Apache-2.0
//! An SNP guest by raw ioctls: the page of the reset vector and 64 KiB at 0, both private.
//!
//! Structures and numbers: Linux 6.12, `arch/x86/include/uapi/asm/kvm.h` and `include/uapi/linux/kvm.h`.
#![expect(unsafe_code, reason = "KVM keeps addresses of our memory")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, kvm_create_guest_memfd, kvm_memory_attributes, kvm_sev_cmd,
    kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

pub use crate::code::PAGE;
use crate::sys::{self, Mapping};

/// GPA of the page of the reset vector.
pub const TOP: u64 = 0xffff_f000;
/// GPA of the first page for data.
pub const DATA: u64 = 0x1000;
/// Memory from GPA 0, bytes.
pub const LOW_SIZE: usize = 0x10000;
/// Policy that every platform takes: SMT allowed, the bit that must be one.
pub const POLICY: u64 = 0x3_0000;

const KVM_X86_SNP_VM: u64 = 4;
const KVM_SEV_INIT2: u32 = 22;
const KVM_SEV_SNP_LAUNCH_START: u32 = 100;
const KVM_SEV_SNP_LAUNCH_UPDATE: u32 = 101;
const KVM_SEV_SNP_LAUNCH_FINISH: u32 = 102;
const KVM_MEMORY_ATTRIBUTE_PRIVATE: u64 = 8;
const KVM_SYSTEM_EVENT_SEV_TERM: u32 = 6;

/// Page types of LAUNCH_UPDATE.
pub const NORMAL: u8 = 1;
/// The firmware checks it and hands a corrected one back.
pub const CPUID: u8 = 6;

#[repr(C)]
#[derive(Default)]
struct SevInit {
    vmsa_features: u64,
    flags: u32,
    ghcb_version: u16,
    pad1: u16,
    pad2: [u32; 8],
}

#[repr(C)]
#[derive(Default)]
struct LaunchStart {
    policy: u64,
    gosvw: [u8; 16],
    flags: u16,
    pad0: [u8; 6],
    pad1: [u64; 4],
}

#[repr(C)]
#[derive(Default)]
struct LaunchUpdate {
    gfn: u64,
    uaddr: u64,
    len: u64,
    kind: u8,
    pad0: u8,
    flags: u16,
    pad1: u32,
    pad2: [u64; 4],
}

#[repr(C)]
#[derive(Default)]
struct LaunchFinish {
    id_block: u64,
    id_auth: u64,
    id_block_en: u8,
    auth_key_en: u8,
    vcek_disabled: u8,
    host_data: [u8; 32],
    pad0: [u8; 3],
    flags: u16,
    pad1: [u64; 4],
}

/// LAUNCH_UPDATE takes whole pages.
#[repr(C, align(4096))]
struct AlignedPage([u8; PAGE]);

/// An SEV command that the kernel or the firmware did not carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The kernel's answer.
    pub errno: i32,
    /// The firmware's answer; 0 when it was not asked.
    pub firmware: u32,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, firmware {:#x}", io::Error::from_raw_os_error(self.errno), self.firmware)
    }
}

impl std::error::Error for Refused {}

/// How a run of the vCPU ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest asked for its termination; the value of its GHCB MSR.
    Terminated(u64),
    /// A fault that could not be delivered.
    Shutdown,
    /// Our alarm: the guest did not get on.
    Interrupted,
    /// Anything else.
    Other(String),
}

/// An SNP guest before or after its launch.
#[derive(Debug)]
pub struct SnpVm {
    vcpu: VcpuFd,
    vm: VmFd,
    sev: File,
    low: Mapping,
    low_memfd: OwnedFd,
    _top: Mapping,
    _top_memfd: OwnedFd,
}

impl SnpVm {
    /// VM with memory and vCPU; the firmware has only given it an ASID.
    pub fn new() -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm")?;
        let sev = OpenOptions::new().read(true).write(true).open("/dev/sev").context("/dev/sev")?;
        let vm = kvm.create_vm_with_type(KVM_X86_SNP_VM).context("KVM_CREATE_VM of an SNP guest")?;
        let mut init = SevInit { ghcb_version: 2, ..SevInit::default() };
        sev_command(&vm, &sev, KVM_SEV_INIT2, &mut init).context("KVM_SEV_INIT2")?;
        let (low, top) = (Mapping::new(LOW_SIZE)?, Mapping::new(PAGE)?);
        let low_memfd = add_memory(&vm, 0, 0, &low)?;
        let top_memfd = add_memory(&vm, 1, TOP, &top)?;
        let vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        Ok(Self { vcpu, vm, sev, low, low_memfd, _top: top, _top_memfd: top_memfd })
    }

    /// A VM whose launch has begun, with the ordinary policy.
    pub fn started() -> Result<Self> {
        let mut vm = Self::new()?;
        vm.start(POLICY).context("SNP_LAUNCH_START")?;
        Ok(vm)
    }

    /// A launched guest with `code`.
    pub fn launched(code: &[u8]) -> Result<Self> {
        let mut vm = Self::started()?;
        vm.code(code)?;
        vm.finish().context("SNP_LAUNCH_FINISH")?;
        Ok(vm)
    }

    fn command<T>(&mut self, id: u32, data: &mut T) -> Result<(), Refused> {
        sev_command(&self.vm, &self.sev, id, data)
    }

    /// SNP_LAUNCH_START.
    pub fn start(&mut self, policy: u64) -> Result<(), Refused> {
        self.command(KVM_SEV_SNP_LAUNCH_START, &mut LaunchStart { policy, ..LaunchStart::default() })
    }

    /// SNP_LAUNCH_UPDATE of one page; the kernel may write a corrected CPUID page back.
    pub fn update(&mut self, gpa: u64, page: &mut [u8; PAGE], kind: u8) -> Result<(), Refused> {
        let mut buffer = AlignedPage(*page);
        let mut update = LaunchUpdate {
            gfn: gpa / PAGE as u64,
            uaddr: (&raw mut buffer) as u64,
            len: PAGE as u64,
            kind,
            ..LaunchUpdate::default()
        };
        let mut result = Ok(());
        while update.len > 0 && result.is_ok() {
            result = self.command(KVM_SEV_SNP_LAUNCH_UPDATE, &mut update);
        }
        *page = buffer.0;
        result
    }

    /// The page of the reset vector with `code`.
    pub fn code(&mut self, code: &[u8]) -> Result<()> {
        self.update(TOP, &mut crate::code::reset_page(code), NORMAL).context("SNP_LAUNCH_UPDATE of the code")
    }

    /// A page of zeros, valid in the guest.
    pub fn zeros(&mut self, gpa: u64) -> Result<()> {
        self.update(gpa, &mut [0; PAGE], NORMAL).context("SNP_LAUNCH_UPDATE of a page of zeros")
    }

    /// SNP_LAUNCH_FINISH without an ID block.
    pub fn finish(&mut self) -> Result<(), Refused> {
        self.command(KVM_SEV_SNP_LAUNCH_FINISH, &mut LaunchFinish::default())
    }

    /// SNP_LAUNCH_FINISH with an ID block and its authentication.
    pub fn finish_with(&mut self, block: &[u8; 96], auth: &[u8; PAGE]) -> Result<(), Refused> {
        let mut finish = LaunchFinish {
            id_block: block.as_ptr() as u64,
            id_auth: auth.as_ptr() as u64,
            id_block_en: 1,
            ..LaunchFinish::default()
        };
        self.command(KVM_SEV_SNP_LAUNCH_FINISH, &mut finish)
    }

    /// Run until the guest ends, but not longer than that.
    pub fn run(&mut self, limit: Duration) -> Result<Exit> {
        let _alarm = sys::alarm(limit)?;
        Ok(match self.vcpu.run() {
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SEV_TERM, [value, ..])) => Exit::Terminated(*value),
            Ok(VcpuExit::Shutdown) => Exit::Shutdown,
            Ok(other) => Exit::Other(format!("{other:?}")),
            Err(error) if error.errno() == libc::EINTR => Exit::Interrupted,
            Err(error) => bail!("KVM_RUN: {error}"),
        })
    }

    /// Put the page of `DATA + PAGE` behind GPA `DATA`, and so on, or everything back into place.
    pub fn shift_low_memory(&mut self, shifted: bool) -> Result<()> {
        let offset = if shifted { PAGE } else { 0 };
        let gone = region(0, 0, &self.low, 0, &self.low_memfd, 0);
        set_region(&self.vm, gone)?;
        set_region(&self.vm, region(0, 0, &self.low, LOW_SIZE - offset, &self.low_memfd, offset))
    }
}

fn sev_command<T>(vm: &VmFd, sev: &File, id: u32, data: &mut T) -> Result<(), Refused> {
    let mut command = kvm_sev_cmd {
        id,
        data: std::ptr::from_mut(data) as u64,
        sev_fd: sev.as_raw_fd().cast_unsigned(),
        ..Default::default()
    };
    vm.encrypt_op_sev(&mut command).map_err(|error| Refused { errno: error.errno(), firmware: command.error })
}

fn region(
    slot: u32,
    gpa: u64,
    shared: &Mapping,
    size: usize,
    memfd: &OwnedFd,
    offset: usize,
) -> kvm_userspace_memory_region2 {
    kvm_userspace_memory_region2 {
        slot,
        flags: KVM_MEM_GUEST_MEMFD,
        guest_phys_addr: gpa,
        memory_size: size as u64,
        userspace_addr: shared.address(),
        guest_memfd_offset: offset as u64,
        guest_memfd: memfd.as_raw_fd().cast_unsigned(),
        ..Default::default()
    }
}

fn set_region(vm: &VmFd, region: kvm_userspace_memory_region2) -> Result<()> {
    // SAFETY: the mapping that the region names is owned by the VM's owner and lives as long.
    unsafe { vm.set_user_memory_region2(region) }.context("KVM_SET_USER_MEMORY_REGION2")
}

/// A slot of private memory over all of `shared`.
fn add_memory(vm: &VmFd, slot: u32, gpa: u64, shared: &Mapping) -> Result<OwnedFd> {
    let size = shared.size();
    let memfd = vm
        .create_guest_memfd(kvm_create_guest_memfd { size: size as u64, ..Default::default() })
        .context("KVM_CREATE_GUEST_MEMFD")?;
    // SAFETY: the kernel has just made it for us.
    let memfd = unsafe { OwnedFd::from_raw_fd(memfd) };
    set_region(vm, region(slot, gpa, shared, size, &memfd, 0))?;
    vm.set_memory_attributes(kvm_memory_attributes {
        address: gpa,
        size: size as u64,
        attributes: KVM_MEMORY_ATTRIBUTE_PRIVATE,
        flags: 0,
    })
    .context("KVM_SET_MEMORY_ATTRIBUTES")?;
    Ok(memfd)
}

// SPDX-License-Identifier: Apache-2.0
//! Private and shared memory of an SNP guest.
//!
//! Each region has two backings: a guest_memfd that cannot be mapped, for its private pages, and an ordinary
//! mapping for its shared ones. An attribute per page tells KVM which one the guest sees. All pages start
//! private. When pages change state, the attribute changes first, so that no vCPU can bring the old state
//! back, and then what the old backing held is given back to the host. [`crate::shared_view`] sees to it that
//! accesses which are under way do not bring it back: a guest that shares and unshares its memory costs its
//! size once, and for a while what devices are moving.
//!
//! Requests for the state a page already has are common (firmware and kernel both ask) and end at a bitmap.
//! Conversions of one VM are made one at a time: two vCPUs may ask for overlapping ranges.
#![expect(unsafe_code, reason = "registers memory slots and gives memory back to the host")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use kvm_bindings::{kvm_create_guest_memfd, kvm_memory_attributes, kvm_userspace_memory_region2};
use kvm_ioctls::VmFd;

use crate::convert::{PageState, Request};
pub use crate::memory_error::{ConvertError, MemoryError};
pub use crate::shared_view::Counters;
use crate::shared_view::{Backing, Mapping, SharedView};
use crate::states::Change;
use crate::sys;
use crate::vm::SnpVm;

/// A run of guest memory with its shared mapping.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Bytes, a multiple of the page size, not zero.
    pub len: u64,
    /// Where this process has mapped the shared view: `len` bytes of anonymous private memory.
    pub shared: *mut u8,
    /// What it is, for messages.
    pub name: &'static str,
}

/// All memory of one SNP VM.
#[derive(Debug)]
pub struct PrivateMemory {
    view: SharedView,
    backing: Guest,
}

/// KVM's side.
#[derive(Debug)]
struct Guest {
    vm: Arc<VmFd>,
    /// Of each region.
    memfds: Vec<File>,
}

impl Backing for Guest {
    fn set(&self, change: Change, to: PageState) -> Result<(), MemoryError> {
        set_attributes(&self.vm, change.gpa, change.len, to)
    }

    /// A failure costs memory, not correctness: the guest cannot reach it any more.
    fn release(&self, change: Change) {
        let Change { run, offset, gpa, len } = change;
        let Some(memfd) = self.memfds.get(run) else { return };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a call without pointers on a descriptor that we own. Offsets and lengths are at most those
        // of a region.
        let result =
            unsafe { libc::fallocate(memfd.as_raw_fd(), mode, offset as libc::off_t, len as libc::off_t) };
        if result != 0 {
            let error = io::Error::last_os_error();
            cvmm_log_limit::warn!(gpa = format_args!("{gpa:#x}"), len, %error, "guest memory not given back");
        }
    }
}

impl PrivateMemory {
    /// Registers `regions` with KVM, all of them private.
    ///
    /// # Safety
    /// Each region's shared mapping is anonymous private memory of `len` bytes that stays mapped until both
    /// the VM and this are dropped, and holds nothing this process needs: the guest may have any page of it
    /// emptied at any time.
    pub unsafe fn new(vm: &SnpVm, regions: &[Region]) -> Result<Self, MemoryError> {
        let fd = vm.vm();
        let regions = ascending(regions);
        let mapping = |region: &Region| Mapping { gpa: region.gpa, len: region.len, start: region.shared };
        // SAFETY: the caller vouches for the mappings.
        let view = unsafe { SharedView::new(regions.iter().map(mapping).collect()) }?;
        let mut memfds = Vec::with_capacity(regions.len());
        for (slot, region) in (0..).zip(regions) {
            let Region { gpa, len, shared, name } = region;
            let request = kvm_create_guest_memfd { size: len, ..Default::default() };
            let raw =
                fd.create_guest_memfd(request).map_err(|source| MemoryError::Memfd { name, len, source })?;
            // SAFETY: the kernel has just made this descriptor for us.
            let memfd = unsafe { File::from_raw_fd(raw) };
            let memory_region = kvm_userspace_memory_region2 {
                slot,
                flags: sys::MEM_GUEST_MEMFD,
                guest_phys_addr: gpa,
                memory_size: len,
                userspace_addr: shared as u64,
                guest_memfd_offset: 0,
                // Descriptors are not negative.
                guest_memfd: u32::try_from(raw).unwrap_or(u32::MAX),
                ..Default::default()
            };
            // SAFETY: the caller vouches for the mapping and its life; KVM refuses overlapping slots.
            unsafe { fd.set_user_memory_region2(memory_region) }.map_err(|source| MemoryError::Slot {
                name,
                gpa,
                len,
                source,
            })?;
            set_attributes(fd, gpa, len, PageState::Private)?;
            memfds.push(memfd);
        }
        Ok(Self { view, backing: Guest { vm: Arc::clone(fd), memfds } })
    }

    /// Does what the guest asked for. Ranges outside memory have no state: making them shared does nothing
    /// (firmware does that for MMIO), making them private is refused.
    pub fn convert(&self, request: Request) -> Result<(), ConvertError> {
        self.view.convert(&self.backing, request)
    }

    /// Serves an access in the other state. `Ok(false)`: the pages were in the wanted state already, so that
    /// something else is wrong; the caller decides how often it lets the guest try.
    pub fn fault(&self, request: Request) -> Result<bool, ConvertError> {
        let mut counters = self.view.lock();
        let changed = self.view.apply(&self.backing, request, true, &mut counters)?;
        counters.by_fault += changed;
        Ok(changed != 0)
    }

    /// What this process sees of it.
    pub fn view(&self) -> &SharedView {
        &self.view
    }

    /// Whether all of these bytes are private memory now. Never true for addresses that are not memory, nor
    /// across regions.
    pub fn is_private(&self, gpa: u64, len: u64) -> bool {
        self.view.is_private(gpa, len)
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        *self.view.lock()
    }
}

/// In the order that [`SharedView`] wants, whatever the caller's: the firmware lies between low and high RAM.
fn ascending(regions: &[Region]) -> Vec<Region> {
    let mut regions = regions.to_vec();
    regions.sort_by_key(|region| region.gpa);
    regions
}

fn set_attributes(vm: &VmFd, gpa: u64, len: u64, to: PageState) -> Result<(), MemoryError> {
    let attributes = match to {
        PageState::Private => sys::ATTRIBUTE_PRIVATE,
        PageState::Shared => 0,
    };
    vm.set_memory_attributes(kvm_memory_attributes { address: gpa, size: len, attributes, flags: 0 })
        .map_err(|source| MemoryError::Attributes { gpa, len, to, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_come_in_any_order() {
        let region = |gpa, len, name| Region { gpa, len, shared: std::ptr::null_mut(), name };
        let ram = [(0, 256 << 20), (4 << 30, 256 << 20)].map(|(gpa, len)| region(gpa, len, "guest ram"));
        let firmware = region(0xffc0_0000, 4 << 20, "the firmware");
        let sorted = ascending(&[ram[0], ram[1], firmware]);
        assert_eq!(sorted.iter().map(|region| region.gpa).collect::<Vec<_>>(), [0, 0xffc0_0000, 4 << 30]);
        let runs: Vec<_> = sorted.iter().map(|region| (region.gpa, region.len)).collect();
        assert!(crate::states::PageStates::new(&runs).is_ok());
    }
}

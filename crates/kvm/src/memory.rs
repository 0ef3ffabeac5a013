// SPDX-License-Identifier: Apache-2.0
//! Guest memory: the RAM regions, the firmware region, and their KVM slots.
//!
//! The regions are kept apart because different parties may see them: devices get RAM only
//! ([`MachineMemory::for_devices`]), while placing the launch plan writes both. For an SNP guest all of this
//! is the shared view: [`MachineMemory::register_private`] gives each region a private backing beside it,
//! which this process cannot map.
//!
//! The TPM's buffer has a page for itself: ordinary memory in the middle of MMIO space, so that the guest
//! reaches it without exits. It is shared in any guest, has no private backing, and no memory map names it.

#![expect(
    unsafe_code,
    reason = "registers memory slots, advises the kernel about mappings, lends memory to be filled"
)]

use std::io;
use std::ops::Range;
use std::sync::Arc;

use cvmm_devices::memory::{DeviceMemory, SharedPages};
use cvmm_devices::tpm::crb;
use cvmm_kvm_snp::memory::{PrivateMemory, Region as SnpRegion};
use cvmm_kvm_snp::vm::SnpVm;
use cvmm_launch::blob::ReadError;
use cvmm_launch::memory::{HIGH_BASE, MemoryLayout};
use cvmm_launch::plan::{FillError, PageSink};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Why guest memory could not be set up.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// mmap refused.
    #[error("cannot reserve {bytes} bytes of guest memory: {source}; lower memory in vm.toml or free some")]
    Allocate {
        /// Bytes asked for.
        bytes: u64,
        /// The host's answer.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// KVM refused the slot.
    #[error("kvm refused the memory slot at {gpa:#x} ({bytes} bytes): {source}")]
    Slot {
        /// Start of the slot.
        gpa: u64,
        /// Its length.
        bytes: u64,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// All memory of one VM.
#[derive(Debug)]
pub struct MachineMemory {
    ram: Arc<GuestMemoryMmap<()>>,
    firmware: GuestMemoryMmap<()>,
    tpm_buffer: Option<Arc<GuestMemoryMmap<()>>>,
}

/// What a mapping will be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// All memory of a guest.
    Everything,
    /// The pages an SNP guest shares with the host: few, and scattered.
    SharedView,
}

/// The state of an SNP guest's pages, for devices.
#[derive(Debug)]
struct PageStates(Arc<PrivateMemory>);

impl SharedPages for PageStates {
    fn is_shared(&self, gpa: u64, len: u64) -> bool {
        self.0.view().is_shared(gpa, len)
    }

    fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
        self.0.view().shared_run(gpa)
    }

    fn withdrawals(&self) -> u64 {
        self.0.view().withdrawals()
    }

    fn settle(&self, gpa: u64, len: u64) {
        self.0.view().settle(gpa, len);
    }
}

impl MachineMemory {
    /// Reserves RAM and `firmware_len` bytes below 4 GiB. Pages cost nothing until touched.
    pub fn allocate(layout: MemoryLayout, firmware_len: u64, purpose: Purpose) -> Result<Self, MemoryError> {
        let ranges: Vec<_> = layout.runs().map(|(gpa, len)| (GuestAddress(gpa), len as usize)).collect();
        let ram = GuestMemoryMmap::from_ranges(&ranges)
            .map_err(|source| MemoryError::Allocate { bytes: layout.low + layout.high, source })?;
        let start = GuestAddress(HIGH_BASE - firmware_len);
        let firmware = GuestMemoryMmap::from_ranges(&[(start, firmware_len as usize)])
            .map_err(|source| MemoryError::Allocate { bytes: firmware_len, source })?;
        for region in ram.iter() {
            // A large page for one shared 4 KiB page would cost the host what conversions give back.
            advise(
                region,
                match purpose {
                    Purpose::Everything => libc::MADV_HUGEPAGE,
                    Purpose::SharedView => libc::MADV_NOHUGEPAGE,
                },
            );
            name(region, c"cvmm-guest-ram");
        }
        for region in firmware.iter() {
            name(region, c"cvmm-guest-firmware");
        }
        for region in ram.iter().chain(firmware.iter()) {
            // A core dump of the VMM must not carry the guest's memory.
            advise(region, libc::MADV_DONTDUMP);
        }
        Ok(Self { ram: Arc::new(ram), firmware, tpm_buffer: None })
    }

    /// Adds the page of the TPM's buffer and returns the TPM's view of it. Lifetimes as for
    /// [`MachineMemory::register`].
    pub fn add_tpm_buffer(&mut self, vm: &VmFd) -> Result<DeviceMemory, MemoryError> {
        let range = (GuestAddress(crb::PAGE), crb::LEN as usize);
        let page = GuestMemoryMmap::from_ranges(&[range])
            .map_err(|source| MemoryError::Allocate { bytes: crb::LEN, source })?;
        for region in page.iter() {
            name(region, c"cvmm-guest-tpm");
            advise(region, libc::MADV_DONTDUMP);
            register(vm, TPM_SLOT, region)?;
        }
        let page = Arc::new(page);
        self.tpm_buffer = Some(Arc::clone(&page));
        Ok(DeviceMemory::new(page))
    }

    /// Tells KVM about every region. The slots live as long as `vm`, which must therefore be dropped before
    /// this memory.
    pub fn register(&self, vm: &VmFd) -> Result<(), MemoryError> {
        for (slot, region) in (0..).zip(self.ram.iter().chain(self.firmware.iter())) {
            register(vm, slot, region)?;
        }
        Ok(())
    }

    /// Tells the KVM of an SNP VM about every region, all of it private. Lifetimes as for
    /// [`MachineMemory::register`].
    pub fn register_private(
        &self,
        vm: &SnpVm,
    ) -> Result<Arc<PrivateMemory>, cvmm_kvm_snp::memory::MemoryError> {
        let named = |name| {
            move |region: &Region| SnpRegion {
                gpa: region.start_addr().0,
                len: region.len(),
                shared: region.as_ptr(),
                name,
            }
        };
        let regions: Vec<_> = self
            .ram
            .iter()
            .map(named("guest ram"))
            .chain(self.firmware.iter().map(named("the firmware")))
            .collect();
        // SAFETY: the mappings are anonymous and private, hold guest memory only, and outlive the VM: see
        // above.
        Ok(Arc::new(unsafe { PrivateMemory::new(vm, &regions) }?))
    }

    /// The view that devices may have; of an SNP guest, its shared pages.
    pub fn for_devices(&self, private: Option<&Arc<PrivateMemory>>) -> DeviceMemory {
        let ram = Arc::clone(&self.ram);
        match private {
            Some(private) => DeviceMemory::guarded(ram, Arc::new(PageStates(Arc::clone(private)))),
            None => DeviceMemory::new(ram),
        }
    }

    /// Where pages of the launch plan are written.
    pub fn sink(&self) -> impl PageSink + '_ {
        Sink(self)
    }
}

struct Sink<'a>(&'a MachineMemory);

impl Sink<'_> {
    fn memory(&self, address: GuestAddress) -> &GuestMemoryMmap<()> {
        if self.0.firmware.address_in_range(address) { &self.0.firmware } else { &self.0.ram }
    }
}

impl PageSink for Sink<'_> {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        let address = GuestAddress(gpa);
        self.memory(address).write_slice(bytes, address).map_err(io::Error::other)
    }

    fn fill(
        &mut self,
        gpa: u64,
        len: usize,
        read: &mut dyn FnMut(&mut [u8]) -> Result<(), ReadError>,
    ) -> Result<(), FillError> {
        let address = GuestAddress(gpa);
        let slice =
            GuestMemoryBackend::get_slice(self.memory(address), address, len).map_err(io::Error::other)?;
        let guard = slice.ptr_guard_mut();
        // SAFETY: the guard's range is a live mapping of `len` bytes. Pages are placed before any vCPU exists
        // and before any device is active, so nothing else reads or writes guest memory while this reference
        // lives.
        let bytes = unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), len) };
        Ok(read(bytes)?)
    }
}

type Region = vm_memory::GuestRegionMmap<()>;

/// Above those of the regions, of which there are three.
const TPM_SLOT: u32 = 16;

/// Tells KVM about a region of a [`MachineMemory`].
fn register(vm: &VmFd, slot: u32, region: &Region) -> Result<(), MemoryError> {
    let gpa = region.start_addr().0;
    let bytes = region.len();
    let userspace_addr = region.as_ptr() as u64;
    let slot = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: bytes,
        userspace_addr,
    };
    // SAFETY: the range is a live mapping that a `MachineMemory` owns, which outlives the VM (see `register`
    // there), and no two regions overlap.
    unsafe { vm.set_user_memory_region(slot) }.map_err(|source| MemoryError::Slot { gpa, bytes, source })
}

/// Hints only: a kernel that does not know the advice loses an optimisation, nothing else.
fn advise(region: &Region, advice: libc::c_int) {
    // SAFETY: the range is a live mapping of our own, and neither advice used here changes its content.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.len() as usize, advice) };
    if result != 0 {
        cvmm_log_limit::debug!(advice, error = %io::Error::last_os_error(), "madvise on guest memory refused");
    }
}

/// Names the mapping in /proc/PID/maps, so that the VMM's own memory can be told from the guest's.
fn name(region: &Region, name: &std::ffi::CStr) {
    const PR_SET_VMA: libc::c_int = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;
    // SAFETY: the kernel copies the name; the range is a live anonymous mapping of our own.
    let _ = unsafe {
        libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, region.as_ptr(), region.len(), name.as_ptr())
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn devices_cannot_see_the_firmware() {
        let layout = MemoryLayout { low: 64 * MIB, high: 32 * MIB };
        let memory = MachineMemory::allocate(layout, MIB, Purpose::Everything).unwrap();
        let firmware = HIGH_BASE - MIB;
        memory.sink().write(firmware, b"reset").unwrap();
        memory.sink().write(0x1000, b"low").unwrap();
        memory.sink().write(HIGH_BASE, b"high").unwrap();

        let seen = memory.for_devices(None);
        let mut byte = [0; 1];
        assert!(seen.read_slice(&mut byte, GuestAddress(firmware)).is_err());
        seen.read_slice(&mut byte, GuestAddress(0x1000)).unwrap();
        assert_eq!(&byte, b"l");
        seen.read_slice(&mut byte, GuestAddress(HIGH_BASE)).unwrap();
        assert_eq!(&byte, b"h");
        assert!(memory.sink().write(layout.low, b"hole").is_err());
    }
}

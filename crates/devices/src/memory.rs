// SPDX-License-Identifier: Apache-2.0
//! The guest memory a device may see.
//!
//! A confidential guest's private pages are not reachable from the VMM, and must stay so by type: devices get a
//! [`DeviceMemory`], never the memory map of the machine. It holds the RAM regions' *shared* view; the
//! firmware image is not part of it, and neither is anything else a device has no business with. When SNP
//! arrives its page-state bitmap is consulted here, in one place, for every access of every device.

use std::sync::Arc;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// A cheap, clonable handle to the shared view of guest RAM. All accesses are bounds-checked copies
/// (`vm_memory::Bytes`) or volatile slices; nothing hands out a reference into guest memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    ram: Arc<GuestMemoryMmap<()>>,
}

impl DeviceMemory {
    /// Wraps the RAM regions devices may reach.
    pub fn new(ram: Arc<GuestMemoryMmap<()>>) -> Self {
        Self { ram }
    }
}

impl GuestMemory for DeviceMemory {
    type PhysicalMemory = GuestMemoryMmap<()>;
    type Bitmap = ();

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        GuestMemory::check_range(&*self.ram, addr, count, access)
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> vm_memory::guest_memory::Result<impl GuestMemorySliceIterator<'a, BS<'a, Self::Bitmap>>> {
        GuestMemory::get_slices(&*self.ram, addr, count, access)
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn reaches_ram_and_nothing_else() {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
        let memory = DeviceMemory::new(Arc::new(ram));
        memory.write_obj(0x1234_u16, GuestAddress(0x1ffe)).unwrap();
        assert_eq!(memory.read_obj::<u16>(GuestAddress(0x1ffe)).unwrap(), 0x1234);
        assert!(memory.write_obj(0_u16, GuestAddress(0x1fff)).is_err());
        assert!(memory.read_obj::<u8>(GuestAddress(u64::MAX)).is_err());
    }
}

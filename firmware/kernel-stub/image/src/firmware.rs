// SPDX-License-Identifier: Apache-2.0
//! Calls of the firmware. Interrupts are on only during a call (see the program's description).

use core::arch::asm;
use core::ffi::c_void;
use core::ptr;

use cvmm_kernel_stub::memory_map::PAGE;
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryType};
use uefi_raw::table::configuration::ConfigurationTable;
use uefi_raw::table::runtime::VariableAttributes;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status, guid};

/// OVMF's protocol by which a loader says that its kernel accepts memory itself; without the call the
/// firmware accepts all memory when it is left.
const KEEP_UNACCEPTED: Guid = guid!("c5a010fe-38a7-4531-8a4a-0500d2fd1649");

/// Why the kernel was not entered.
#[derive(Clone, Copy)]
pub struct Stop {
    what: &'static str,
    status: Status,
}

impl Stop {
    pub const fn of(what: &'static str) -> Self {
        Self { what, status: Status::LOAD_ERROR }
    }

    fn unless_success(status: Status, what: &'static str) -> Result<(), Self> {
        if status.is_success() { Ok(()) } else { Err(Self { what, status }) }
    }
}

/// A memory map that was written into a buffer.
pub struct ReadMap {
    /// Address of the buffer.
    pub at: u64,
    pub len: usize,
    pub descriptor: usize,
    pub version: u32,
    key: usize,
}

/// The firmware, until [`Firmware::leave`].
pub struct Firmware {
    image: Handle,
    table: *mut SystemTable,
}

fn interrupts_off() {
    // SAFETY: changes no memory.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

fn interrupts_on() {
    // SAFETY: the firmware's handlers are in place, and use only memory below this program's stack frames.
    unsafe { asm!("sti", options(nostack)) };
}

impl Firmware {
    pub fn new(image: Handle, table: *mut SystemTable) -> Self {
        interrupts_off();
        Self { image, table }
    }

    pub fn system_table(&self) -> u64 {
        self.table as u64
    }

    fn table(&self) -> &SystemTable {
        // SAFETY: the firmware's table, which exists as long as the machine runs.
        unsafe { &*self.table }
    }

    fn boot_services(&self) -> &BootServices {
        // SAFETY: valid until the firmware is left, after which nothing calls this.
        unsafe { &*self.table().boot_services }
    }

    /// Calls the firmware.
    fn call(&self, call: impl FnOnce(&BootServices) -> Status) -> Status {
        let services = self.boot_services();
        interrupts_on();
        let status = call(services);
        interrupts_off();
        status
    }

    /// Prints why the kernel was not entered, and ends this program. The result is for the firmware.
    pub fn report(&self, stop: &Stop) -> Status {
        let mut text = [0_u16; 160];
        let words = ["cvmm stub: ", stop.what, "\r\n"].into_iter().flat_map(str::bytes);
        // The last word stays zero.
        for (to, byte) in text[..159].iter_mut().zip(words) {
            *to = byte.into();
        }
        let console = self.table().stdout;
        interrupts_on();
        if !console.is_null() {
            // SAFETY: the firmware's console and a text that ends with zero.
            unsafe { ((*console).output_string)(console, text.as_ptr()) };
        }
        stop.status
    }

    /// The unified kernel image in memory.
    pub fn own_image(&self) -> Result<&'static [u8], Stop> {
        let mut found = ptr::null_mut();
        let status = self.call(|services| {
            // SAFETY: our own handle, and a place for the pointer.
            unsafe { (services.handle_protocol)(self.image, &LoadedImageProtocol::GUID, &mut found) }
        });
        Stop::unless_success(status, "the firmware does not say where the image is")?;
        // SAFETY: the firmware's description of this image, which stays where it is until the kernel frees
        // its memory. Only the stub's own data, which is none of its sections, is written.
        Ok(unsafe {
            let loaded = &*found.cast::<LoadedImageProtocol>();
            core::slice::from_raw_parts(loaded.image_base.cast(), loaded.image_size as usize)
        })
    }

    /// `len` bytes of memory, in whole pages below 4 GiB.
    pub fn allocate(&self, kind: MemoryType, len: usize) -> Result<&'static mut [u8], Stop> {
        let pages = len.div_ceil(PAGE as usize);
        let mut at = 0xffff_ffff;
        let status = self.call(|services| {
            // SAFETY: the firmware gives memory that nothing else uses.
            unsafe { (services.allocate_pages)(AllocateType::MAX_ADDRESS, kind, pages, &mut at) }
        });
        Stop::unless_success(status, "there is not enough memory below 4 GiB")?;
        Ok(Self::memory(at, pages))
    }

    /// Memory for code at an address, if it is free.
    pub fn allocate_at(&self, mut at: u64, len: usize) -> Option<&'static mut [u8]> {
        let pages = len.div_ceil(PAGE as usize);
        let status = self.call(|services| {
            // SAFETY: as above.
            unsafe {
                (services.allocate_pages)(AllocateType::ADDRESS, MemoryType::LOADER_CODE, pages, &mut at)
            }
        });
        status.is_success().then(|| Self::memory(at, pages))
    }

    fn memory(at: u64, pages: usize) -> &'static mut [u8] {
        // SAFETY: the firmware has just given these pages to this program and maps them at their physical
        // address. They are never freed.
        unsafe { core::slice::from_raw_parts_mut(at as *mut u8, pages * PAGE as usize) }
    }

    /// Writes the memory map into `buffer`.
    pub fn memory_map(&self, buffer: &mut [u8]) -> Result<ReadMap, Stop> {
        let mut map =
            ReadMap { at: buffer.as_ptr() as u64, len: buffer.len(), descriptor: 0, version: 0, key: 0 };
        let status = self.call(|services| {
            // SAFETY: the firmware writes at most `len` bytes; the buffer is page-aligned.
            unsafe {
                let buffer = buffer.as_mut_ptr().cast();
                (services.get_memory_map)(
                    &mut map.len,
                    buffer,
                    &mut map.key,
                    &mut map.descriptor,
                    &mut map.version,
                )
            }
        });
        Stop::unless_success(status, "the firmware's memory map is too long")?;
        map.len = map.len.min(buffer.len());
        Ok(map)
    }

    /// The firmware's table with this GUID.
    pub fn configuration(&self, guid: &Guid) -> Option<*mut c_void> {
        let table = self.table();
        let (entries, count) = (table.configuration_table, table.number_of_configuration_table_entries);
        if entries.is_null() {
            return None;
        }
        // SAFETY: the firmware's list, of the length that it gives.
        let entries: &[ConfigurationTable] = unsafe { core::slice::from_raw_parts(entries, count) };
        entries.iter().find(|entry| entry.vendor_guid == *guid).map(|entry| entry.vendor_table)
    }

    /// Adds a table for the kernel.
    pub fn install(&self, guid: &'static Guid, table: &mut [u8]) -> Result<(), Stop> {
        let status = self.call(|services| {
            // SAFETY: a table that is never freed.
            unsafe { (services.install_configuration_table)(guid, table.as_ptr().cast()) }
        });
        Stop::unless_success(status, "the firmware takes no more tables")
    }

    /// The first protocol with this GUID.
    pub fn protocol<T>(&self, guid: &Guid) -> Option<*mut T> {
        let mut found = ptr::null_mut();
        let status = self.call(|services| {
            // SAFETY: a place for the pointer.
            unsafe { (services.locate_protocol)(guid, ptr::null_mut(), &mut found) }
        });
        (status.is_success() && !found.is_null()).then_some(found.cast())
    }

    /// Calls a protocol of the firmware.
    pub fn with_protocol<T>(&self, protocol: *mut T, call: impl FnOnce(*mut T) -> Status) -> Status {
        self.call(|_| call(protocol))
    }

    /// The only byte of a variable of UEFI's own, by its name in UTF-16.
    pub fn global_byte(&self, name: &[u16]) -> Option<u8> {
        let global = guid!("8be4df61-93ca-11d2-aa0d-00e098032b8c");
        let (mut value, mut len, mut attributes) = (0, 1, VariableAttributes::empty());
        let status = self.call(|_| {
            let services = self.table().runtime_services;
            // SAFETY: a name that ends with zero, and places for one byte and its length.
            unsafe {
                ((*services).get_variable)(name.as_ptr(), &global, &mut attributes, &mut len, &mut value)
            }
        });
        (status.is_success() && len == 1).then_some(value)
    }

    /// Sets a variable that lasts until the machine is reset, for the operating system to read.
    pub fn set_variable(&self, vendor: &Guid, name: &[u16], value: &[u16]) -> Status {
        self.call(|_| {
            let services = self.table().runtime_services;
            let attributes = VariableAttributes::BOOTSERVICE_ACCESS | VariableAttributes::RUNTIME_ACCESS;
            // SAFETY: a name that ends with zero, and a value of the given length.
            unsafe {
                let len = size_of_val(value);
                ((*services).set_variable)(name.as_ptr(), vendor, attributes, len, value.as_ptr().cast())
            }
        })
    }

    /// Asks the firmware not to accept the rest of memory when it is left.
    pub fn keep_unaccepted(&self) -> Result<(), Stop> {
        type Call = unsafe extern "efiapi" fn(*mut c_void) -> Status;
        let Some(protocol) = self.protocol::<Call>(&KEEP_UNACCEPTED) else {
            // A firmware that always leaves it.
            return Ok(());
        };
        // SAFETY: the protocol is a structure with this one function.
        let status = self.with_protocol(protocol, |protocol| unsafe { (*protocol)(protocol.cast()) });
        Stop::unless_success(status, "the firmware does not leave unaccepted memory to the kernel")
    }

    /// Ends the firmware's services. `buffer` then has the last memory map.
    pub fn leave(&self, buffer: &mut [u8]) -> Result<ReadMap, Stop> {
        let mut status = Status::LOAD_ERROR;
        // The map may change while the firmware informs its drivers.
        for _ in 0..4 {
            let map = self.memory_map(buffer)?;
            // SAFETY: the memory that this program uses afterwards belongs to it.
            status = self.call(|services| unsafe { (services.exit_boot_services)(self.image, map.key) });
            if status.is_success() {
                return Ok(map);
            }
        }
        Stop::unless_success(status, "the firmware cannot be left")?;
        Err(Stop::of("the firmware cannot be left"))
    }
}

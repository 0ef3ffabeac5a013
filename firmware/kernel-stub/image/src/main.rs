// SPDX-License-Identifier: Apache-2.0
//! The EFI program of unified kernel images that `cvmm uki build` writes. It places the unpacked kernel of
//! its section `.linux`, leaves the firmware, and enters the kernel by the 64-bit boot protocol. What it
//! prints is the reason why it could not; the firmware gets the status.
//!
//! Everything but firmware calls runs with interrupts off: the functions of Rust's core library use the 128
//! bytes below the stack pointer (the red zone), and a firmware's interrupt handlers write over them.

#![no_std]
#![no_main]

mod enter;
mod firmware;
mod log;
mod measure;
mod mem;
mod random;
mod tables;

use core::convert::Infallible;

use cvmm_kernel_stub::memory_map::{MemoryMap, PAGE};
use cvmm_kernel_stub::payload::{ACCEPTS_MEMORY, Header, Payload};
use cvmm_kernel_stub::zero_page::{self, Efi, SETUP_DATA_HEADER, ZeroPage};
use cvmm_kernel_stub::{e820, place, sections, unaccepted};
use uefi_raw::table::boot::MemoryType;
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Handle, Status};

use crate::firmware::{Firmware, Stop};

/// Bytes for the firmware's memory map: thousands of ranges.
const MAP_LEN: usize = 256 << 10;
/// Bytes for entries of the kernel's memory map that its zero page has no capacity for.
const MORE_E820_LEN: usize = 32 << 10;

/// Called by the firmware.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.entry")]
extern "efiapi" fn stub_entry(image: Handle, table: *mut SystemTable) -> Status {
    let firmware = Firmware::new(image, table);
    match boot(&firmware) {
        Ok(never) => match never {},
        Err(stop) => firmware.report(&stop),
    }
}

fn boot(firmware: &Firmware) -> Result<Infallible, Stop> {
    let image = firmware.own_image()?;
    let linux = sections::find(image, b".linux\0\0").ok_or(Stop::of("the image has no section .linux"))?;
    let payload = Payload::parse(linux).map_err(|_| Stop::of("the section .linux is damaged"))?;
    let header = payload.header();
    let cmdline = sections::command_line(sections::find(image, b".cmdline").unwrap_or_default());
    let initrd = sections::find(image, b".initrd\0").unwrap_or_default();
    let max = header.cmdline_max() as usize;
    if cmdline.len() > max || cmdline.contains(&0) {
        return Err(Stop::of("the command line is longer than the kernel reads, or has a NUL in it"));
    }
    measure::sections(firmware, image)?;
    log::keep(firmware)?;
    random::seed(firmware)?;

    // Everything that the kernel reads later, from the firmware while it can still be asked.
    let map = firmware.allocate(MemoryType::LOADER_DATA, MAP_LEN)?;
    let more_e820 = firmware.allocate(MemoryType::LOADER_DATA, MORE_E820_LEN)?;
    let page = firmware.allocate(MemoryType::LOADER_DATA, zero_page::LEN)?;
    let line = firmware.allocate(MemoryType::LOADER_DATA, cmdline.len() + 1)?;
    line[..cmdline.len()].copy_from_slice(cmdline);
    line[cmdline.len()] = 0;
    let page_at = page.as_ptr() as u64;
    let page = page.first_chunk_mut().ok_or(Stop::of("the zero page is too short"))?;
    let mut page = ZeroPage::new(page, &header.setup);
    page.set_cmdline(line.as_ptr() as u64);
    if !initrd.is_empty() {
        page.set_initrd(initrd.as_ptr() as u64, initrd.len() as u64);
    }
    tables::describe(firmware, &mut page)?;

    let kaslr = !place::is_disabled(cmdline);
    page.set_kaslr(kaslr);
    let numbers = if kaslr { random::numbers(firmware) } else { [0; 2] };
    let memory = kernel_memory(firmware, header, map, kaslr.then_some(numbers[0]))?;
    let shift = if kaslr { place::virtual_shift(header, numbers[1]) } else { 0 };
    payload.unpack(memory, shift).map_err(|_| Stop::of("the section .linux cannot be unpacked"))?;
    let entry = memory.as_ptr() as u64 + header.entry.get();

    let lazy = header.flags.get() & ACCEPTS_MEMORY != 0;
    let table = if lazy { unaccepted_table(firmware, map)? } else { None };
    let left = firmware.leave(map)?;
    let map = MemoryMap::new(&map[..left.len], left.descriptor);
    // The firmware is gone: a failure from here on cannot be reported.
    let Some(map) = map else { enter::stop() };
    if let Some((table, start)) = table
        && !unaccepted::fill(table, map, start)
    {
        enter::stop();
    }
    let more_at = more_e820.as_ptr() as u64;
    let Some((data, more)) = more_e820.split_first_chunk_mut::<SETUP_DATA_HEADER>() else { enter::stop() };
    let mut writer = e820::Writer::new(page.e820_table(), more);
    e820::convert(map, |start, end, kind| writer.push(start, end, kind));
    let ([first, second], lost) = writer.counts();
    if lost != 0 {
        enter::stop();
    }
    page.set_e820_count(first);
    if second != 0 {
        page.add_e820_data(data, more_at, second);
    }
    page.set_efi(&Efi {
        system_table: firmware.system_table(),
        map: left.at,
        map_len: left.len as u32,
        descriptor: left.descriptor as u32,
        version: left.version,
    });
    enter::enter(entry, page_at)
}

/// Memory for the kernel: at a random place for a `random` number, otherwise where it was linked for, and
/// anywhere if that is not free.
fn kernel_memory(
    firmware: &Firmware,
    header: &Header,
    map: &mut [u8],
    random: Option<u64>,
) -> Result<&'static mut [u8], Stop> {
    let (len, alignment) = (header.working_memory() as usize, header.alignment.get());
    let place = match random {
        Some(random) => {
            let read = firmware.memory_map(map)?;
            MemoryMap::new(&map[..read.len], read.descriptor)
                .and_then(|map| place::physical(map, header, random))
        }
        None => Some(header.base.get()),
    };
    if let Some(memory) = place.and_then(|at| firmware.allocate_at(at, len)) {
        return Ok(memory);
    }
    let memory = firmware.allocate(MemoryType::LOADER_CODE, len + (alignment - PAGE) as usize)?;
    let skip = (memory.as_ptr() as u64).next_multiple_of(alignment) - memory.as_ptr() as u64;
    memory.get_mut(skip as usize..).ok_or(Stop::of("there is no memory for the kernel"))
}

/// Tells the firmware that the kernel accepts memory itself, and installs the table for it; `None` if all
/// memory is accepted.
fn unaccepted_table(firmware: &Firmware, map: &mut [u8]) -> Result<Option<(&'static mut [u8], u64)>, Stop> {
    let read = firmware.memory_map(map)?;
    let map = MemoryMap::new(&map[..read.len], read.descriptor);
    let Some((start, end)) = map.and_then(unaccepted::extent) else { return Ok(None) };
    let len = unaccepted::table_len(start, end) as usize;
    // The kernel keeps memory of this type.
    let table = firmware.allocate(MemoryType::ACPI_RECLAIM, len)?;
    let table = &mut table[..len];
    firmware.install(&tables::UNACCEPTED_MEMORY, table)?;
    firmware.keep_unaccepted()?;
    Ok(Some((table, start)))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    enter::stop()
}

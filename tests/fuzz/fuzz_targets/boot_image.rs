// SPDX-License-Identifier: Apache-2.0
//! Kernels for `cvmm uki build` and what the stub in its images reads: bzImages, vmlinux files, the content
//! of `.linux`, and the sections of a loaded image. What is accepted is unpacked as the stub does it.
#![no_main]

use cvmm_boot_image::kernel::UnpackedKernel;
use cvmm_boot_image::uki::{self, Contents};
use cvmm_fuzz::Input;
use cvmm_kernel_stub::payload::{Compression, HEADER_LEN, Payload};
use cvmm_kernel_stub::program::Program;
use cvmm_kernel_stub::{place, sections};
use libfuzzer_sys::fuzz_target;

/// Largest kernel that is unpacked, in bytes: others take too long.
const MEMORY_MAX: u64 = 4 << 20;

static PROGRAM: Program = Program {
    code: &[0xc3; 64],
    data_address: 0x2000,
    data: &[0; 16],
    entry: 0x1000,
    relocations: &[0x2000],
};

/// A vmlinux with two segments.
fn vmlinux() -> Vec<u8> {
    let mut file = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0]);
    put(24, &0x100_0010_u64.to_le_bytes());
    put(32, &[64]);
    put(54, &[56, 0, 2]);
    for (index, [offset, start, len, memory]) in
        [[0x200, 0x100_0000, 0x100, 0x200], [0x400, 0x100_1000, 0x100, 0x1000_u64]].into_iter().enumerate()
    {
        let at = 64 + index * 56;
        put(at, &[1]);
        let kernel = 0xffff_ffff_8000_0000 + start;
        for (field, value) in [(8, offset), (16, kernel), (24, start), (32, len), (40, memory)] {
            put(at + field, &value.to_le_bytes());
        }
        put(offset as usize, &[0xcc; 0x100]);
    }
    // 64-bit, inverse and 32-bit relocations.
    for word in [0_u32, 0x8100_0020, 0, 0x8100_0030, 0, 0x8100_1040] {
        file.extend(word.to_le_bytes());
    }
    file
}

/// A bzImage with an uncompressed LZ4 block as its payload.
fn bzimage(vmlinux: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
    // One sequence of literals.
    let mut block = vec![0xf0];
    let mut rest = vmlinux.len() - 15;
    while rest >= 255 {
        block.push(255);
        rest -= 255;
    }
    block.push(rest as u8);
    block.extend(vmlinux);
    payload.extend((block.len() as u32).to_le_bytes());
    payload.extend(block);
    payload.extend((vmlinux.len() as u32).to_le_bytes());
    let mut file = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21, 3, 0]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x260, &0x5000_u32.to_le_bytes());
    file.extend(payload);
    file
}

/// What the stub does.
fn start(section: &[u8], random: u64) {
    let Ok(payload) = Payload::parse(section) else { return };
    let header = payload.header();
    let shift = place::virtual_shift(header, random);
    assert!(header.base.get() + header.memory.get() + shift <= 1 << 30);
    if header.working_memory() <= MEMORY_MAX {
        let mut memory = vec![0xff; header.working_memory() as usize];
        if payload.unpack(&mut memory, shift).is_ok() {
            assert!(memory[header.image.get() as usize..].iter().all(|byte| *byte == 0));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let (kind, random) = (input.u8(), u64::from(input.u32()));
    let mut file = if kind & 1 == 0 { vmlinux() } else { bzimage(&vmlinux()) };
    if kind & 2 != 0 {
        let section = UnpackedKernel::read(&file).map(|kernel| kernel.payload(Compression::Lz4));
        file = section.unwrap_or_default();
    }
    while input.more() {
        let (place, value) = (usize::from(input.u16()), input.u32());
        // Mostly headers.
        let at = if place & 1 == 0 { place % HEADER_LEN } else { place / 2 };
        if let Some(field) = file.get_mut(at..at + 4) {
            let old = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
            let new = if value & 1 == 0 { old.wrapping_add(value >> 1 & 0xfff) } else { value };
            field.copy_from_slice(&new.to_le_bytes());
        }
    }
    if kind & 2 != 0 {
        start(&file, random);
        let _ = sections::find(&file, b".linux\0\0");
        return;
    }
    match UnpackedKernel::read(&file) {
        Ok(kernel) if kernel.description().memory <= MEMORY_MAX => {
            let section = kernel.payload(Compression::Lz4);
            start(&section, random);
            let contents = Contents {
                kernel: &kernel,
                compression: Compression::None,
                initrd: None,
                cmdline: "quiet",
                os_release: None,
                uname: None,
            };
            if let Ok(image) = uki::write(&PROGRAM, &contents) {
                assert!(uki::is_own(&image));
            }
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty() && !error.code().is_empty()),
    }
});

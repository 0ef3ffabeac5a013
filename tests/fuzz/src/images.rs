// SPDX-License-Identifier: Apache-2.0
//! Kernel files that pass the recogniser, for plans whose fuzzed part is the firmware.

use cvmm_launch::blob::Blob;
use cvmm_launch::kernel::Kernel;

/// Bytes of a section header in a PE file.
const SECTION: usize = 40;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// PE32+ headers for x86-64 at `at`, with `sections` that cover the file's second half.
fn write_pe(file: &mut [u8], at: usize, sections: &[&[u8; 8]]) {
    let half = file.len() as u32 / 2;
    put(file, 0, b"MZ");
    put(file, 0x3c, &(at as u32).to_le_bytes());
    put(file, at, b"PE\0\0");
    put(file, at + 4, &0x8664_u16.to_le_bytes());
    put(file, at + 6, &(sections.len() as u16).to_le_bytes());
    put(file, at + 20, &0x70_u16.to_le_bytes());
    put(file, at + 24, &0x20b_u16.to_le_bytes());
    put(file, at + 92, &10_u16.to_le_bytes());
    for (i, name) in sections.iter().enumerate() {
        let header = at + 24 + 0x70 + SECTION * i;
        put(file, header, *name);
        put(file, header + 16, &half.to_le_bytes());
        put(file, header + 20, &half.to_le_bytes());
    }
}

fn recognised(name: &str, file: Vec<u8>) -> Kernel {
    match Kernel::recognise(Blob::from_bytes(name, file)) {
        Ok(kernel) => kernel,
        Err(error) => panic!("the harness's own {name} is refused: {error}"),
    }
}

/// A unified kernel image of 6000 bytes.
pub fn uki() -> Kernel {
    let mut file = vec![0; 6000];
    write_pe(&mut file, 0x80, &[b".text\0\0\0", b".linux\0\0"]);
    recognised("uki", file)
}

/// A bzImage of 8 KiB.
pub fn bzimage() -> Kernel {
    let mut file = vec![0; 8192];
    write_pe(&mut file, 0x280, &[b".text\0\0\0"]);
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x1f4, &448_u32.to_le_bytes());
    put(&mut file, 0x1fe, b"\x55\xaa\xeb\x6aHdrS");
    put(&mut file, 0x206, &0x20f_u16.to_le_bytes());
    put(&mut file, 0x236, &[1]);
    put(&mut file, 0x238, &2047_u32.to_le_bytes());
    recognised("bzimage", file)
}

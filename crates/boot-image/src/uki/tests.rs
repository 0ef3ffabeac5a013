// SPDX-License-Identifier: Apache-2.0
use cvmm_kernel_stub::payload::Payload;
use cvmm_kernel_stub::sections;

use super::*;
use crate::kernel::UnpackedKernel;

static PROGRAM: Program = Program {
    code: &[0x90; 0x321],
    data_address: 0x2000,
    data: &[0x11; 0x18],
    entry: 0x1010,
    relocations: &[0x2000, 0x2008, 0x2010],
};

fn kernel() -> UnpackedKernel {
    let mut file = vec![0; 0x100];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[32] = 64;
    file[54..58].copy_from_slice(&[56, 0, 1, 0]);
    file[64] = 1;
    for (at, value) in
        [(24, 16 << 20), (72, 0xc0), (80, 0xffff_ffff_8100_0000), (88, 16 << 20), (96, 0x40), (104, 0x40_u64)]
    {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    UnpackedKernel::read(&file).unwrap()
}

fn contents<'a>(kernel: &'a UnpackedKernel, cmdline: &'a str) -> Contents<'a> {
    Contents {
        kernel,
        compression: Compression::Lz4,
        initrd: Some(&[7; 5000]),
        cmdline,
        os_release: Some(b"ID=test\n"),
        uname: Some("6.12"),
    }
}

/// What the firmware's loader makes of the file.
fn loaded(file: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut memory = vec![0; word(0x98 + 56)];
    memory[..0x400].copy_from_slice(&file[..0x400]);
    for index in 0..usize::from(file[0x86]) {
        let header = 0x98 + usize::from(file[0x94]) + 40 * index;
        let (len, address, offset) = (word(header + 8), word(header + 12), word(header + 20));
        memory[address..address + len].copy_from_slice(&file[offset..offset + len]);
    }
    memory
}

#[test]
fn the_stub_finds_every_section_of_the_image() {
    let kernel = kernel();
    let file = write(&PROGRAM, &contents(&kernel, " console=ttyS0\n")).unwrap();
    assert!(is_own(&file[..128]) && !is_own(&file[..64]));
    let image = loaded(&file);
    assert_eq!(sections::find(&image, b".text\0\0\0").unwrap(), PROGRAM.code);
    assert_eq!(sections::find(&image, b".data\0\0\0").unwrap(), PROGRAM.data);
    assert_eq!(sections::find(&image, b".cmdline").unwrap(), b"console=ttyS0");
    assert_eq!(sections::find(&image, b".initrd\0").unwrap(), [7; 5000]);
    assert_eq!(sections::find(&image, b".osrel\0\0").unwrap(), b"ID=test\n");
    assert_eq!(sections::find(&image, b".uname\0\0").unwrap(), b"6.12");
    let linux = sections::find(&image, b".linux\0\0").unwrap();
    assert_eq!(linux, kernel.payload(Compression::Lz4));
    Payload::parse(linux).unwrap();
    // One block with three fields and one to fill up.
    let blocks = sections::find(&image, b".reloc\0\0").unwrap();
    let expected = [0, 0x20, 0, 0, 16, 0, 0, 0, 0, 0xa0, 8, 0xa0, 0x10, 0xa0, 0, 0];
    assert_eq!(blocks, expected);
    assert_eq!(write(&PROGRAM, &contents(&kernel, "console=ttyS0")).unwrap(), file, "not the same bytes");
}

#[test]
fn what_the_kernel_would_not_see_is_refused() {
    let kernel = kernel();
    let refused = |contents: &Contents<'_>| write(&PROGRAM, contents).unwrap_err();
    assert_eq!(refused(&contents(&kernel, "a\0b")), ImageError::CmdlineNul(1));
    let long = "x".repeat(2048);
    assert_eq!(refused(&contents(&kernel, &long)), ImageError::CmdlineLength { len: 2048, max: 2047 });
    assert!(write(&PROGRAM, &contents(&kernel, &long[1..])).is_ok());
    let empty = Contents { initrd: Some(&[]), ..contents(&kernel, "") };
    assert_eq!(refused(&empty), ImageError::EmptyInitrd);
    let minimal = Contents { initrd: None, os_release: None, uname: None, ..contents(&kernel, "") };
    let image = loaded(&write(&PROGRAM, &minimal).unwrap());
    assert_eq!(sections::find(&image, b".initrd\0"), None);
}

// SPDX-License-Identifier: Apache-2.0
use cvmm_kernel_stub::payload::Payload;

use super::*;

const BASE: u64 = 16 << 20;
/// Where a kernel maps physical address 0.
const KERNEL: u64 = 0xffff_ffff_8000_0000;

/// A vmlinux of two segments with `tail` behind it.
fn vmlinux(tail: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(BASE + 0x10).to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &[56, 0, 2, 0]);
    for (index, [offset, start, len, memory]) in
        [[0x400, BASE, 0x200, 0x200], [0x800, BASE + 0x1000, 0x100, 0x3000]].into_iter().enumerate()
    {
        let at = 64 + index * 56;
        put(at, &[1, 0, 0, 0]);
        for (field, value) in [(8, offset), (16, KERNEL + start), (24, start), (32, len), (40, memory)] {
            put(at + field, &value.to_le_bytes());
        }
    }
    put(0x400, &[0xcc; 0x200]);
    put(0x800, &[0xdd; 0x100]);
    put(0x900, &[0x99; 0x10]);
    file.truncate(0x900);
    file.extend(tail);
    file
}

/// A bzImage around the vmlinux, with a gzip payload.
pub(crate) fn bzimage(vmlinux: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(vmlinux).unwrap();
    let payload = encoder.finish().unwrap();
    let mut file = vec![0; 0x400 + 0x300];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x20e, &0x100_u16.to_le_bytes());
    put(0x300, b"6.12.95+deb13-cloud-amd64 (debian) #1\0");
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x234, &[1, 21, 0x7f, 0]);
    put(0x238, &2047_u32.to_le_bytes());
    put(0x248, &0x300_u32.to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x258, &BASE.to_le_bytes());
    put(0x260, &0x5000_u32.to_le_bytes());
    file.extend(payload);
    file
}

fn relocations() -> Vec<u8> {
    [0_u32, 0x8100_0020, 0x8100_1080, 0, 0x8100_0030, 0, 0x8100_0040]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
}

#[test]
fn a_bzimage_is_unpacked_with_its_relocations() {
    let file = bzimage(&vmlinux(&relocations()));
    let kernel = UnpackedKernel::read(&file).unwrap();
    let expected = Description {
        image: 0x1100,
        memory: 0x5000,
        relocatable: true,
        accepts_memory: false,
        cmdline_max: 2047,
    };
    assert_eq!(kernel.description(), expected);
    assert_eq!(UnpackedKernel::release(&file).as_deref(), Some("6.12.95+deb13-cloud-amd64"));
    for compression in [Compression::None, Compression::Lz4] {
        let section = kernel.payload(compression);
        let payload = Payload::parse(&section).unwrap();
        assert_eq!((payload.header().entry.get(), payload.header().base.get()), (0x10, BASE));
        assert_eq!(payload.header().setup[..0x71], file[0x1f1..0x262]);
        let mut memory = vec![0xff; 0x5000];
        payload.unpack(&mut memory, 0).unwrap();
        assert!(memory[..0x200].iter().all(|byte| *byte == 0xcc));
        assert!(memory[0x200..0x1000].iter().all(|byte| *byte == 0), "between the segments");
        assert!(memory[0x1000..0x1100].iter().all(|byte| *byte == 0xdd));
        assert!(memory[0x1100..].iter().all(|byte| *byte == 0));
        payload.unpack(&mut memory, 0x20_0000).unwrap();
        assert_eq!(memory[0x20..0x28], 0xcccc_cccc_ccec_cccc_u64.to_le_bytes());
        assert_eq!(memory[0x30..0x34], 0xccac_cccc_u32.to_le_bytes());
        assert_eq!(memory[0x40..0x44], 0xccec_cccc_u32.to_le_bytes());
    }
}

#[test]
fn a_vmlinux_has_no_relocations() {
    let mut file = vmlinux(&[]);
    let kernel = UnpackedKernel::read(&file).unwrap();
    assert!(!kernel.description().relocatable);
    assert_eq!(kernel.description().memory, 0x4000);
    assert_eq!(UnpackedKernel::release(&file), None);
    file[0x420..0x430].copy_from_slice(&UNACCEPTED_TABLE);
    assert!(UnpackedKernel::read(&file).unwrap().description().accepts_memory);
}

type Change = fn(&mut Vec<u8>);

#[test]
fn each_defect_of_a_vmlinux_is_refused_by_name() {
    fn put(file: &mut [u8], at: usize, value: u64) {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let cases: [(&str, Change); 15] = [
        ("neither", |file| file[4] = 1),
        ("neither", |file| file[18] = 3),
        ("e_type", |file| file[16] = 3),
        ("e_phentsize", |file| file[54] = 32),
        ("e_phnum", |file| file[56] = 0),
        ("e_phnum", |file| file[57] = 1),
        ("program header table", |file| put(file, 32, u64::MAX - 8)),
        ("overlap in memory at 0x1000100", |file| put(file, 64 + 56 + 24, BASE + 0x100)),
        ("p_paddr", |file| put(file, 64 + 24, 1 << 40)),
        ("p_vaddr", |file| put(file, 64 + 16, 0x40_0000)),
        ("p_filesz", |file| put(file, 64 + 32, 0x201)),
        ("segment ends at", |file| put(file, 64 + 8, u64::MAX - 0x100)),
        ("p_memsz", |file| put(file, 64 + 56 + 40, 600 << 20)),
        ("e_entry", |file| put(file, 24, BASE + 0x200)),
        ("section header table", |file| file[58..62].copy_from_slice(&[64, 0, 0xff, 0xff])),
    ];
    for (expected, change) in cases {
        let mut file = vmlinux(&[]);
        change(&mut file);
        let text = UnpackedKernel::read(&file).unwrap_err().to_string();
        assert!(text.contains(expected), "{text} for {expected}");
    }
}

#[test]
fn each_defect_of_a_bzimage_is_refused_by_name() {
    let cases: [(&str, Change); 8] = [
        ("boot protocol 2.11", |file| file[0x206] = 11),
        ("32-bit", |file| file[0x236] = 0x7e),
        ("not relocatable", |file| file[0x234] = 0),
        ("kernel_alignment", |file| file[0x230] = 1),
        ("payload ends at", |file| file[0x24f] = 0x7f),
        ("payload ends at", |file| file[0x24b] = 0xff),
        ("first bytes", |file| file[0x700] = 0),
        ("init_size", |file| file[0x263] = 0x7f),
    ];
    for (expected, change) in cases {
        let mut file = bzimage(&vmlinux(&relocations()));
        change(&mut file);
        let text = UnpackedKernel::read(&file).unwrap_err().to_string();
        assert!(text.contains(expected), "{text} for {expected}");
    }
    let whole = bzimage(&vmlinux(&relocations()));
    for len in [0x206, 0x264, 0x700, whole.len() - 1] {
        assert!(UnpackedKernel::read(&whole[..len]).is_err(), "{len:#x}");
    }
    let text = UnpackedKernel::read(&bzimage(&vmlinux(&[0; 4]))).unwrap_err().to_string();
    assert!(text.contains("1 lists"), "{text}");
}

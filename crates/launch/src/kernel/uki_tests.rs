// SPDX-License-Identifier: Apache-2.0
use cvmm_kernel_stub::payload::Header;
use cvmm_kernel_stub::program::{MARK, MARK_AT};

use super::*;
use crate::samples::{bzimage, header, uki};

const CMDLINE: &[u8] = b"console=ttyS0 quiet";

fn recognise_bytes(bytes: Vec<u8>) -> Result<Kernel, KernelError> {
    Kernel::recognise(Blob::from_bytes("guest.efi", bytes))
}

/// An image as ukify makes it.
fn image() -> Vec<u8> {
    let (osrel, initrd) = (b"ID=test\n".as_slice(), [7; 6000]);
    uki(&[(".osrel", osrel), (".cmdline", CMDLINE), (".initrd", &initrd), (".linux", &bzimage(8192))])
}

/// `bytes` is refused with this code, in a message with all of `parts`.
#[track_caller]
fn refused(bytes: Vec<u8>, code: &str, parts: &[&str]) {
    let error = recognise_bytes(bytes).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.problem.code(), code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(text.starts_with("kernel guest.efi: ") && text.contains("ukify"), "{text}");
}

/// The image with 32 bits at an offset in a section's header replaced.
fn patched(section: &str, at: usize, value: usize) -> Vec<u8> {
    let mut bytes = image();
    let header = header(&bytes, section, 0).unwrap();
    bytes[header + at..header + at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    bytes
}

fn field(bytes: &[u8], section: &str, at: usize) -> usize {
    let at = header(bytes, section, 0).unwrap() + at;
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

const VIRTUAL_SIZE: usize = 8;
const ADDRESS: usize = 12;
const RAW_SIZE: usize = 16;
const RAW_OFFSET: usize = 20;

#[test]
fn sections_that_no_loader_places_are_refused_by_name_and_offset() {
    let good = image();
    assert_eq!(recognise_bytes(good.clone()).unwrap().format(), Format::Uki);
    let linux = field(&good, ".linux", ADDRESS);
    let at = |section: &str| {
        format!("section {section} (header at file offset {:#x})", header(&good, section, 0).unwrap())
    };

    // Another section in the kernel's memory.
    let text = &[&*at(".osrel"), "overlaps section .linux", &format!("{:#x}", linux + 0x1000)];
    refused(patched(".osrel", ADDRESS, linux + 0x1000), "uki.overlap", text);
    // A section whose end is past 4 GiB, or past the image.
    refused(
        patched(".osrel", ADDRESS, 0xffff_f000),
        "uki.placement",
        &[&*at(".osrel"), "0xfffff000", "SizeOfImage"],
    );
    refused(patched(".linux", VIRTUAL_SIZE, 0xffff_ffff), "uki.placement", &[&*at(".linux"), "SizeOfImage"]);
    refused(patched(".initrd", VIRTUAL_SIZE, 0x10_0000), "uki.placement", &[&*at(".initrd")]);
    // Content without memory: the stub takes the size in memory.
    for section in [".linux", ".initrd", ".cmdline", ".osrel"] {
        refused(patched(section, VIRTUAL_SIZE, 0), "uki.no-memory", &[&*at(section), "VirtualSize 0"]);
    }
    // In and over the headers, and misaligned.
    refused(patched(".cmdline", ADDRESS, 0), "uki.placement", &[&*at(".cmdline"), "SizeOfHeaders"]);
    refused(
        patched(".cmdline", RAW_OFFSET, 0x100),
        "uki.placement",
        &[&*at(".cmdline"), "file offset 0x100"],
    );
    refused(patched(".linux", ADDRESS, linux + 0x10), "uki.placement", &[&*at(".linux"), "SectionAlignment"]);
    let raw = field(&good, ".cmdline", RAW_OFFSET);
    refused(patched(".cmdline", RAW_OFFSET, raw + 1), "uki.placement", &[&*at(".cmdline"), "FileAlignment"]);
    // Outside the file.
    for (field, value) in [(RAW_OFFSET, 0xffff_fe00), (RAW_SIZE, 0xffff_ffff), (RAW_OFFSET, good.len())] {
        let error = recognise_bytes(patched(".initrd", field, value)).unwrap_err();
        assert!(matches!(error.problem, KernelProblem::Truncated { .. }), "{error}");
    }
    // A name that would colour a terminal.
    let mut bytes = patched(".osrel", ADDRESS, 0xffff_f000);
    let name = header(&bytes, ".osrel", 0).unwrap();
    bytes[name..name + 8].copy_from_slice(b"\x1b[31mx\0\0");
    refused(bytes, "uki.placement", &["section \\x1b[31mx "]);
}

#[test]
fn headers_that_no_loader_accepts_are_refused() {
    let optional = 0x80 + 24;
    for (at, value, name) in [
        (16, 0_u32, "AddressOfEntryPoint"),
        (16, 0xffff_ffff, "AddressOfEntryPoint"),
        (32, 0, "SectionAlignment"),
        (32, 0x1001, "SectionAlignment"),
        (36, 0, "FileAlignment"),
        (56, 0, "SizeOfImage"),
        (60, 0x80, "SizeOfHeaders"),
        (60, 0x7fff_ffff, "SizeOfHeaders"),
    ] {
        let mut bytes = image();
        bytes[optional + at..optional + at + 4].copy_from_slice(&value.to_le_bytes());
        refused(bytes, "uki.header", &[name, &format!("{:#x}", optional + at), &format!("{value:#x}")]);
    }
    // An image that is smaller than its sections.
    let mut bytes = image();
    bytes[optional + 56..optional + 60].copy_from_slice(&0x3000_u32.to_le_bytes());
    refused(bytes, "uki.placement", &["SizeOfImage"]);
}

#[test]
fn two_of_what_the_stub_takes_one_of_are_refused() {
    let kernel = bzimage(4096);
    for name in [
        ".linux", ".cmdline", ".initrd", ".osrel", ".ucode", ".uname", ".sbat", ".pcrsig", ".pcrpkey",
        ".splash",
    ] {
        let content: &[u8] = if name == ".linux" { &kernel } else { b"x" };
        let bytes = uki(&[(".linux", &kernel), (name, content), (name, content)]);
        let [first, second] = [0, 1].map(|count| header(&bytes, name, count).unwrap());
        refused(bytes, "uki.duplicate", &[name, &format!("{first:#x}"), &format!("{second:#x}")]);
    }
    // The first kernel is text: named before it is found that there are two.
    let bytes = uki(&[(".linux", &[b'x'; 4096]), (".linux", &kernel)]);
    refused(bytes, "uki.kernel", &["section .linux", "unknown format"]);
    // What the stub selects one of, and what it does not know, may be there more often.
    for name in [".dtb", ".dtbauto", ".efifw", ".fwauto", ".vendor"] {
        let bytes = uki(&[(name, b"x"), (".linux", &kernel), (name, b"y"), (name, b"z")]);
        assert_eq!(recognise_bytes(bytes).unwrap().format(), Format::Uki, "{name}");
    }
}

#[test]
fn profiles_may_repeat_sections_and_need_a_kernel() {
    let (kernel, one, two) = (bzimage(4096), b"ID=one".as_slice(), b"ID=two".as_slice());
    for good in [
        // As ukify's documentation has it: the base, and profiles with their own command line.
        &[
            (".osrel", one),
            (".cmdline", one),
            (".linux", &kernel),
            (".profile", one),
            (".profile", two),
            (".cmdline", two),
        ][..],
        &[
            (".linux", &kernel),
            (".cmdline", one),
            (".profile", one),
            (".cmdline", one),
            (".pcrsig", one),
            (".profile", two),
            (".cmdline", two),
            (".pcrsig", two),
        ],
        // A kernel in the profile that is the default, and one that replaces the base's.
        &[(".profile", one), (".linux", &kernel)],
        &[(".linux", &kernel), (".profile", one), (".linux", &kernel)],
        // A profile that says nothing.
        &[(".linux", &kernel), (".profile", b"")],
    ] {
        let result = recognise_bytes(uki(good));
        assert!(result.is_ok(), "{result:?}");
    }
    refused(
        uki(&[(".linux", &kernel), (".profile", one), (".cmdline", one), (".cmdline", two)]),
        "uki.duplicate",
        &[".cmdline"],
    );
    refused(
        uki(&[(".profile", one), (".profile", two), (".linux", &kernel)]),
        "uki.missing",
        &["profile @0"],
    );
    refused(uki(&[(".linux", b""), (".osrel", one)]), "uki.missing", &[".linux"]);
}

#[test]
fn the_kernel_in_an_image_is_one_that_the_stub_starts() {
    let mut arm = bzimage(8192);
    arm[0x284..0x286].copy_from_slice(&[0x64, 0xaa]);
    for (content, says) in [
        (arm, "a different processor"),
        (b"\x7fELF".repeat(1000), "vmlinux"),
        (vec![0x90; 100], "too short"),
        (bzimage(8192)[..6000].to_vec(), "truncated"),
    ] {
        refused(uki(&[(".linux", &content)]), "uki.kernel", &["section .linux", says]);
    }
    // Memory for half of it.
    let mut bytes = image();
    let at = header(&bytes, ".linux", 0).unwrap() + VIRTUAL_SIZE;
    bytes[at..at + 4].copy_from_slice(&4096_u32.to_le_bytes());
    refused(bytes, "uki.kernel", &["section .linux", "truncated"]);
    // Another EFI program than Linux has no boot-sector mark.
    let mut other = bzimage(8192);
    other[0x1fe..0x206].fill(0);
    assert!(recognise_bytes(uki(&[(".linux", &other)])).is_ok());
}

#[test]
fn command_lines_are_what_the_kernel_sees() {
    let kernel = bzimage(4096);
    let with = |text: &[u8]| uki(&[(".cmdline", text), (".linux", &kernel)]);
    for good in [
        &b"quiet"[..],
        b"",
        b"quiet\n",
        b"quiet\0",
        b"quiet\n\0\0\0",
        b"  quiet ",
        &[b'x'; 2047],
        "a=\u{e9}".as_bytes(),
    ] {
        let result = recognise_bytes(with(good));
        assert!(result.is_ok(), "{}: {result:?}", good.escape_ascii());
    }
    let bytes = with(b"quiet\0init=/bin/sh");
    let nul = field(&bytes, ".cmdline", RAW_OFFSET) + 5;
    refused(bytes, "uki.cmdline", &["section .cmdline", &format!("NUL byte at file offset {nul:#x}")]);
    refused(with(b"\0x"), "uki.cmdline", &["NUL"]);
    refused(with(&[b'x'; 2048]), "uki.cmdline", &["2048 bytes", "at most 2047"]);
    refused(with(&vec![b'x'; 70_000]), "uki.cmdline", &["70000 bytes"]);
    // In a profile too, for the kernel of the base.
    let bytes = uki(&[(".linux", &kernel), (".profile", b"ID=a"), (".cmdline", b"a\0b")]);
    refused(bytes, "uki.cmdline", &["NUL"]);
}

/// An unpacked kernel of `cvmm uki build`, in an image with that command's stub or another one.
fn unpacked(own_stub: bool, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    use zerocopy::little_endian::{U32, U64};
    use zerocopy::{FromZeros, IntoBytes};
    let mut header = Header::new_zeroed();
    header.magic = cvmm_kernel_stub::payload::MAGIC;
    header.version = U32::new(1);
    [header.stored, header.image, header.memory] = [U64::new(64); 3];
    header.base = U64::new(16 << 20);
    header.alignment = U64::new(2 << 20);
    // cmdline_size
    header.setup[0x238 - 0x1f1] = 30;
    change(&mut header);
    // Longer than every kernel's head, as an image is with its own kernel.
    let kernel = [header.as_bytes(), &[0; 64]].concat();
    let mut bytes = uki(&[(".osrel", &[b'x'; 600]), (".cmdline", CMDLINE), (".linux", &kernel)]);
    if own_stub {
        bytes[MARK_AT..MARK_AT + MARK.len()].copy_from_slice(MARK);
    }
    bytes
}

type Change = fn(&mut Header);

#[test]
fn an_unpacked_kernel_needs_the_stub_that_starts_it() {
    assert_eq!(recognise_bytes(unpacked(true, |_| {})).unwrap().format(), Format::Uki);
    let other = recognise_bytes(unpacked(false, |_| {})).unwrap_err();
    assert_eq!(other.problem.code(), "uki.kernel", "{other}");
    // That stub starts nothing else.
    let mut packed = image();
    packed[MARK_AT..MARK_AT + MARK.len()].copy_from_slice(MARK);
    let packed = recognise_bytes(packed).unwrap_err();
    assert_eq!(packed.problem.code(), "uki.kernel", "{packed}");
    let cases: [(Change, &str); 4] = [
        (|header| header.version.set(2), "version"),
        (|header| header.entry.set(64), "entry"),
        (|header| header.compression.set(7), "compression"),
        (|header| header.memory.set(0), "memory"),
    ];
    for (change, field) in cases {
        refused(unpacked(true, change), "uki.kernel", &[field]);
    }
    let long = |header: &mut Header| {
        header.compression.set(1);
        header.stored.set(1 << 20);
    };
    refused(unpacked(true, long), "uki.kernel", &["truncated"]);
    refused(unpacked(true, |header| header.setup[0x238 - 0x1f1] = 5), "uki.cmdline", &["at most 5"]);
}

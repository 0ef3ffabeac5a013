// SPDX-License-Identifier: Apache-2.0
use proptest::prelude::*;

use super::format::HEAD;
use super::*;
use crate::samples::{bzimage, header, uki, uki_of};

fn recognise_bytes(bytes: Vec<u8>) -> Result<Kernel, KernelProblem> {
    Kernel::recognise(Blob::from_bytes("k", bytes)).map_err(|error| {
        assert!(error.to_string().starts_with("kernel k: "), "{error}");
        error.problem
    })
}

fn patched(mut bytes: Vec<u8>, at: usize, patch: &[u8]) -> Result<Kernel, KernelProblem> {
    bytes[at..at + patch.len()].copy_from_slice(patch);
    recognise_bytes(bytes)
}

#[test]
fn both_formats_are_recognised() {
    let kernel = recognise_bytes(bzimage(8192)).unwrap();
    assert_eq!(kernel.format(), Format::BzImage { protocol: 0x20f, cmdline_max: 2047 });
    assert!(matches!(kernel.require_uki().unwrap_err().problem, KernelProblem::NotUki));
    let image = recognise_bytes(uki_of(8192)).unwrap();
    assert_eq!(image.format(), Format::Uki);
    assert!(image.require_uki().is_ok());
}

#[test]
fn truncated_kernels_are_refused() {
    for (whole, min) in [(bzimage(8192), 1024), (uki_of(8192), 1024)] {
        for len in [min, 4096, 8191] {
            let parsed = recognise_bytes(whole[..len].to_vec());
            assert!(matches!(parsed, Err(KernelProblem::Truncated { .. })), "{len}: {parsed:?}");
        }
        for len in [0, 1, HEAD - 1] {
            assert!(matches!(recognise_bytes(whole[..len].to_vec()), Err(KernelProblem::Short(_))));
        }
        // Cut inside the PE headers, or (with a bzImage) found short before they are read.
        assert!(recognise_bytes(whole[..HEAD].to_vec()).is_err());
    }
}

#[test]
fn a_setup_header_that_promises_more_is_refused() {
    // Sections all inside, but one paragraph of 16 bytes too many by syssize.
    let paragraphs = ((8192 - 1024) / 16 + 1) as u32;
    let parsed = patched(bzimage(8192), 0x1f4, &paragraphs.to_le_bytes());
    assert!(matches!(parsed, Err(KernelProblem::Truncated { needed: 8208, len: 8192 })), "{parsed:?}");
}

#[test]
fn other_files_are_named() {
    let unknown = |start: &[u8]| match patched(vec![0x55; 4096], 0, start) {
        Err(KernelProblem::Unknown(what)) => what,
        other => panic!("{other:?}"),
    };
    assert!(unknown(b"\x7fELF").contains("vmlinux"));
    assert!(unknown(b"\x1f\x8b").contains("compressed"));
    assert!(unknown(b"070701").contains("cpio"));
    assert!(unknown(b"hello").contains("unknown"));
    assert!(matches!(recognise_bytes(uki(&[(".data", &[0; 4096])])), Err(KernelProblem::NoLinuxSection)));
}

#[test]
fn unsuitable_kernels_are_refused() {
    assert!(matches!(patched(bzimage(8192), 0x206, &[0x0b, 2]), Err(KernelProblem::Protocol(0x20b))));
    assert!(matches!(patched(bzimage(8192), 0x236, &[0]), Err(KernelProblem::Not64Bit)));
    assert!(matches!(patched(bzimage(8192), 0, b"\xea\x05"), Err(KernelProblem::NoEfiStub)));
    let pe = 0x80;
    for (at, patch) in [
        (pe, &b"XX"[..]),
        (pe + 4, &[0x64, 0xaa]), // arm64
        (pe + 20, &[0x10, 0]),   // optional header too short
        (pe + 24, &[0x0b, 1]),   // PE32
        (pe + 24 + 68, &[3, 0]), // console application
        (pe + 6, &[1, 2]),       // 513 sections
    ] {
        let parsed = patched(uki_of(8192), at, patch);
        assert!(matches!(parsed, Err(KernelProblem::Pe(_))), "{at:#x}: {parsed:?}");
    }
    // Headers outside the file.
    assert!(matches!(patched(uki_of(8192), 0x3c, &[0xff; 4]), Err(KernelProblem::Read(_))));
    // Linux section without content.
    let linux = header(&uki_of(8192), ".linux", 0).unwrap();
    let empty = patched(uki_of(8192), linux + 16, &[0; 4]);
    assert!(matches!(empty, Err(KernelProblem::NoLinuxSection)));
}

proptest! {
    #[test]
    fn mutated_kernels_never_break_the_parser(
        edits in prop::collection::vec((0usize..0x400, any::<u8>()), 1..8),
        which in any::<bool>(),
        len in 0usize..8192,
        cut in any::<bool>(),
    ) {
        let mut bytes = if which { bzimage(8192) } else { uki_of(8192) };
        for (at, value) in edits {
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(len);
            prop_assert!(len >= HEAD || recognise_bytes(bytes.clone()).is_err());
        }
        let _ = recognise_bytes(bytes);
    }
}

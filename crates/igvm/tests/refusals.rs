// SPDX-License-Identifier: Apache-2.0
//! What is refused, with its reason code and the header that it is about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use cvmm_igvm::samples::{self, DATA, File, PAGE_DATA, PLATFORM, POLICY, VP_CONTEXT};
use cvmm_igvm::{Guest, IgvmError, MAX_AREA, Machine, load};
use cvmm_launch::blob::Blob;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::PageKind;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::policy::GuestPolicy;
use proptest::prelude::*;

const MEMORY: MemoryLayout = MemoryLayout { low: 256 << 20, high: 1 << 30 };
const MACHINE: Machine<'static> = Machine {
    memory: &MEMORY,
    vcpus: 2,
    policy: GuestPolicy(0x3_0000),
    features: SevFeatures::SNP_ACTIVE,
    cmdline: "",
    madt: None,
};
/// Type and body.
type Header = (u32, Vec<u8>);
type Change<'a> = &'a dyn Fn(&mut File);

const AREA: u32 = 0x301;
const INSERT: u32 = 0x303;
const REQUIRED: u32 = 0x305;
const VP_COUNT: u32 = 0x307;
const SRAT: u32 = 0x308;
const ID_BLOCK: u32 = 0x30b;
const MEMORY_MAP: u32 = 0x30c;
const ERROR_RANGE: u32 = 0x30d;
const CMDLINE: u32 = 0x30e;

fn load_bytes(bytes: Vec<u8>) -> Result<Guest, IgvmError> {
    load(&Blob::from_bytes("guest.igvm", bytes), &MACHINE)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn area(len: u64, id: u32, offset: u32) -> Header {
    (AREA, [&len.to_le_bytes()[..], &words(&[id, offset])].concat())
}

fn range(kind: u32, gpa: u64, mask: u32, len: u32) -> Header {
    let tail: &[u32] = if kind == REQUIRED { &[0, 0] } else { &[] };
    (kind, [&gpa.to_le_bytes()[..], &words(&[mask, len]), &words(tail)].concat())
}

fn page(gpa: u64, offset: u32, flags: u32, kind: u16) -> Header {
    (PAGE_DATA, samples::page(gpa, offset, flags, kind))
}

fn insert(gpa: u64, id: u32) -> Header {
    (INSERT, [&gpa.to_le_bytes()[..], &words(&[1, id])].concat())
}

#[test]
fn the_sample_is_accepted() {
    let Guest { plan, identity } = load_bytes(File::guest().bytes()).unwrap();
    let rows: Vec<_> = plan.explain().map(|row| (row.gpa, row.kind)).collect();
    let expected = [
        (0xffff_f000, PageKind::Normal),
        (0x80_0000, PageKind::Zero),
        (0x80_d000, PageKind::Secrets),
        (0x80_e000, PageKind::Cpuid),
    ];
    assert_eq!(rows, expected);
    assert_eq!((plan.window(), plan.vcpus().len()), (0x1000, 2));
    assert!(identity.is_none());
}

/// Appends headers to the sample, and expects a refusal of the last one.
#[test]
fn headers_are_refused_by_code_index_and_offset() {
    let vmsa = 0x2000;
    let context = |gpa, offset, index| (VP_CONTEXT, samples::context(gpa, offset, index));
    let cases: Vec<(&str, &str, Vec<Header>)> = vec![
        ("igvm.duplicate", "first is header 6", vec![context(0xffff_ffff_f000, vmsa, 0)]),
        ("igvm.context", "vCPU 2", vec![context(0xffff_ffff_f000, vmsa, 2)]),
        ("igvm.context", "0x80f000", vec![context(0x80_f000, vmsa, 1)]),
        ("igvm.context", "KVM cannot start", vec![context(0xffff_ffff_f000, 0x1000, 1)]),
        ("igvm.format", "not in the file", vec![context(0xffff_ffff_f000, 0x2001, 1)]),
        ("igvm.memory", "0x10000000", vec![page(0x1000_0000, 0x1000, 0, 0)]),
        ("igvm.memory", "0xfef00000", vec![page(0xfef0_0000, 0, 0, 0)]),
        ("igvm.memory", "0x140000000", vec![page(0x1_4000_0000, 0, 0, 0)]),
        ("igvm.memory", "0xffffffffffff", vec![page(0xffff_ffff_ffff_f000, 0, 0, 0)]),
        ("igvm.overlap", "header 2", vec![page(0xffff_f000, 0x1000, 0, 0)]),
        ("igvm.overlap", "header 3", vec![page(0x80_0000, 0, 1, 0)]),
        ("igvm.duplicate", "secrets page", vec![page(0x90_0000, 0, 0, 1)]),
        ("igvm.duplicate", "CPUID page", vec![page(0x90_0000, 0, 0, 2)]),
        ("igvm.format", "data type is 0x3", vec![page(0x90_0000, 0, 0, 3)]),
        ("igvm.format", "must be zero, and is 0x4", vec![page(0x90_0000, 0, 4, 0)]),
        ("igvm.format", "multiple of 0x1000", vec![page(0x90_0800, 0, 0, 0)]),
        ("igvm.format", "multiple of 0x200000", vec![page(0x90_0000, 0, 1, 0)]),
        ("igvm.format", "not in the file", vec![page(0x90_0000, 0x2001, 0, 0)]),
        ("igvm.format", "not in the file", vec![page(0x90_0000, 0x18, 0, 0)]),
        ("igvm.format", "not in the file", vec![page(0x90_0000, u32::MAX, 0, 0)]),
        ("igvm.format", "16 bytes instead of 24", vec![(PAGE_DATA, vec![0; 16])]),
        ("igvm.parameter", "at most 0x100000", vec![area(MAX_AREA + 4096, 0, 0)]),
        ("igvm.parameter", "at most 0x100000", vec![area(!4095, 0, 0)]),
        ("igvm.parameter", "made of 4 KiB", vec![area(0, 0, 0)]),
        ("igvm.parameter", "inside the headers", vec![area(4096, 0, 8)]),
        ("igvm.read", "past its end", vec![area(4096, 0, 0x2001)]),
        ("igvm.duplicate", "area 7", vec![area(4096, 7, 0), area(4096, 7, 0)]),
        ("igvm.parameter", "there are at most 16", (0..17).map(|id| area(4096, id, 0)).collect()),
        ("igvm.parameter", "area 0 is not declared", vec![(VP_COUNT, words(&[0, 0]))]),
        ("igvm.parameter", "do not fit", vec![area(4096, 0, 0), (VP_COUNT, words(&[0, 4093]))]),
        ("igvm.parameter", "do not fit", vec![area(4096, 0, 0), (VP_COUNT, words(&[0, u32::MAX]))]),
        ("igvm.parameter", "do not fit", vec![area(4096, 0, 0), (MEMORY_MAP, words(&[0, 4096 - 48]))]),
        (
            "igvm.parameter",
            "in the guest already",
            vec![area(4096, 0, 0), insert(0x90_0000, 0), insert(0x91_0000, 0)],
        ),
        ("igvm.memory", "0x1000000", vec![area(4096, 0, 0), insert(0xffff_0000_0000, 0)]),
        ("igvm.memory", "0x10000000", vec![range(REQUIRED, 0xfff_0000, 1, 0x2_0000)]),
        ("igvm.unsupported", "error range", vec![range(ERROR_RANGE, 0x1000, 1, 0x1000)]),
        ("igvm.unsupported", "ACPI SRAT", vec![area(4096, 0, 0), (SRAT, words(&[0, 0]))]),
        ("igvm.unsupported", "type 0x380", vec![(0x380, Vec::new())]),
        ("igvm.unsupported", "type 0x999", vec![(0x999, Vec::new())]),
        ("igvm.format", "later", vec![(POLICY, samples::policy(0x3_0000))]),
        ("igvm.format", "author_key_enabled", vec![(ID_BLOCK, [&[1, 0, 0, 0, 1][..], &[0; 691]].concat())]),
    ];
    for (code, text, headers) in cases {
        let mut file = File::guest();
        file.headers.extend(headers);
        let last = file.headers.len() - 1;
        let offset = 24
            + file.headers[..last].iter().map(|(_, body)| 8 + body.len().next_multiple_of(8)).sum::<usize>();
        let Err(error) = load_bytes(file.bytes()) else { panic!("{text}: accepted") };
        let place = error.place.unwrap();
        assert_eq!(error.problem.code(), code, "{text}: {error}");
        assert_eq!((place.index, place.offset), (last, offset as u64), "{error}");
        assert!(error.to_string().contains(text), "{error} lacks {text}");
        assert!(error.to_string().starts_with("IGVM file guest.igvm: header "), "{error}");
    }
}

#[test]
fn headers_for_other_platforms_are_ignored() {
    let mut file = File::guest();
    file.headers.insert(0, (PLATFORM, samples::platform(2, 2, 3)));
    let mut foreign = samples::page(0x1234, 77, 99, 9);
    foreign[8] = 2;
    file.headers.push((PAGE_DATA, foreign));
    file.headers.push(range(ERROR_RANGE, 0x1000, 2, 0x1000));
    file.headers.push((0x999 | 1 << 31, vec![1, 2, 3]));
    load_bytes(file.bytes()).unwrap();
}

#[test]
fn files_as_a_whole_are_refused() {
    let changed = |change: &dyn Fn(&mut File)| {
        let mut file = File::guest();
        change(&mut file);
        let error = load_bytes(file.bytes()).unwrap_err();
        (error.problem.code(), error.to_string())
    };
    let cases: [(&str, &str, Change<'_>); 9] = [
        ("igvm.platform", "only TDX", &|file| file.headers[0].1 = samples::platform(1, 0, 3)),
        ("igvm.platform", "only none", &|file| file.headers.clear()),
        ("igvm.vtl", "highest_vtl is 2", &|file| file.headers[0].1 = samples::platform(1, 2, 2)),
        ("igvm.platform", "shared_gpa_boundary", &|file| file.headers[0].1[15] = 1),
        ("igvm.platform", "version is 7", &|file| file.headers[0].1[6] = 7),
        ("igvm.format", "one bit", &|file| file.headers[0].1 = samples::platform(3, 0, 2)),
        ("igvm.policy", "0xb0000", &|file| file.headers[1].1 = samples::policy(0xb_0000)),
        ("igvm.context", "no VP context", &|file| drop(file.headers.pop())),
        ("igvm.duplicate", "header 0", &|file| {
            file.headers.insert(1, (PLATFORM, samples::platform(2, 0, 2)))
        }),
    ];
    for (code, text, change) in cases {
        let (found, message) = changed(change);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(text), "{message} lacks {text}");
    }
    let good = File::guest().bytes();
    let edited = |at: usize, value: u32, sealed: bool| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        if sealed {
            samples::seal(&mut bytes);
        }
        load_bytes(bytes).unwrap_err().to_string()
    };
    for (at, value, sealed, text) in [
        (0, 7, true, "does not start with"),
        (4, 2, true, "format version is 2"),
        (8, 20, true, "variable headers"),
        (8, 28, true, "variable headers"),
        (12, u32::MAX, true, "variable headers"),
        (12, 17 << 20, true, "variable headers"),
        (16, 9, true, "truncated"),
        (40, 0xff, false, "checksum"),
        (24 + 4, 4096, true, "longer than the headers"),
    ] {
        let message = edited(at, value, sealed);
        assert!(message.contains(text), "{message} lacks {text}");
    }
    assert!(load_bytes(good[..12].to_vec()).unwrap_err().to_string().contains("fewer than a header"));
    let cut = good[..DATA].to_vec();
    assert!(load_bytes(cut).unwrap_err().to_string().contains("truncated"));
}

#[test]
fn a_command_line_needs_a_place() {
    let machine = Machine { cmdline: "quiet", ..MACHINE };
    let mut file = File::guest();
    let error = load(&Blob::from_bytes("x", file.bytes()), &machine).unwrap_err();
    assert_eq!(error.problem.code(), "igvm.parameter");
    file.headers.extend([area(4096, 3, 0), (CMDLINE, words(&[3, 8])), insert(0x90_0000, 3)]);
    let plan = load(&Blob::from_bytes("x", file.bytes()), &machine).unwrap().plan;
    let last = plan.imports().last().unwrap();
    let cvmm_launch::plan::Source::Blob { blob, .. } = &last.source else { panic!("no content") };
    assert_eq!(last.kind, PageKind::Unmeasured);
    let mut line = [0; 16];
    blob.read(&mut line, 0).unwrap();
    assert_eq!(&line, b"\0\0\0\0\0\0\0\0quiet\0\0\0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes are accepted or refused.
    #[test]
    fn changed_files_do_not_panic(changes in prop::collection::vec((0usize..0x140, any::<u8>()), 1..6)) {
        let mut bytes = File::guest().bytes();
        for (at, value) in changes {
            bytes[at] = value;
        }
        samples::seal(&mut bytes);
        let _ = load_bytes(bytes);
    }
}

// SPDX-License-Identifier: Apache-2.0
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use cvmm_secure_boot::{Keys, Variable, list, source};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use proptest::prelude::*;

use super::*;
use crate::digest::measure;
use crate::firmware::{Firmware, SectionKind};
use crate::hashes::KernelHashes;
use crate::measured::Measured;
use crate::memory::MemoryLayout;
use crate::samples::firmware::{IGVM, Image, SECTIONS};
use crate::samples::{bzimage, uki_of};
use crate::uki as uki_rules;
use crate::vmsa::VcpuModel;

const MIB: u64 = 1 << 20;
const MEMORY: MemoryLayout = MemoryLayout { low: 256 * MIB, high: 512 * MIB };

fn firmware(image: &Image) -> Firmware {
    Firmware::parse(image.blob()).unwrap()
}

fn kernel(bytes: Vec<u8>) -> Kernel {
    Kernel::recognise(Blob::from_bytes("kernel", bytes)).unwrap()
}

fn uki_profile(len: usize) -> Profile {
    Profile::Uki { image: kernel(uki_of(len)), gpa: uki_rules::DEFAULT_GPA }
}

fn hashes_profile(cmdline: &str) -> Profile {
    let initrd = Some(Blob::from_bytes("initrd", b"initrd".to_vec()));
    Profile::Hashes { kernel: kernel(bzimage(8192)), initrd, cmdline: cmdline.to_owned() }
}

fn build(image: &Image, profile: &Profile) -> Result<LaunchPlan, PlanError> {
    LaunchPlan::build(&firmware(image), profile, &MEMORY, 2)
}

fn rows(plan: &LaunchPlan) -> Vec<(u64, u64, PageKind, &'static str)> {
    plan.explain().map(|row| (row.gpa, row.len, row.kind, row.tag)).collect()
}

/// Memory that remembers what was written where.
#[derive(Default)]
struct Memory {
    bytes: BTreeMap<u64, u8>,
    largest: usize,
}

impl PageSink for Memory {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        self.largest = self.largest.max(bytes.len());
        for (at, byte) in (gpa..).zip(bytes) {
            assert_eq!(self.bytes.insert(at, *byte), None, "{at:#x} written twice");
        }
        Ok(())
    }
}

impl Memory {
    fn read(&self, gpa: u64, len: u64) -> Vec<u8> {
        (gpa..gpa + len).map(|at| self.bytes[&at]).collect()
    }
}

use PageKind::{Cpuid, Normal, Secrets, Zero};

#[test]
fn the_hashes_order_is_that_of_qemu() {
    let plan = build(&Image::amdsev(), &hashes_profile("quiet")).unwrap();
    let expected = [
        (0xffff_e000, 0x2000, Normal, "firmware"),
        (0x80_0000, 0x9000, Zero, "sec memory"),
        (0x80_a000, 0x3000, Zero, "sec memory"),
        (0x80_d000, 0x1000, Secrets, "secrets"),
        (0x80_e000, 0x1000, Cpuid, "cpuid"),
        (0x80_f000, 0x1000, Zero, "svsm calling area"),
        (0x81_1000, 0x1_f000, Zero, "sec memory"),
        (0x81_0000, 0x1000, Normal, "kernel hashes"),
    ];
    assert_eq!(rows(&plan), expected);
    assert_eq!(plan.vcpus(), [VcpuStart::Reset { eip: 0xffff_fff0 }, VcpuStart::Reset { eip: 0x80_b004 }]);

    let mut memory = Memory::default();
    assert_eq!(place(&plan, &mut memory).unwrap(), 0x3000);
    let initrd = Blob::from_bytes("i", b"initrd".to_vec());
    let hashes = KernelHashes::compute(kernel(bzimage(8192)).blob(), Some(&initrd), "quiet").unwrap();
    assert_eq!(memory.read(0x81_0c00, 176), hashes.table());
    assert_eq!(memory.read(0xffff_e000, 0x2000), Image::amdsev().bytes());
}

#[test]
fn the_uki_order_splits_the_section_and_puts_the_image_last() {
    let plan = build(&Image::amdsev(), &uki_profile(5000)).unwrap();
    let expected = [
        (0xffff_e000, 0x2000, Normal, "firmware"),
        (0x80_0000, 0x9000, Zero, "sec memory"),
        (0x80_a000, 0x3000, Zero, "sec memory"),
        (0x80_d000, 0x1000, Secrets, "secrets"),
        (0x80_e000, 0x1000, Cpuid, "cpuid"),
        (0x80_f000, 0x1000, Zero, "svsm calling area"),
        (0x81_1000, 0x1000, Zero, "sec memory"),
        (0x81_2000, 0x1000, Normal, "igvm parameters"),
        (0x81_3000, 0x1000, Normal, "igvm hobs"),
        (0x81_4000, 0x1_c000, Zero, "sec memory"),
        (0x81_0000, 0x1000, Zero, "kernel hashes"),
        (0x200_0000, 0x2000, Normal, "uki"),
    ];
    assert_eq!(rows(&plan), expected);

    let mut memory = Memory::default();
    assert_eq!(place(&plan, &mut memory).unwrap(), 0x6000);
    assert_eq!(memory.read(0x200_0000, 5000), uki_of(5000));
    assert_eq!(memory.read(0x200_0000 + 5000, 8192 - 5000), vec![0; 8192 - 5000]);
    let hobs = uki_rules::hob_list(&[uki_rules::DataHob::kernel(0x200_0000, 5000)]);
    assert_eq!(memory.read(0x81_3000, 56), hobs);
    assert_eq!(memory.read(0x81_3000 + 56, 4040), vec![0; 4040]);
    let parameters = firmware(&Image::amdsev()).igvm().unwrap().parameters.unwrap();
    let page = uki_rules::parameter_page(&parameters, &MEMORY, 2).unwrap();
    assert_eq!(memory.read(0x81_2000, 4096), page);
}

fn keys(dbx: &[u8]) -> Keys {
    let own = source::lists(cvmm_secure_boot::samples::RSA.as_bytes()).unwrap();
    Keys::new([own.clone(), Vec::new(), own, dbx.to_vec()]).unwrap()
}

fn with_data(image: &Image, profile: &Profile, measured: &Measured) -> Result<LaunchPlan, PlanError> {
    LaunchPlan::build_all(&firmware(image), profile, &MEMORY, 2, None, measured)
}

/// What the firmware finds by its HOB list: type and content.
fn data(memory: &Memory, count: usize) -> Vec<(u32, Vec<u8>)> {
    let list = memory.read(0x81_3000, 4096);
    assert_eq!(list[48 * count..48 * count + 8], [0xff, 0xff, 8, 0, 0, 0, 0, 0]);
    let hobs = list.chunks(48).take(count);
    let number = |hob: &[u8], at: usize| u64::from_le_bytes(hob[at..at + 8].try_into().unwrap());
    let mut before = 0;
    hobs.map(|hob| {
        assert_eq!(hob[..8], [4, 0, 48, 0, 0, 0, 0, 0]);
        let (gpa, len) = (number(hob, 24), number(hob, 32));
        // Platform PEI accepts the memory between them, and goes by their order.
        assert!(gpa >= before && gpa % PAGE_SIZE == 0);
        before = gpa + len;
        (number(hob, 40) as u32, memory.read(gpa, len))
    })
    .collect()
}

#[test]
fn keys_and_the_path_of_a_loader_are_measured_pages() {
    let keys = keys(&[]);
    let measured = Measured { keys: Some(keys.clone()), loader: Some("\\EFI\\d\\g.efi".to_owned()) };
    let list = |variable| keys.list(variable).to_vec();
    let plan = with_data(&Image::own(), &Profile::Disk, &measured).unwrap();
    let mut memory = Memory::default();
    place(&plan, &mut memory).unwrap();
    let mut expected =
        vec![(0x100, list(Variable::Pk)), (0x102, list(Variable::Db)), (0x202, b"\\EFI\\d\\g.efi".to_vec())];
    assert_eq!(data(&memory, 3), expected);
    let last = &rows(&plan)[plan.imports().len() - 3..];
    let at = |page: u64| 0x1c0_0000 + page * PAGE_SIZE;
    assert_eq!(
        last,
        [
            (at(0), PAGE_SIZE, Normal, "secure boot PK"),
            (at(1), PAGE_SIZE, Normal, "secure boot db"),
            (at(2), PAGE_SIZE, Normal, "loader path")
        ]
    );

    let profile = uki_profile(5000);
    let plan = with_data(&Image::own(), &profile, &measured).unwrap();
    let mut memory = Memory::default();
    place(&plan, &mut memory).unwrap();
    expected.push((0x201, uki_of(5000)));
    assert_eq!(data(&memory, 4), expected);
    // Without them it is the plan that it was.
    let plan = with_data(&Image::own(), &profile, &Measured::default()).unwrap();
    assert_eq!(rows(&plan), rows(&build(&Image::own(), &profile).unwrap()));
}

#[test]
fn the_digest_depends_on_each_key() {
    let model = VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures::SNP_ACTIVE };
    let digest = |measured: &Measured| {
        measure(&with_data(&Image::own(), &Profile::Disk, measured).unwrap(), model, None, &mut ()).unwrap()
    };
    let revoked = list::single(&list::SHA256, &[7; 32]);
    let all = [
        Measured::default(),
        Measured { keys: Some(keys(&[])), loader: None },
        Measured { keys: Some(keys(&revoked)), loader: None },
        Measured { keys: None, loader: Some("\\a.efi".to_owned()) },
    ];
    let digests: BTreeSet<_> = all.iter().map(|measured| digest(measured).to_string()).collect();
    assert_eq!(digests.len(), all.len());
}

#[test]
fn firmware_that_would_ignore_keys_is_refused() {
    let measured = Measured { keys: Some(keys(&[])), loader: None };
    for image in [Image::amdsev(), Image::plain()] {
        let error = with_data(&image, &Profile::Disk, &measured).unwrap_err();
        assert_eq!(error.code(), "firmware.data", "{error}");
    }
    let error = with_data(&Image::own(), &hashes_profile(""), &measured).unwrap_err();
    assert_eq!(error.code(), "firmware.data", "{error}");
    for loader in ["", "\\", "EFI\\a.efi", "\\a/b", "\\\u{e9}", &format!("\\{}", "a".repeat(255))] {
        let measured = Measured { keys: None, loader: Some(loader.to_owned()) };
        let error = with_data(&Image::own(), &Profile::Disk, &measured).unwrap_err();
        assert_eq!(error.code(), "plan.loader", "{error}");
    }
    let low = MemoryLayout { low: 28 * MIB, high: 0 };
    let plan = LaunchPlan::build_all(&firmware(&Image::own()), &Profile::Disk, &low, 1, None, &measured);
    assert!(matches!(plan, Err(PlanError::OutsideMemory { tag: "secure boot PK", .. })), "{plan:?}");
}

#[test]
fn a_disk_boots_with_any_firmware() {
    let plan = build(&Image::plain(), &Profile::Disk).unwrap();
    assert_eq!(rows(&plan), [(0xffff_f000, 0x1000, Normal, "firmware")]);
    // Without a reset block there is no place for APs but the reset vector.
    assert_eq!(plan.vcpus(), vec![VcpuStart::Reset { eip: 0xffff_fff0 }; 2]);
    let plan = build(&Image::amdsev(), &Profile::Disk).unwrap();
    assert_eq!(plan.imports().len(), 8);
    assert!(plan.imports()[1..].iter().all(|import| matches!(import.source, Source::None)));
}

#[test]
fn firmware_that_lacks_something_is_told_what() {
    let check = |image: Image, profile: &Profile, expected: &str, guid: &str| {
        let error = build(&image, profile).unwrap_err();
        let PlanError::FirmwareLacks { what, .. } = &error else { panic!("{error}") };
        assert_eq!(*what, expected);
        let text = error.to_string();
        assert!(text.contains("test.fd") && text.contains(guid) && text.contains("ovmf-amdsev"), "{text}");
    };
    let (hashes, uki) = (hashes_profile(""), uki_profile(4096));
    let amdsev = Image::amdsev;
    check(Image::plain(), &hashes, "SEV metadata", "dc886566-");
    check(Image::plain(), &uki, "SEV metadata", "dc886566-");
    check(Image { igvm: None, ..amdsev() }, &uki, "IGVM metadata", "784fa70e-");
    let only_params = Some(IGVM[..3].to_vec());
    check(Image { igvm: only_params, ..amdsev() }, &uki, "IGVM parameter and HOB areas", "784fa70e-");
    let no_page = Some(SECTIONS[..6].to_vec());
    check(Image { sections: no_page, ..amdsev() }, &hashes, "kernel-hash area", "7255371f-");
    check(Image { entries: vec![], ..amdsev() }, &hashes, "kernel-hash area", "7255371f-");
}

#[test]
fn firmware_that_contradicts_itself_is_refused() {
    // The hash page is in a section of the wrong kind.
    let mut sections = SECTIONS.to_vec();
    sections[6].0 = 0x85_0000;
    let moved = build(&Image { sections: Some(sections), ..Image::amdsev() }, &hashes_profile(""));
    assert!(matches!(
        moved,
        Err(PlanError::FirmwareContradicts { gpa: 0x81_0000, section: SectionKind::KernelHashes, .. })
    ));
    // The HOB area is in no section.
    let mut igvm = IGVM.to_vec();
    igvm[3].0 = 0x90_0000;
    let outside = build(&Image { igvm: Some(igvm), ..Image::amdsev() }, &uki_profile(4096));
    assert!(matches!(outside, Err(PlanError::FirmwareContradicts { gpa: 0x90_0000, .. })));
    let mut igvm = IGVM.to_vec();
    igvm[1].1 = 48;
    let small = build(&Image { igvm: Some(igvm), ..Image::amdsev() }, &uki_profile(4096));
    assert!(matches!(small, Err(PlanError::MemoryMapRoom { .. })));
}

#[test]
fn the_machine_is_checked() {
    let firmware = firmware(&Image::amdsev());
    let build = |memory, vcpus| LaunchPlan::build(&firmware, &Profile::Disk, &memory, vcpus);
    assert!(matches!(build(MEMORY, 0), Err(PlanError::Vcpus(0))));
    assert!(matches!(build(MEMORY, 0x1_0000), Err(PlanError::Vcpus(0x1_0000))));
    assert!(matches!(build(MemoryLayout { low: 0, high: 0 }, 1), Err(PlanError::Memory(_))));
    let short = MemoryLayout { low: 0x82_f000, high: 512 * MIB };
    assert!(matches!(build(short, 1), Err(PlanError::OutsideMemory { gpa: 0x81_1000, .. })));
    assert!(build(MemoryLayout { low: 0x83_0000, high: 0 }, 1).is_ok());
}

#[test]
fn uki_placement_is_checked() {
    let at = |gpa, low| {
        let profile = Profile::Uki { image: kernel(uki_of(4096)), gpa };
        LaunchPlan::build(&firmware(&Image::amdsev()), &profile, &MemoryLayout { low, high: 0 }, 1)
    };
    for gpa in [0, 0x177_f000, uki_rules::MIN_GPA + 1] {
        assert!(matches!(at(gpa, 256 * MIB), Err(PlanError::UkiAddress { .. })), "{gpa:#x}");
    }
    assert!(at(uki_rules::MIN_GPA, 256 * MIB).is_ok());
    let error = at(uki_rules::DEFAULT_GPA, 128 * MIB).unwrap_err();
    assert!(matches!(error, PlanError::UkiMemory { needed, .. } if needed == 129 * MIB));
    assert!(error.to_string().contains("129 MiB"), "{error}");
    assert!(at(uki_rules::DEFAULT_GPA, 129 * MIB).is_ok());
    assert!(matches!(at(u64::MAX - 4095, 256 * MIB), Err(PlanError::UkiMemory { .. })));

    let profile = Profile::Uki { image: kernel(bzimage(8192)), gpa: uki_rules::DEFAULT_GPA };
    assert!(matches!(build(&Image::amdsev(), &profile), Err(PlanError::Kernel(_))));
}

#[test]
fn a_uki_on_top_of_firmware_pages_is_refused() {
    let mut sections = SECTIONS.to_vec();
    sections.push((0x200_1000, 0x1000, 1));
    let image = Image { sections: Some(sections), ..Image::amdsev() };
    assert!(build(&image, &uki_profile(4096)).is_ok());
    assert!(matches!(
        build(&image, &uki_profile(4097)),
        Err(PlanError::Overlap { first: "uki", second: "sec memory", gpa: 0x200_1000 })
    ));
}

#[test]
fn command_lines_fit_the_kernel() {
    assert!(build(&Image::amdsev(), &hashes_profile(&"x".repeat(2047))).is_ok());
    assert!(matches!(
        build(&Image::amdsev(), &hashes_profile(&"x".repeat(2048))),
        Err(PlanError::CmdlineLength { len: 2048, max: 2047, .. })
    ));
    assert!(matches!(build(&Image::amdsev(), &hashes_profile("a\0")), Err(PlanError::Hashes(_))));
}

#[test]
fn placing_goes_in_pieces_and_names_a_file_that_shrank() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let len = 3 * crate::blob::CHUNK_SIZE + 100;
    std::fs::write(file.path(), uki_of(len)).unwrap();
    let image = Kernel::recognise(Blob::open(file.path()).unwrap()).unwrap();
    let profile = Profile::Uki { image, gpa: uki_rules::DEFAULT_GPA };
    let plan = build(&Image::amdsev(), &profile).unwrap();
    let mut memory = Memory::default();
    place(&plan, &mut memory).unwrap();
    assert_eq!(memory.read(uki_rules::DEFAULT_GPA, len as u64), uki_of(len));
    assert_eq!(memory.largest, crate::blob::CHUNK_SIZE);

    file.as_file().set_len(crate::blob::CHUNK_SIZE as u64 + 1).unwrap();
    let error = place(&plan, &mut Memory::default()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, PlaceError::Read { tag: "uki", .. }));
    assert!(text.contains(&file.path().display().to_string()) && text.contains("0x10000"), "{text}");

    struct Full;
    impl PageSink for Full {
        fn write(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    assert!(matches!(
        place(&plan, &mut Full),
        Err(PlaceError::Write { tag: "firmware", gpa: 0xffff_e000, .. })
    ));
}

fn pages() -> impl Strategy<Value = (u32, u32, u32)> {
    let kind = prop_oneof![8 => Just(1), 1 => Just(2), 1 => Just(3), 1 => Just(4), 1 => Just(0x10)];
    (0x7f0u32..0x840, 0u32..8, kind)
        .prop_map(|(page, pages, kind)| (page * 4096, if kind == 1 { pages * 4096 } else { 4096 }, kind))
}

proptest! {
    /// Whatever the sections are: either there is an error, or no two imports overlap, all of them are in
    /// memory, each section is covered exactly, and the plan is the same the second time.
    #[test]
    fn plans_have_no_overlaps(
        sections in prop::collection::vec(pages(), 0..7),
        which in 0..3,
        low_pages in 0x800u64..0x1_0000,
    ) {
        let image = Image { sections: Some(sections), ..Image::amdsev() };
        let Ok(firmware) = Firmware::parse(image.blob()) else { return Ok(()) };
        let profile = match which {
            0 => Profile::Disk,
            1 => hashes_profile("quiet"),
            _ => uki_profile(9000),
        };
        let memory = MemoryLayout { low: low_pages * PAGE_SIZE, high: 0 };
        let Ok(plan) = LaunchPlan::build(&firmware, &profile, &memory, 1) else { return Ok(()) };
        let mut seen = BTreeSet::new();
        for import in plan.imports() {
            for page in 0..import.len / PAGE_SIZE {
                let gpa = import.gpa + page * PAGE_SIZE;
                prop_assert!(seen.insert(gpa), "{gpa:#x} twice");
                prop_assert!(gpa < memory.low || gpa >= firmware.gpa());
            }
        }
        for section in firmware.sections().unwrap() {
            for page in 0..section.len / PAGE_SIZE {
                prop_assert!(seen.contains(&(section.gpa + page * PAGE_SIZE)));
            }
        }
        let again = LaunchPlan::build(&firmware, &profile, &memory, 1).unwrap();
        prop_assert_eq!(rows(&plan), rows(&again));
    }
}

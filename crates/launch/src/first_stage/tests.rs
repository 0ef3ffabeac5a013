// SPDX-License-Identifier: Apache-2.0
use cvmm_first_stage::layout::STOCK_PLACE;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;

use super::*;
use crate::firmware::{FirmwareProblem, STAGE_PLACE_GUID};
use crate::kernel::Kernel;
use crate::plan::{LaunchPlan, VcpuStart};
use crate::samples::firmware::{Image, pair};
use crate::samples::uki_of;
use crate::start::initial;
use crate::vmsa::VcpuModel;

/// As OVMF.cvmm.fd: 1.25 MiB with 320 KiB at offset 0x10000.
const SIZE: usize = 0x14_0000;
const PLACE: u32 = 0xffed_0000;
const MEMORY: MemoryLayout = MemoryLayout { low: 256 << 20, high: 0 };

fn with_place(gpa: u32, len: u32) -> Image {
    let mut image = Image { size: SIZE, ..Image::amdsev() };
    image.entries.push((STAGE_PLACE_GUID, pair(gpa, len)));
    image
}

fn plan_of(bytes: Vec<u8>, profile: &Profile) -> Result<LaunchPlan, PlanError> {
    let firmware = Firmware::parse(Blob::from_bytes("test.fd", bytes)).unwrap();
    LaunchPlan::build_with(&firmware, profile, &MEMORY, 2, Some(&FirstStage::default()))
}

/// Bytes of the import at `gpa`.
fn import(plan: &LaunchPlan, gpa: u64) -> Vec<u8> {
    let import = plan.imports().iter().find(|import| import.gpa == gpa).unwrap();
    let Source::Blob { blob, offset, len } = &import.source else { panic!("{import:?}") };
    let mut bytes = vec![0; *len as usize];
    blob.read(&mut bytes, *offset).unwrap();
    bytes
}

#[test]
fn the_stage_goes_where_the_image_says() {
    let image = Kernel::recognise(Blob::from_bytes("uki", uki_of(9000))).unwrap();
    let profile = Profile::Uki { image, gpa: crate::uki::DEFAULT_GPA };
    for profile in [Profile::Disk, profile] {
        let plan = plan_of(with_place(PLACE, 0x5_0000).bytes(), &profile).unwrap();
        let firmware: Vec<_> = plan.imports()[..5].iter().map(|import| (import.gpa, import.len)).collect();
        let expected = [
            (0xffec_0000, 0x1_0000),
            (0xffed_0000, 0x5_0000),
            (0xfff2_0000, 0xd_8000),
            (0xffff_8000, 0x1000),
            (0xffff_9000, 0x7000),
        ];
        assert_eq!(firmware, expected);
        assert!(plan.has_first_stage());
        assert_eq!(plan.vcpus()[0], VcpuStart::FirstStage { place: PLACE });
        assert_eq!(plan.staged_uki().is_some(), matches!(profile, Profile::Uki { .. }));
        let stage = import(&plan, PLACE.into());
        assert_eq!(stage[..0x2000], page_tables(PLACE.into()));
        assert_eq!(stage[0x4000..][..embed::PROGRAM.len()], embed::program_at(PLACE.into()));
    }
}

#[test]
fn an_image_that_names_no_place_is_the_stock_one() {
    let plan = plan_of(Image { size: 4 << 20, ..Image::amdsev() }.bytes(), &Profile::Disk).unwrap();
    assert_eq!(plan.vcpus()[0], VcpuStart::FirstStage { place: STOCK_PLACE as u32 });
    assert_eq!(import(&plan, STOCK_PLACE)[0x4000..][..embed::PROGRAM.len()], *embed::PROGRAM);
    let error = plan_of(Image { size: SIZE, ..Image::amdsev() }.bytes(), &Profile::Disk).unwrap_err();
    assert_eq!(error.code(), "firmware.first-stage");
    assert!(error.to_string().contains("lacks room for it"), "{error}");
}

#[test]
fn the_processor_starts_in_the_stage() {
    let model = VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures::default() };
    let vmsa = initial(&VcpuStart::FirstStage { place: PLACE }, model);
    let (cr3, rip, rsp) = (vmsa.cr3.get(), vmsa.rip.get(), vmsa.rsp.get());
    assert_eq!((cr3, rip, rsp), (0xffed_0000, 0xffed_4000, 0xfff2_0000));
}

#[test]
fn a_place_that_cannot_be_used_is_refused() {
    for (gpa, len, reason) in [
        (PLACE, 0, "too small"),
        (PLACE, 0x4_f000, "too small"),
        (PLACE + 0x800, 0x5_0000, "whole 4 KiB pages"),
        (PLACE, 0x5_0800, "whole 4 KiB pages"),
        (0xffeb_f000, 0x5_0000, "not inside the image"),
        (0x80_0000, 0x5_0000, "not inside the image"),
        (0, 0x5_0000, "not inside the image"),
        (0xffff_f000, 0xffff_f000, "not inside the image"),
        (0xfffa_9000, 0x5_0000, "overlaps the page of the first stage's exit"),
        (0xfffb_0000, 0x5_0000, "overlaps the page of the first stage's exit"),
    ] {
        let error = Firmware::parse(with_place(gpa, len).blob()).unwrap_err();
        assert!(matches!(error.problem, FirmwareProblem::StagePlace { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(reason) && text.contains("0b4c22b5-37d0-4c52"), "{gpa:#x} {len:#x}: {text}");
    }
    // From the first byte of the image, and up to the exit page.
    for gpa in [0xffec_0000, 0xfffa_8000] {
        let mut image = with_place(gpa, 0x5_0000);
        (image.sections, image.igvm) = (None, None);
        let firmware = Firmware::parse(image.blob()).unwrap();
        assert_eq!(firmware.stage_place(), gpa);
    }
    let mut twice = with_place(PLACE, 0x5_0000);
    twice.entries.push((STAGE_PLACE_GUID, pair(0xfff2_0000, 0x5_0000)));
    let error = Firmware::parse(twice.blob()).unwrap_err();
    assert!(matches!(error.problem, FirmwareProblem::DuplicateGuid(STAGE_PLACE_GUID)), "{error}");
    let short = Image { entries: vec![(STAGE_PLACE_GUID, vec![0; 7])], ..with_place(0, 0) };
    let error = Firmware::parse(short.blob()).unwrap_err();
    assert!(matches!(error.problem, FirmwareProblem::EntryData { len: 7, expected: 8, .. }), "{error}");
}

#[test]
fn a_place_with_something_in_it_is_refused() {
    let good = with_place(PLACE, 0x5_0000).bytes();
    for at in [0x1_0000, 0x5_ffff, SIZE - 0x8000, SIZE - 0x7001] {
        let mut bytes = good.clone();
        bytes[at] = 0;
        let error = plan_of(bytes, &Profile::Disk).unwrap_err();
        assert!(error.to_string().contains("padding of FFh"), "{at:#x}: {error}");
    }
    for at in [0xffff, 0x6_0000, SIZE - 0x8001, SIZE - 0x7000] {
        let mut bytes = good.clone();
        bytes[at] = 0;
        plan_of(bytes, &Profile::Disk).unwrap();
    }
}

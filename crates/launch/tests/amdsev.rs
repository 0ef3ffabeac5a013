// SPDX-License-Identifier: Apache-2.0
//! The AmdSev build of OVMF, the real one where it is at hand, and a sample with the same tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use cvmm_launch::blob::Blob;
use cvmm_launch::firmware::{Area, Firmware, HobArea, ParameterArea, RESET_BLOCK_GUID, Section, SectionKind};
use cvmm_launch::kernel::Kernel;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::PageKind::{Cpuid, Normal, Secrets, Zero};
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, Profile};
use cvmm_launch::samples::firmware::Image;
use cvmm_launch::samples::uki_of;
use cvmm_launch::uki::DEFAULT_GPA;
use cvmm_test_support::{artefacts, suite};

/// The values both the synthetic and the real image must give: machine-model 1.2, read with another tool.
fn check_amdsev(firmware: &Firmware) {
    assert_eq!(firmware.ap_start(), Some(0x0080_b004));
    assert_eq!(firmware.secret_area(), Some(Area { gpa: 0x81_0000, len: 0xc00 }));
    assert_eq!(firmware.kernel_hashes(), Some(Area { gpa: 0x81_0c00, len: 0x400 }));
    let section = |gpa, len, kind| Section { gpa, len, kind };
    let expected = [
        section(0x80_0000, 0x9000, SectionKind::SecMem),
        section(0x80_a000, 0x3000, SectionKind::SecMem),
        section(0x80_d000, 0x1000, SectionKind::Secrets),
        section(0x80_e000, 0x1000, SectionKind::Cpuid),
        section(0x80_f000, 0x1000, SectionKind::SvsmCaa),
        section(0x81_1000, 0x1_f000, SectionKind::SecMem),
        section(0x81_0000, 0x1000, SectionKind::KernelHashes),
    ];
    assert_eq!(firmware.sections(), Some(&expected[..]));
    let igvm = firmware.igvm().unwrap();
    assert_eq!(
        igvm.parameters,
        Some(ParameterArea { gpa: 0x81_2000, len: 0x1000, memory_map: (0, 0xc0), vcpu_count: 0xc0 })
    );
    assert_eq!(igvm.hobs, Some(HobArea { gpa: 0x81_3000, len: 0x1000 }));
}

fn a_synthetic_amdsev_image_is_understood() {
    let firmware = Firmware::parse(Image::amdsev().blob()).unwrap();
    check_amdsev(&firmware);
    assert_eq!((firmware.gpa(), firmware.size()), (0xffff_e000, 0x2000));
    assert_eq!(firmware.guids().len(), 5);
}

fn the_real_amdsev_image_is_understood() -> suite::Result {
    let path = artefacts::amdsev_firmware()?;
    let firmware = Firmware::parse(Blob::open(&path).unwrap()).unwrap();
    check_amdsev(&firmware);
    assert_eq!((firmware.gpa(), firmware.size()), (0xffc0_0000, 0x40_0000));
    assert_eq!(firmware.reset_vector(), 0xffff_fff0);
    // Nearest the end first; the fifth is the TDX metadata, which mean nothing here.
    assert_eq!(firmware.guids().len(), 6);
    assert_eq!(firmware.guids()[0], RESET_BLOCK_GUID);
    assert_eq!(firmware.guids()[4].to_string(), "e47a6535-984a-4798-865e-4685a7bf8ec2");
    Ok(())
}

fn a_plan_of_the_real_amdsev_image_has_the_known_pages() -> suite::Result {
    let path = artefacts::amdsev_firmware()?;
    let firmware = Firmware::parse(Blob::open(&path).unwrap()).unwrap();
    let image = Kernel::recognise(Blob::from_bytes("uki", uki_of(13_230_433))).unwrap();
    let memory = MemoryLayout { low: 256 << 20, high: 512 << 20 };
    let plan = LaunchPlan::build(&firmware, &Profile::Uki { image, gpa: DEFAULT_GPA }, &memory, 1).unwrap();
    let pages =
        |kind| -> u64 { plan.imports().iter().filter(|i| i.kind == kind).map(|i| i.len / PAGE_SIZE).sum() };
    assert_eq!((pages(Normal), pages(Zero), pages(Secrets), pages(Cpuid)), (4257, 43, 1, 1));
    assert_eq!(plan.imports().len(), 12);
    let text: Vec<String> = plan.explain().map(|row| row.to_string()).collect();
    assert!(text[0].starts_with("0x00ffc00000    1024 pages  normal      firmware  "), "{}", text[0]);
    Ok(())
}

suite!(
    a_synthetic_amdsev_image_is_understood,
    the_real_amdsev_image_is_understood,
    a_plan_of_the_real_amdsev_image_has_the_known_pages,
);

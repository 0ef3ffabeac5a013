// SPDX-License-Identifier: Apache-2.0
//! Plans that are written and read again, and what the format's own reader makes of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io;

use cvmm_igvm::{Export, Guest, Machine, load};
use cvmm_launch::blob::Blob;
use cvmm_launch::digest::measure;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::first_stage::FirstStage;
use cvmm_launch::id_block::Identity;
use cvmm_launch::kernel::Kernel;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, PageKind, PageSink, Profile, place};
use cvmm_launch::samples::firmware::Image;
use cvmm_launch::samples::{bzimage, uki_of};
use cvmm_launch::uki;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_psp::{LaunchDigest, PageType};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use igvm::snp_defs::SevVmsa;
use igvm::{
    IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision, IsolationType,
};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags,
    IgvmPageDataType, IgvmPlatformType,
};
use zerocopy::{FromZeros, IntoBytes};

const MIB: u64 = 1 << 20;
const MEMORY: MemoryLayout = MemoryLayout { low: 256 * MIB, high: 512 * MIB };
const MODEL: VcpuModel = VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures::SNP_ACTIVE };
const POLICY: GuestPolicy = GuestPolicy(0x3_0000);

fn machine(vcpus: u32) -> Machine<'static> {
    Machine { memory: &MEMORY, vcpus, policy: POLICY, features: MODEL.features, cmdline: "", madt: None }
}

fn kernel(bytes: Vec<u8>) -> Kernel {
    Kernel::recognise(Blob::from_bytes("kernel", bytes)).unwrap()
}

/// Plans of every profile, with and without a first stage.
fn plans(vcpus: u32) -> Vec<LaunchPlan> {
    let profiles = [
        Profile::Disk,
        Profile::Hashes { kernel: kernel(bzimage(8192)), initrd: None, cmdline: "quiet".to_owned() },
        Profile::Uki { image: kernel(uki_of(100_001)), gpa: uki::DEFAULT_GPA },
    ];
    let large = Image { size: 4 << 20, ..Image::amdsev() };
    let stage = FirstStage::default();
    let mut plans = Vec::new();
    for (image, stage) in [(Image::amdsev(), None), (large, Some(&stage))] {
        let firmware = Firmware::parse(image.blob()).unwrap();
        for profile in &profiles {
            plans.push(LaunchPlan::build_with(&firmware, profile, &MEMORY, vcpus, stage).unwrap());
        }
    }
    plans
}

fn export(plan: &LaunchPlan, identity: Option<&Identity>) -> Vec<u8> {
    let mut file = Vec::new();
    Export { plan, memory: &MEMORY, policy: POLICY, model: MODEL, identity }.write(&mut file).unwrap();
    file
}

fn digest(plan: &LaunchPlan) -> Digest {
    measure(plan, MODEL, None, &mut ()).unwrap()
}

#[derive(Default)]
struct Memory(BTreeMap<u64, Vec<u8>>);

impl PageSink for Memory {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        for (at, byte) in (gpa..).zip(bytes) {
            let page = self.0.entry(at - at % PAGE_SIZE).or_insert_with(|| vec![0; PAGE_SIZE as usize]);
            page[(at % PAGE_SIZE) as usize] = *byte;
        }
        Ok(())
    }
}

/// Kind and content of every page, in launch order.
fn pages(plan: &LaunchPlan) -> Vec<(u64, PageKind, Vec<u8>)> {
    let mut memory = Memory::default();
    place(plan, &mut memory).unwrap();
    let imports = plan.imports().iter();
    let pages = imports.flat_map(|import| {
        (import.gpa..import.gpa + import.len).step_by(PAGE_SIZE as usize).map(|gpa| (gpa, import.kind))
    });
    pages
        .map(|(gpa, kind)| (gpa, kind, memory.0.get(&gpa).cloned().unwrap_or_else(|| vec![0; 4096])))
        .collect()
}

#[test]
fn a_plan_comes_back_with_the_same_pages_and_digest() {
    for vcpus in [1, 4] {
        for plan in plans(vcpus) {
            let file = export(&plan, None);
            assert!(file == export(&plan, None), "the file depends on something else");
            let Guest { plan: loaded, identity } =
                load(&Blob::from_bytes("x", file), &machine(vcpus)).unwrap();
            assert!(pages(&loaded) == pages(&plan));
            assert_eq!(digest(&loaded), digest(&plan));
            assert_eq!(loaded.window(), plan.window());
            assert!(loaded.imports().len() <= plan.imports().len());
            assert!(identity.is_none());
        }
    }
}

#[test]
fn an_id_block_comes_back() {
    let plan = &plans(1)[2];
    let mut block = IdBlock::new(digest(plan), POLICY);
    block.family_id = *b"a family of ours";
    let identity = Identity::keyless(block).unwrap();
    let file = export(plan, Some(&identity));
    let guest = load(&Blob::from_bytes("x", file.clone()), &machine(1)).unwrap();
    assert_eq!(guest.identity.as_ref(), Some(&identity));
    guest.identity.unwrap().check_launch(digest(&guest.plan), POLICY).unwrap();
    // Another byte of it, and its signature is not valid.
    let mut changed = file;
    let at = changed.windows(16).position(|bytes| bytes == b"a family of ours").unwrap();
    changed[at] ^= 1;
    cvmm_igvm::samples::seal(&mut changed);
    let error = load(&Blob::from_bytes("x", changed), &machine(1)).unwrap_err();
    assert_eq!(error.problem.code(), "igvm.id-block");
    assert_eq!(error.place.unwrap().index, 3);
    // For another policy it would not be the block of this launch.
    let other = Export {
        plan,
        memory: &MEMORY,
        policy: GuestPolicy(0xb_0000),
        model: MODEL,
        identity: Some(&identity),
    };
    assert!(other.write(&mut Vec::new()).is_err());
}

/// The launch digest by the rules of KVM and QEMU, from what the format's own reader sees in the file.
fn digest_by_igvm(file: &[u8]) -> [u8; 48] {
    let parsed = IgvmFile::new_from_binary(file, Some(IsolationType::Snp)).unwrap();
    let IgvmPlatformHeader::SupportedPlatform(platform) = &parsed.platforms()[0];
    assert_eq!((platform.platform_type, platform.highest_vtl), (IgvmPlatformType::SEV_SNP, 0));
    let IgvmInitializationHeader::GuestPolicy { policy, .. } = &parsed.initializations()[0] else {
        panic!("no policy")
    };
    assert_eq!(*policy, POLICY.0);
    let mut psp = LaunchDigest::default();
    let mut states: Vec<(u16, Vec<u8>)> = Vec::new();
    for header in parsed.directives() {
        match header {
            IgvmDirectiveHeader::PageData { gpa, flags, data_type, data, .. } => {
                let kind = match *data_type {
                    IgvmPageDataType::NORMAL if flags.unmeasured() => PageType::Unmeasured,
                    IgvmPageDataType::NORMAL if data.is_empty() => PageType::Zero,
                    IgvmPageDataType::NORMAL => PageType::Normal,
                    IgvmPageDataType::SECRETS => PageType::Secrets,
                    IgvmPageDataType::CPUID_DATA => PageType::Cpuid,
                    other => panic!("{other:?}"),
                };
                psp.extend(kind, data, *gpa, false, [0; 3]);
            }
            IgvmDirectiveHeader::SnpVpContext { gpa, vp_index, vmsa, .. } => {
                assert_eq!(*gpa, 0xffff_ffff_f000);
                let mut page = vmsa.as_bytes().to_vec();
                page.resize(4096, 0);
                states.push((*vp_index, page));
            }
            IgvmDirectiveHeader::RequiredMemory { gpa, number_of_bytes, .. } => {
                assert_eq!((*gpa, u64::from(*number_of_bytes)), (MIB, MEMORY.low - MIB));
            }
            IgvmDirectiveHeader::SnpIdBlock { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    for (at, (index, page)) in states.iter().enumerate() {
        assert_eq!(at, usize::from(*index));
        psp.extend(PageType::Vmsa, page, 0xffff_ffff_f000, false, [0; 3]);
    }
    psp.0
}

#[test]
fn the_formats_own_reader_gives_the_digest() {
    for vcpus in [1, 4] {
        for plan in plans(vcpus) {
            assert_eq!(digest_by_igvm(&export(&plan, None)), digest(&plan).0);
        }
    }
}

/// A file as COCONUT's igvmbuilder and cloud-hypervisor's tools write it: by the crate `igvm`, with
/// parameters, for two platforms.
#[test]
fn a_file_of_the_formats_own_writer_is_loaded() {
    let mask = 1;
    let platform = |compatibility_mask, platform_type| {
        IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
            compatibility_mask,
            highest_vtl: 0,
            platform_type,
            platform_version: 1,
            shared_gpa_boundary: 0,
        })
    };
    let page = |gpa, compatibility_mask, data_type, unmeasured, data: &[u8]| IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask,
        flags: IgvmPageDataFlags::new().with_unmeasured(unmeasured),
        data_type,
        data: data.to_vec(),
    };
    let parameter = |byte_offset| IGVM_VHS_PARAMETER { parameter_area_index: 5, byte_offset };
    let normal = IgvmPageDataType::NORMAL;
    // 32-bit mode with flat segments, as for an SVSM, but with KVM's constants.
    let mut vmsa = SevVmsa::new_box_zeroed().unwrap();
    (vmsa.cs.selector, vmsa.cs.attrib, vmsa.cs.limit) = (8, 0xc9b, 0xffff_ffff);
    (vmsa.ss.selector, vmsa.ss.attrib, vmsa.ss.limit) = (16, 0xa93, 0xffff_ffff);
    (vmsa.cr0, vmsa.cr4, vmsa.efer, vmsa.rflags) = (0x31, 0x40, 0x1000, 2);
    (vmsa.rip, vmsa.rsp, vmsa.rsi) = (0x80_2000, 0x80_1ff0, 77);
    (vmsa.pat, vmsa.xcr0, vmsa.dr6, vmsa.dr7) = (0x0007_0406_0007_0406, 1, 0xffff_0ff0, 0x400);
    (vmsa.mxcsr, vmsa.x87_fcw) = (0x1f80, 0x37f);
    vmsa.sev_features.set_snp(true);
    let state = vmsa.clone();
    let directives = vec![
        IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: 8192,
            parameter_area_index: 5,
            initial_data: vec![],
        },
        IgvmDirectiveHeader::VpCount(parameter(0)),
        IgvmDirectiveHeader::EnvironmentInfo(parameter(4)),
        IgvmDirectiveHeader::MemoryMap(parameter(4096)),
        IgvmDirectiveHeader::RequiredMemory {
            gpa: 0x80_0000,
            compatibility_mask: mask,
            number_of_bytes: 0x10_0000,
            vtl2_protectable: false,
        },
        page(0x80_0000, mask, normal, false, &[]),
        page(0x80_1000, mask, normal, false, &[]),
        page(0x80_2000, mask, normal, false, &[0xf4; 4096]),
        page(0x70_0000, 2, normal, false, &[9; 4096]),
        page(0x80_3000, mask | 2, normal, true, &[7; 4096]),
        page(0x80_4000, mask, IgvmPageDataType::SECRETS, false, &[]),
        page(0x80_5000, mask, IgvmPageDataType::CPUID_DATA, false, &[1; 4096]),
        IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa: 0x80_8000,
            compatibility_mask: mask,
            parameter_area_index: 5,
        }),
        IgvmDirectiveHeader::SnpVpContext {
            gpa: 0xffff_ffff_f000,
            compatibility_mask: mask,
            vp_index: 0,
            vmsa,
        },
    ];
    let platforms = vec![platform(mask, IgvmPlatformType::SEV_SNP), platform(2, IgvmPlatformType::TDX)];
    let policy = IgvmInitializationHeader::GuestPolicy { policy: POLICY.0, compatibility_mask: mask };
    let file = IgvmFile::new(IgvmRevision::V1, platforms, vec![policy], directives).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();

    let plan = load(&Blob::from_bytes("x", bytes), &machine(3)).unwrap().plan;
    let rows: Vec<_> = plan.explain().map(|row| (row.gpa, row.len / PAGE_SIZE, row.kind)).collect();
    let expected = [
        (0x80_0000, 2, PageKind::Zero),
        (0x80_2000, 1, PageKind::Normal),
        (0x80_3000, 1, PageKind::Unmeasured),
        (0x80_4000, 1, PageKind::Secrets),
        (0x80_5000, 1, PageKind::Cpuid),
        (0x80_8000, 2, PageKind::Unmeasured),
    ];
    assert_eq!(rows, expected);
    assert_eq!(plan.window(), 0);
    let placed = pages(&plan);
    assert_eq!(placed[2].2, [0xf4; 4096]);
    assert_eq!(placed[3].2, [7; 4096]);
    let parameters = [&placed[6].2[..], &placed[7].2[..]].concat();
    assert_eq!(parameters[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    let map: Vec<u64> =
        parameters[4096..4096 + 72].as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    assert_eq!(map, [0, MEMORY.low >> 12, 0, 1 << 20, MEMORY.high >> 12, 0, 0, 0, 0]);

    // The digest, by the security processor's rules: QEMU starts the others after a reset.
    let mut psp = LaunchDigest::default();
    for (gpa, kind, content) in &placed {
        psp.extend(PageType::from_bits(*kind as u32).unwrap(), content, *gpa, false, [0; 3]);
    }
    let mut page = state.as_bytes().to_vec();
    page.resize(4096, 0);
    psp.extend(PageType::Vmsa, &page, 0xffff_ffff_f000, false, [0; 3]);
    let reset = cvmm_launch::plan::VcpuStart::Reset { eip: 0xffff_fff0 };
    for _ in 1..3 {
        let vmsa = cvmm_launch::start::initial(&reset, MODEL);
        psp.extend(PageType::Vmsa, vmsa.as_bytes(), 0xffff_ffff_f000, false, [0; 3]);
    }
    assert_eq!(digest(&plan).0, psp.0);
}

// SPDX-License-Identifier: Apache-2.0
//! Digests against those of two independent implementations: `sev-snp-measure` 0.0.13, and the software PSP,
//! which shares no code with this crate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use cvmm_launch::blob::Blob;
use cvmm_launch::digest::{FirmwareDigest, MeasureError, Observer, build, measure};
use cvmm_launch::firmware::Firmware;
use cvmm_launch::hashes::KernelHashes;
use cvmm_launch::kernel::Kernel;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, PageImport, PageKind, PageSink, PlanError, Profile, place};
use cvmm_launch::samples::firmware::{Image, Record, SECTIONS};
use cvmm_launch::samples::{bzimage, uki_of};
use cvmm_launch::start;
use cvmm_launch::uki::DEFAULT_GPA;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_psp::{LaunchDigest, PageType as PspPage};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::page_info::VMSA_GPA;
use cvmm_snp::vmsa::Vmsa;
use cvmm_test_support::artefacts;
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use proptest::prelude::*;

use zerocopy::IntoBytes as _;

const MEMORY: MemoryLayout = MemoryLayout { low: 256 << 20, high: 0 };

/// One line of the oracle: `sev-snp-measure --mode snp --vmm-type QEMU --ovmf FIRMWARE` with these options.
struct Case {
    vcpus: u32,
    cpu: &'static str,
    features: u64,
    /// `--kernel`, with or without `--initrd`, and `--append`.
    kernel: Option<(bool, &'static str)>,
    digest: &'static str,
}

const fn case(vcpus: u32, cpu: &'static str, digest: &'static str) -> Case {
    Case { vcpus, cpu, features: 1, kernel: None, digest }
}

const APPEND: &str = "console=ttyS0 root=/dev/vda1 ro";

/// OVMF.amdsev.fd 2026.08: the digest after the image (`--mode snp:ovmf-hash`), and all combinations.
const AMDSEV_HASH: &str =
    "9d0dd8be18c86e3fe3bf0038ed75ebf5340bee69fd2632c8ff9409964575960ae1f7e84be387d2e3467bc3508d1e4806";
const AMDSEV: [Case; 17] = [
    case(
        1,
        "EPYC-v4",
        "d74bd3ea40b240c3228edc5177ce6193561ebff633dbd0be76d6c143b876d65102425c0e2e8a930857c48daa5eacda58",
    ),
    case(
        2,
        "EPYC-v4",
        "a3c946257b3cef8f1e25dd03cb84f9f01313ae9135c32acc7e01f4204aa447aaa196530d5999be0f114462d2546cd02d",
    ),
    case(
        4,
        "EPYC-v4",
        "13a6ae9fbaa31c91ade309c36bd5214729438abac318e01176e02a97b8bec11a4bce86b4d2b1fba2ec0481dd24ff525f",
    ),
    case(
        1,
        "EPYC-Milan",
        "4a7f0dc0ad7c8fc19a056d1f78c6ccc2dda5c69aef1b063650d94598084b89a89a5e295aceb08223b8ddd027620dbe66",
    ),
    case(
        4,
        "EPYC-Milan",
        "c995d6122aacbc0434128f0c63783f03b7caec3f8f4292948522a00c0395ff126f1633d8346a20aa85f8dd3bd8739a38",
    ),
    case(
        64,
        "EPYC-Milan",
        "1ebd148cab87c1b5bfe09d89ae1a4a9f7404948e952b94c2b60f61836560960e9db2c4e1ce517b39be5de06e292ec069",
    ),
    case(
        1,
        "EPYC-Genoa",
        "56b84ad0703ad6b060b4959b01ee47ce28c6bab89236da281671fce41417b249649e5181189ed4dd7b08fb181cca9ada",
    ),
    case(
        8,
        "EPYC-Genoa",
        "3b02fd481df2cd7899d2d8cce9e7c18e773c4d73883f29396e7afca606fe9d165ed81e126b83a98ace378ead74d1b8b5",
    ),
    case(
        1,
        "EPYC-Turin",
        "f37aa18d4893c89479a0711555e94317461460328b5af613f3c4737b38e30d0a71abd691e66fef6c2fb93fa53a3bd462",
    ),
    case(
        1,
        "0xa00f11",
        "4a7f0dc0ad7c8fc19a056d1f78c6ccc2dda5c69aef1b063650d94598084b89a89a5e295aceb08223b8ddd027620dbe66",
    ),
    Case {
        features: 0x21,
        kernel: None,
        ..case(
            1,
            "EPYC-v4",
            "5fafce19a1da9324827756044f6a922becd7fb7a5f80f1cd803366eeb7add5a129d0ca53b184313c9f9036e869371a88",
        )
    },
    Case {
        features: 0x201,
        kernel: None,
        ..case(
            1,
            "EPYC-v4",
            "a8c7e3c72f13468a8d031408562473f29687ebbbff9f52bd62be82c54c6c6ffec46facf3a0252ccfcc302959b575e554",
        )
    },
    Case {
        features: 1,
        kernel: Some((false, "")),
        ..case(
            1,
            "EPYC-v4",
            "f9ba53920ff813bdb36c6b1cf1596dc10b2e138c245f99531a2367bc91950bd9e37e43f9c9d9f6e21bfbbb365983c87e",
        )
    },
    Case {
        features: 1,
        kernel: Some((false, APPEND)),
        ..case(
            1,
            "EPYC-v4",
            "325f905308cd2e95d4743154906380683a38e678591176baa639b26a44cecfce11d4f99dd845f2af4cb149e4f9972ba6",
        )
    },
    Case {
        features: 1,
        kernel: Some((true, APPEND)),
        ..case(
            1,
            "EPYC-v4",
            "b59332ad400df9f4c7a221ff82c402287e9696da521ef993668802da9dbcef9124120b3920cddeea8cf76e809ba39689",
        )
    },
    Case {
        features: 1,
        kernel: Some((true, APPEND)),
        ..case(
            4,
            "EPYC-Milan",
            "e8df9aa3919a0d2d17dba098ab79c08c4db66c099654bf2b7d4e4ef3059f7176933c2bbe8d1c7615befc1e02573b9a91",
        )
    },
    Case {
        features: 1,
        kernel: Some((true, "")),
        ..case(
            4,
            "EPYC-Milan",
            "9e99e025c876778b5ff6a3b346c4ece58d89d318a28ffe1ad29b163fb2f54d84e6f109fd91684dc14c0a2f3b870c7e63",
        )
    },
];

/// OVMF.fd of Debian 2025.02.
const STOCK_SHA256: &str = "14954040cc754ade0c625ac3470ea46d4c14318b5b1396de4ef77090203d76db";
const STOCK_HASH: &str =
    "52de7f3ba560307ec6c22a5cb001524d5e560467b5d618c715cfe3c6f1addcadb91563693fbfa433ae18c2412d739a95";
const STOCK: [Case; 2] = [
    case(
        1,
        "EPYC-v4",
        "6eef547a9fcf5720c5c04883fe85788d29de46b55a51e554467029b554a3352e66d2f3c71b84cea937d19a1a6c41596f",
    ),
    case(
        4,
        "EPYC-Milan",
        "23a7cfea107ad340deb77960c711065bea0527cb551ec5eb3ec8234c730947fe05f172939695b2079efb5c3f841e733a",
    ),
];

/// OVMF_CODE_4M.secboot.fd of Debian 2025.02: 3 653 632 bytes.
const SECBOOT_SHA256: &str = "1a46295574430cfb7f825ee3e4dc64b052acbef08e310377ed7c64cb757a9dc1";
const SECBOOT_HASH: &str =
    "cee38b2ef88b4a486f45ed60bdd99d982947bedbfe0e76d95bdfcffa9d61a6bd2d405ae62268484b8bf42b4963046d3a";
const SECBOOT: [Case; 1] = [case(
    1,
    "EPYC-v4",
    "22c8822fb9443a47d8b9cf2165eed30162a838027135ab30d0863ef9e64dd5128665419c0505130650a9909e96b1e770",
)];
/// The sections of the two stock images.
const STOCK_SECTIONS: [Record; 6] = [
    (0x80_0000, 0x9000, 1),
    (0x80_a000, 0x3000, 1),
    (0x80_d000, 0x1000, 2),
    (0x80_e000, 0x1000, 3),
    (0x80_f000, 0x1000, 4),
    (0x81_0000, 0x1_0000, 1),
];

fn sha256(hex: &str) -> [u8; 32] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

fn profile(kernel: Option<(bool, &str)>) -> Profile {
    let Some((initrd, append)) = kernel else { return Profile::Disk };
    // The files of the oracle by their hashes: vmlinuz-6.12.95+deb12-cloud-amd64 and printf
    // 'cvmm-oracle-initrd-v1\n'.
    let none = Blob::from_bytes("none", Vec::new());
    let text = KernelHashes::compute(&none, None, append).unwrap();
    Profile::HashesOnly(KernelHashes {
        kernel: sha256("1e1b20f533828d752b7e822dbf8d86898677f00727f39b36896e3d13881c4a05"),
        initrd: if initrd {
            sha256("2b83c1d85c861a4f33f63a5e68173b16ac2d2de0a62153531245d232f18e4409")
        } else {
            text.initrd
        },
        cmdline: text.cmdline,
    })
}

fn model(cpu: &str, features: u64) -> VcpuModel {
    let signature = cpu.strip_prefix("0x").map_or_else(
        || cpu.parse().unwrap(),
        |digits| CpuSignature(u32::from_str_radix(digits, 16).unwrap()),
    );
    VcpuModel { signature, features: SevFeatures(features) }
}

fn check(firmware: &Firmware, known: &FirmwareDigest, cases: &[Case]) {
    for case in cases {
        let plan = LaunchPlan::build(firmware, &profile(case.kernel), &MEMORY, case.vcpus).unwrap();
        let digest = measure(&plan, model(case.cpu, case.features), Some(known), &mut ()).unwrap();
        assert_eq!(digest.to_string(), case.digest, "{} x {} {:?}", case.vcpus, case.cpu, case.kernel);
    }
}

/// All digests without the images: everything but their bytes is in their tables, and the digest after the
/// bytes is known.
fn digests_are_the_oracles_from_the_hash_of_the_firmware() {
    let stock = Image { sections: Some(STOCK_SECTIONS.to_vec()), ..Image::amdsev() };
    for (image, hash, cases) in [
        (Image::amdsev(), AMDSEV_HASH, &AMDSEV[..]),
        (stock.clone(), STOCK_HASH, &STOCK),
        (stock, SECBOOT_HASH, &SECBOOT),
    ] {
        let firmware = Firmware::parse(image.blob()).unwrap();
        check(&firmware, &FirmwareDigest::known(&firmware, hash.parse().unwrap()), cases);
    }
}

fn digests_are_the_oracles_from_the_real_amdsev_image() -> suite::Result {
    let path = artefacts::amdsev_firmware()?;
    let firmware = Firmware::parse(Blob::open(&path).unwrap()).unwrap();
    let known = FirmwareDigest::compute(&firmware).unwrap();
    assert_eq!(known.running().to_string(), AMDSEV_HASH);
    check(&firmware, &known, &AMDSEV);
    // The image read as part of the plan gives the same.
    let plan = LaunchPlan::build(&firmware, &profile(AMDSEV[0].kernel), &MEMORY, 1).unwrap();
    let digest = measure(&plan, model(AMDSEV[0].cpu, 1), None, &mut ()).unwrap();
    assert_eq!(digest.to_string(), AMDSEV[0].digest);
    Ok(())
}

/// A build of Debian's package ovmf 2025.02, which has no area for kernel hashes.
fn check_debian_build(sha256: &str, running: &str, cases: &[Case]) -> suite::Result {
    let hash = |path: &PathBuf| hex::encode(digest(&SHA256, &std::fs::read(path).unwrap_or_default()));
    let path = artefacts::ovmf_images().into_iter().find(|path| hash(path) == sha256).ok_or_else(|| {
        Missing::new("needs Debian's ovmf 2025.02: set CVMM_TEST_OVMF to a folder that has its images")
    })?;
    let firmware = Firmware::parse(Blob::open(&path).unwrap()).unwrap();
    let known = FirmwareDigest::compute(&firmware).unwrap();
    assert_eq!(known.running().to_string(), running);
    check(&firmware, &known, cases);
    // "Kernel specified but OVMF metadata doesn't include SNP_KERNEL_HASHES section", says the oracle.
    let refused = LaunchPlan::build(&firmware, &profile(Some((false, ""))), &MEMORY, 1);
    assert!(matches!(refused, Err(PlanError::FirmwareLacks { what: "kernel-hash area", .. })));
    Ok(())
}

fn digests_are_the_oracles_from_the_real_stock_image() -> suite::Result {
    check_debian_build(STOCK_SHA256, STOCK_HASH, &STOCK)?;
    Ok(())
}

fn digests_are_the_oracles_from_the_real_secure_boot_image() -> suite::Result {
    check_debian_build(SECBOOT_SHA256, SECBOOT_HASH, &SECBOOT)?;
    Ok(())
}

fn kernel(bytes: Vec<u8>) -> Kernel {
    Kernel::recognise(Blob::from_bytes("kernel", bytes)).unwrap()
}

fn hashes(kernel_len: usize, initrd: bool, cmdline: &str) -> Profile {
    Profile::Hashes {
        kernel: kernel(bzimage(kernel_len)),
        initrd: initrd.then(|| Blob::from_bytes("initrd", b"initrd".to_vec())),
        cmdline: cmdline.to_owned(),
    }
}

fn uki_profile(bytes: Vec<u8>) -> Profile {
    Profile::Uki { image: kernel(bytes), gpa: DEFAULT_GPA }
}

fn digest_of(image: &Image, profile: &Profile, vcpus: u32, model: VcpuModel) -> Digest {
    let firmware = Firmware::parse(image.blob()).unwrap();
    let plan = LaunchPlan::build(&firmware, profile, &MEMORY, vcpus).unwrap();
    measure(&plan, model, None, &mut ()).unwrap()
}

/// An image with a section of length zero in the middle.
fn zero_length() -> Image {
    let mut sections = SECTIONS.to_vec();
    sections.insert(2, (0x80_d000, 0, 1));
    Image { sections: Some(sections), ..Image::amdsev() }
}

/// Each line: `sev-snp-measure --mode snp --ovmf fw.fd` with the options in the comment;
/// `examples/oracle-inputs.rs` writes the files.
fn files_are_hashed_as_the_oracle_hashes_them() {
    let milan = model("EPYC-Milan", 1);
    let (image, files) = (Image::amdsev(), |initrd, cmdline| hashes(8192, initrd, cmdline));
    let fed = Profile::Hashes { kernel: kernel(uki_of(9000)), initrd: None, cmdline: "quiet".to_owned() };
    for (image, profile, vcpus, model, expected) in [
        // --vcpus 1 --vcpu-type EPYC-Milan --kernel bzimage
        (
            &image,
            files(false, ""),
            1,
            milan,
            "f7d78d662c1519fcadc059867a4f62193df236012ea563959e9aa3f3220eb24765caaf291cb40016d61c523893b42286",
        ),
        // --vcpus 3 --vcpu-type EPYC-Milan --kernel bzimage --initrd initrd --append "quiet splash"
        (
            &image,
            files(true, "quiet splash"),
            3,
            milan,
            "0a239526f9393649faa963805208308eb0e71021cd84e5826dd2bbe64b6d768dde0dc01feace38f626835130924adcce",
        ),
        // --vcpus 2 --vcpu-type EPYC-Milan --kernel uki.efi --append quiet
        (
            &image,
            fed,
            2,
            milan,
            "aa421cf7716606a9ff4ef05e35b227af6f78b5f012b63f707fb46108e8768b6798bbd9eee6fcf6e6222b8795a732d994",
        ),
        // --vcpus 2 --vcpu-family 25 --vcpu-model 17 --vcpu-stepping 1 --guest-features 0x21
        (
            &image,
            Profile::Disk,
            2,
            model("0xa10f11", 0x21),
            "834e84afc770d9985ae21fb1685f450701c558a8840b742a3217febaba1906cac2953cc894d93bc3199c6339e1c08cd1",
        ),
        // --vcpus 255 --vcpu-type EPYC-Rome --ovmf zero.fd --kernel bzimage --initrd initrd
        (
            &zero_length(),
            files(true, ""),
            255,
            model("EPYC-Rome", 1),
            "ec4cd599bd63c4e2a8b04a85f3cdbed56f90ae78aba5e2c914045db444c8493ec8da440979f85a9e55d6bff612c3510f",
        ),
    ] {
        assert_eq!(digest_of(image, &profile, vcpus, model).to_string(), expected);
    }
}

#[derive(Default)]
struct Memory(BTreeMap<u64, Vec<u8>>);

impl PageSink for Memory {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        let page = gpa - gpa % PAGE_SIZE;
        for (index, byte) in bytes.iter().enumerate() {
            let at = gpa - page + index as u64;
            let content = self.0.entry(page + at - at % PAGE_SIZE).or_insert_with(|| vec![0; 4096]);
            content[(at % PAGE_SIZE) as usize] = *byte;
        }
        Ok(())
    }
}

/// What the PSP makes of the plan when its pages are launched from where [`place`] has put them.
fn psp_digest(plan: &LaunchPlan, model: VcpuModel) -> [u8; 48] {
    let mut memory = Memory::default();
    place(plan, &mut memory).unwrap();
    let mut psp = LaunchDigest::default();
    for import in plan.imports() {
        let kind = PspPage::from_bits(import.kind as u32).unwrap();
        for gpa in (import.gpa..import.gpa + import.len).step_by(4096) {
            let content = memory.0.get(&gpa).map_or(&[0; 4096][..], Vec::as_slice);
            psp.extend(kind, content, gpa, false, [0; 3]);
        }
    }
    for start in plan.vcpus() {
        psp.extend(PspPage::Vmsa, start::initial(start, model).as_bytes(), VMSA_GPA, false, [0; 3]);
    }
    psp.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is placed is what is measured, whatever the sections, the profile and the number of vCPUs are.
    fn the_psp_measures_what_is_placed(
        sections in prop::collection::vec((0x840u32..0x2000, 0u32..4), 0..5),
        which in 0..4,
        len in 4096usize..300_000,
        vcpus in 1u32..5,
    ) {
        let mut records = SECTIONS.to_vec();
        records.extend(sections.into_iter().map(|(page, pages)| (page * 4096, pages * 4096, 1)));
        let image = Image { sections: Some(records), ..Image::amdsev() };
        let Ok(firmware) = Firmware::parse(image.blob()) else { return Ok(()) };
        let profile = match which {
            0 => Profile::Disk,
            1 => hashes(8192, true, "quiet"),
            2 => profile(Some((true, APPEND))),
            _ => uki_profile(uki_of(len)),
        };
        let Ok(plan) = LaunchPlan::build(&firmware, &profile, &MEMORY, vcpus) else { return Ok(()) };
        let model = model("EPYC-Genoa", 0x201);
        let digest = measure(&plan, model, None, &mut ()).unwrap();
        prop_assert_eq!(digest.0, psp_digest(&plan, model));
        let (again, known) = build(&firmware, &profile, &MEMORY, vcpus).unwrap();
        prop_assert_eq!(known.is_some(), which == 1);
        prop_assert_eq!(measure(&again, model, known.as_ref(), &mut ()).unwrap(), digest);
    }
}

fn one_bit_of_anything_changes_the_digest() {
    let milan = model("EPYC-Milan", 1);
    let flipped = |mut bytes: Vec<u8>, at: usize, bit: u8| {
        bytes[at] ^= 1 << bit;
        bytes
    };
    let mut seen = BTreeSet::new();
    let mut differs = |what: &str, digest: Digest| assert!(seen.insert(digest.0), "{what}");
    let firmware_with = |bytes: Vec<u8>| {
        let firmware = Firmware::parse(Blob::from_bytes("fw.fd", bytes)).unwrap();
        let plan = LaunchPlan::build(&firmware, &hashes(8192, false, "quiet"), &MEMORY, 1).unwrap();
        measure(&plan, milan, None, &mut ()).unwrap()
    };
    let image = Image::amdsev();
    differs("as it is", firmware_with(image.bytes()));
    differs("first bit of the firmware", firmware_with(flipped(image.bytes(), 0, 0)));
    differs("last bit of the firmware", firmware_with(flipped(image.bytes(), 8191, 7)));
    differs("a bit of a page of padding", firmware_with(flipped(image.bytes(), 5000, 3)));
    differs("a section's bound", {
        let mut sections = SECTIONS.to_vec();
        sections[0].1 -= 0x1000;
        firmware_with(Image { sections: Some(sections), ..image.clone() }.bytes())
    });
    let with = |profile: &Profile, vcpus, model| digest_of(&image, profile, vcpus, model);
    differs("cmdline", with(&hashes(8192, false, "quiep"), 1, milan));
    differs("initrd", with(&hashes(8192, true, "quiet"), 1, milan));
    differs("kernel", with(&hashes(8208, false, "quiet"), 1, milan));
    differs("vcpus", with(&hashes(8192, false, "quiet"), 2, milan));
    differs("signature", with(&hashes(8192, false, "quiet"), 1, model("EPYC-Genoa", 1)));
    differs("features", with(&hashes(8192, false, "quiet"), 1, model("EPYC-Milan", 0x21)));
    differs("no kernel", with(&Profile::Disk, 1, milan));

    let image_bytes = uki_of(300_001);
    differs("uki", with(&uki_profile(image_bytes.clone()), 1, milan));
    for at in [2, 4096, 200_000, 300_000] {
        differs("a bit of the uki", with(&uki_profile(flipped(image_bytes.clone(), at, 5)), 1, milan));
    }
    differs(
        "a uki that is longer by a zero",
        with(&uki_profile([image_bytes.clone(), vec![0]].concat()), 1, milan),
    );
    let firmware = Firmware::parse(image.blob()).unwrap();
    for (what, low, vcpus) in [("low memory", 255, 1), ("vcpus in the parameters", 256, 2)] {
        let memory = MemoryLayout { low: low << 20, high: 0 };
        let plan = LaunchPlan::build(&firmware, &uki_profile(image_bytes.clone()), &memory, vcpus).unwrap();
        differs(what, measure(&plan, milan, None, &mut ()).unwrap());
    }
}

fn an_observer_sees_every_step_in_order() {
    #[derive(Default)]
    struct Seen(Vec<String>, Option<Digest>);
    impl Observer for Seen {
        fn page(&mut self, gpa: u64, _: Digest) {
            self.0.push(format!("{gpa:#x}"));
        }
        fn import(&mut self, import: &PageImport, running: Digest, contents: Option<Digest>) {
            assert_eq!(contents.is_some(), import.kind == PageKind::Normal);
            self.0.push(import.tag.to_owned());
            self.1 = Some(running);
        }
        fn vmsa(&mut self, index: usize, vmsa: &Vmsa, running: Digest) {
            self.0.push(format!("vmsa {index} at {:#x}", vmsa.rip.get()));
            assert_ne!(self.1.replace(running), Some(running));
        }
    }
    let firmware = Firmware::parse(Image::amdsev().blob()).unwrap();
    let plan = LaunchPlan::build(&firmware, &hashes(8192, false, ""), &MEMORY, 3).unwrap();
    let mut seen = Seen::default();
    let digest = measure(&plan, model("EPYC", 1), None, &mut seen).unwrap();
    assert_eq!(seen.1, Some(digest));
    let expected = [
        "0xffffe000",
        "0xfffff000",
        "firmware",
        "sec memory",
        "sec memory",
        "secrets",
        "cpuid",
        "svsm calling area",
        "sec memory",
        "0x810000",
        "kernel hashes",
        "vmsa 0 at 0xfff0",
        "vmsa 1 at 0xb004",
        "vmsa 2 at 0xb004",
    ];
    assert_eq!(seen.0, expected);
}

fn a_digest_of_another_image_is_not_used() {
    let known = FirmwareDigest::known(&Firmware::parse(Image::amdsev().blob()).unwrap(), Digest([7; 48]));
    let firmware = Firmware::parse(Image::amdsev().blob()).unwrap();
    let plan = LaunchPlan::build(&firmware, &Profile::Disk, &MEMORY, 1).unwrap();
    let milan = model("EPYC-Milan", 1);
    assert_eq!(
        measure(&plan, milan, Some(&known), &mut ()).unwrap(),
        measure(&plan, milan, None, &mut ()).unwrap()
    );
}

fn an_image_that_shrinks_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), uki_of(300_000)).unwrap();
    let image = Kernel::recognise(Blob::open(file.path()).unwrap()).unwrap();
    let firmware = Firmware::parse(Image::amdsev().blob()).unwrap();
    let profile = Profile::Uki { image, gpa: DEFAULT_GPA };
    let plan = LaunchPlan::build(&firmware, &profile, &MEMORY, 1).unwrap();
    file.as_file().set_len(200_000).unwrap();
    let error = measure(&plan, model("EPYC", 1), None, &mut ()).unwrap_err();
    assert!(matches!(&error, MeasureError::Read { tag: "uki", .. }), "{error}");
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}

suite!(
    digests_are_the_oracles_from_the_hash_of_the_firmware,
    digests_are_the_oracles_from_the_real_amdsev_image,
    digests_are_the_oracles_from_the_real_stock_image,
    digests_are_the_oracles_from_the_real_secure_boot_image,
    files_are_hashed_as_the_oracle_hashes_them,
    the_psp_measures_what_is_placed,
    one_bit_of_anything_changes_the_digest,
    an_observer_sees_every_step_in_order,
    a_digest_of_another_image_is_not_used,
    an_image_that_shrinks_is_named,
);

// SPDX-License-Identifier: Apache-2.0
//! A firmware image of unknown origin: table, SEV and IGVM metadata, and the launch plan made from them. A
//! plan that is accepted has no overlaps, stays in memory, covers every section once and can be placed.
#![no_main]

use std::io;
use std::sync::OnceLock;

use cvmm_fuzz::{Input, images};
use cvmm_launch::blob::Blob;
use cvmm_launch::digest::{FirmwareDigest, measure};
use cvmm_launch::firmware::Firmware;
use cvmm_launch::kernel::Kernel;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, PageSink, Profile, Source, place};
use cvmm_launch::uki::DEFAULT_GPA;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use libfuzzer_sys::fuzz_target;

fn kernels() -> &'static (Kernel, Kernel) {
    static KERNELS: OnceLock<(Kernel, Kernel)> = OnceLock::new();
    KERNELS.get_or_init(|| (images::uki(), images::bzimage()))
}

/// Counts, and checks that writes stay inside of the plan's imports.
struct Sink<'a> {
    plan: &'a LaunchPlan,
    bytes: u64,
}

impl PageSink for Sink<'_> {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        let inside = |import: &cvmm_launch::plan::PageImport| {
            gpa >= import.gpa && gpa + len <= import.gpa + import.len
        };
        assert!(self.plan.imports().iter().any(inside), "{len} bytes at {gpa:#x} are in no import");
        self.bytes += len;
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let (which, vcpus) = (input.u8(), u32::from(input.u8()));
    let low = u64::from(input.u16()) * 16 * PAGE_SIZE;
    let high = u64::from(input.u8()) << 30;
    // The input is the image's end, where everything is.
    let rest = input.rest();
    let size = rest.len().max(1).next_multiple_of(PAGE_SIZE as usize);
    let mut image = vec![0xff; size];
    image[size - rest.len()..].copy_from_slice(rest);
    let firmware = match Firmware::parse(Blob::from_bytes("fuzz.fd", image)) {
        Ok(firmware) => firmware,
        Err(error) => {
            assert!(error.to_string().contains("fuzz.fd"));
            return;
        }
    };

    let (uki, bzimage) = kernels();
    let profile = match which % 4 {
        0 => Profile::Disk,
        1 => Profile::Hashes { kernel: bzimage.clone(), initrd: None, cmdline: "quiet".into() },
        2 => {
            let initrd = Some(Blob::from_bytes("initrd", vec![7; 100]));
            Profile::Hashes { kernel: uki.clone(), initrd, cmdline: String::new() }
        }
        _ => Profile::Uki { image: uki.clone(), gpa: DEFAULT_GPA },
    };
    let memory = MemoryLayout { low, high };
    let plan = match LaunchPlan::build(&firmware, &profile, &memory, vcpus) {
        Ok(plan) => plan,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };

    assert!(memory.check().is_ok() && vcpus > 0 && plan.vcpus().len() == vcpus as usize);
    let mut imports: Vec<_> = plan.imports().iter().collect();
    imports.sort_by_key(|import| import.gpa);
    let mut end = 0;
    let mut content = 0;
    for import in &imports {
        assert!(import.gpa >= end, "{} at {:#x} overlaps", import.tag, import.gpa);
        assert!(import.gpa % PAGE_SIZE == 0 && import.len % PAGE_SIZE == 0 && import.len > 0);
        end = import.gpa + import.len;
        assert!(memory.contains(import.gpa, import.len) || import.gpa >= firmware.gpa(), "{:#x}", import.gpa);
        if let Source::Blob { .. } = import.source {
            content += import.len;
        }
    }
    let covered = |gpa: u64, len: u64| -> u64 {
        let overlap = |import: &&cvmm_launch::plan::PageImport| {
            let end = (import.gpa + import.len).min(gpa + len);
            end.saturating_sub(import.gpa.max(gpa))
        };
        imports.iter().map(overlap).sum()
    };
    for section in firmware.sections().unwrap_or_default() {
        assert_eq!(covered(section.gpa, section.len), section.len, "section at {:#x}", section.gpa);
    }
    assert!(plan.explain().all(|row| !row.to_string().is_empty()));
    let mut sink = Sink { plan: &plan, bytes: 0 };
    let written = place(&plan, &mut sink).expect("blobs in memory can be read");
    assert_eq!((written, sink.bytes), (content, content));
    // Whatever a firmware says: the digest is there, and the same when the image was hashed beforehand.
    let model = VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures::default() };
    let again = LaunchPlan::build(&firmware, &profile, &memory, vcpus).expect("it was built before");
    assert!(plan.explain().map(|r| r.to_string()).eq(again.explain().map(|r| r.to_string())));
    if plan.check_snp().is_err() {
        // Not an SNP guest's firmware: it has no launch digest.
        measure(&plan, model, None, &mut ()).expect_err("a guest that cannot start was measured");
        return;
    }
    let digest = measure(&plan, model, None, &mut ()).expect("blobs in memory can be read");
    let known = FirmwareDigest::compute(&firmware).expect("blobs in memory can be read");
    assert_eq!(measure(&plan, model, Some(&known), &mut ()).expect("as before"), digest);
});

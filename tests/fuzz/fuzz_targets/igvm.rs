// SPDX-License-Identifier: Apache-2.0
//! IGVM files of unknown origin, made from a small valid one: headers are added, bytes are changed, the
//! checksum is right. A plan that is accepted has no overlaps, stays in memory, can be placed and measured,
//! and comes back from the file it is exported to.
#![no_main]

use std::io;

use cvmm_fuzz::Input;
use cvmm_igvm::samples::{self, DATA, File};
use cvmm_igvm::{Export, Machine, load};
use cvmm_launch::blob::Blob;
use cvmm_launch::digest::measure;
use cvmm_launch::memory::{HIGH_BASE, MemoryLayout};
use cvmm_launch::plan::{PageSink, place};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::policy::GuestPolicy;
use libfuzzer_sys::fuzz_target;

const MEMORY: MemoryLayout = MemoryLayout { low: 64 << 20, high: 64 << 20 };
const POLICY: GuestPolicy = GuestPolicy(0x3_0000);

struct Sink(u64);

impl PageSink for Sink {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        assert!(MEMORY.contains(gpa, len) || gpa >= HIGH_BASE - self.0 && gpa + len <= HIGH_BASE);
        Ok(())
    }
}

/// The body of a header, near what is valid.
fn body(input: &mut Input<'_>, kind: u32) -> Vec<u8> {
    let gpa = u64::from(input.u16()) << 12;
    let offset = DATA as u32 + (u32::from(input.u8() % 3) << 12);
    let small = u32::from(input.u8());
    match kind {
        0x302 => samples::page(
            gpa,
            if small & 1 == 0 { 0 } else { offset },
            small >> 1 & 3,
            (small >> 3 & 3) as u16,
        ),
        0x304 => samples::context(0xffff_ffff_f000, offset, (small & 3) as u16),
        0x301 => [&(u64::from(small & 7) << 12).to_le_bytes()[..], &(small >> 3 & 3).to_le_bytes(), &[0; 4]]
            .concat(),
        0x303 => [&gpa.to_le_bytes()[..], &1_u32.to_le_bytes(), &(small & 3).to_le_bytes()].concat(),
        0x305 => samples::page(gpa, small << 12, 0, 0),
        _ => [(small & 3).to_le_bytes(), u32::from(input.u16()).to_le_bytes()].concat(),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let vcpus = u32::from(input.u8() % 4) + 1;
    let mut file = File::guest();
    for _ in 0..input.u8() % 32 {
        let kind = 0x301 + u32::from(input.u8() % 0x14);
        let at = usize::from(input.u8()) % (file.headers.len() + 1);
        let body = body(&mut input, kind);
        file.headers.insert(at, (kind, body));
    }
    let mut bytes = file.bytes();
    while input.more() {
        let (at, value) = (usize::from(input.u16()), input.u8());
        if let Some(byte) = bytes.get_mut(at % DATA) {
            *byte = value;
        }
    }
    samples::seal(&mut bytes);
    let features = SevFeatures::SNP_ACTIVE;
    let machine =
        Machine { memory: &MEMORY, vcpus, policy: POLICY, features, cmdline: "", madt: Some(&[7; 64]) };
    let guest = match load(&Blob::from_bytes("fuzz.igvm", bytes), &machine) {
        Ok(guest) => guest,
        Err(error) => {
            assert!(
                error.to_string().starts_with("IGVM file fuzz.igvm: ") && !error.problem.code().is_empty()
            );
            return;
        }
    };
    let plan = &guest.plan;
    assert_eq!(plan.vcpus().len(), vcpus as usize);
    let mut imports: Vec<_> = plan.imports().iter().collect();
    imports.sort_by_key(|import| import.gpa);
    for pair in imports.windows(2) {
        assert!(pair[0].gpa + pair[0].len <= pair[1].gpa, "{:#x} overlaps", pair[1].gpa);
    }
    place(plan, &mut Sink(plan.window())).expect("blobs in memory can be read");
    let model = VcpuModel { signature: CpuSignature(0xa0_0f11), features };
    let digest = measure(plan, model, None, &mut ()).expect("blobs in memory can be read");
    let mut again = Vec::new();
    let export = Export { plan, memory: &MEMORY, policy: POLICY, model, identity: guest.identity.as_ref() };
    export.write(&mut again).expect("a small plan");
    let loaded = load(&Blob::from_bytes("again.igvm", again), &machine).expect("a file of ours");
    assert_eq!(measure(&loaded.plan, model, None, &mut ()).expect("as before"), digest);
    assert_eq!(loaded.identity, guest.identity);
});

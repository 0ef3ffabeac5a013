// SPDX-License-Identifier: Apache-2.0
//! What a guest may ask of its pages: any hypercall arguments and fault addresses, one after the other.
//! Whatever is accepted lies in the address space, changes memory only, and is nothing to do the second time.
#![no_main]

use cvmm_kvm_snp::convert::{PageState, Request};
use cvmm_kvm_snp::states::PageStates;
use libfuzzer_sys::fuzz_target;

/// Low RAM, the firmware, high RAM.
const RUNS: [(u64, u64); 3] = [(0, 64 << 20), (0xffc0_0000, 4 << 20), (1 << 32, 64 << 20)];

fuzz_target!(|data: &[u8]| {
    let states = PageStates::new(&RUNS).expect("sane runs");
    // Long inputs say nothing that short ones do not.
    for bytes in data.chunks_exact(25).take(64) {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (kind, args) = (bytes[24], [word(0), word(8), word(16), 0, 0, 0]);
        // Half of them with an address and length that can be right.
        let args = if kind & 1 == 0 {
            args
        } else {
            [args[0] % (1 << 21) << 12, args[1] % 70_000, args[2] & 0x1f, 0, 0, 0]
        };
        let request = match kind & 2 {
            0 => Request::from_hypercall(&args),
            _ => Request::from_fault(args[0], args[1], args[2] & 1 != 0),
        };
        let Ok(request) = request else { continue };
        assert!(request.len > 0 && request.end() <= 1 << 52);
        let only_memory = kind & 2 != 0;
        let Ok(plan) = states.plan(request, only_memory) else { continue };
        for change in &plan {
            let (base, len) = RUNS[change.run];
            assert!(change.gpa == base + change.offset && change.offset + change.len <= len);
            assert!(change.gpa >= request.gpa && change.gpa + change.len <= request.end());
            assert!(states.mark(*change, request.to) <= change.len / 4096);
            assert!(states.is(change.gpa, change.len, request.to));
        }
        assert_eq!(states.plan(request, only_memory), Ok(vec![]));
    }
    assert!(
        !states.is(0x8000_0000, 4096, PageState::Shared) && !states.is(0x8000_0000, 4096, PageState::Private)
    );
});

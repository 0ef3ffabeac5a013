// SPDX-License-Identifier: Apache-2.0
//! The kernel recogniser: bzImage and unified kernel image headers that may point anywhere.
#![no_main]

use cvmm_launch::blob::Blob;
use cvmm_launch::hashes::KernelHashes;
use cvmm_launch::kernel::{Format, Kernel};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let blob = Blob::from_bytes("fuzz.efi", data.to_vec());
    match Kernel::recognise(blob) {
        Ok(kernel) => {
            assert!(data.starts_with(b"MZ"), "an EFI program starts with MZ");
            match kernel.format() {
                Format::Uki => assert!(data.windows(8).any(|name| name == b".linux\0\0")),
                Format::BzImage { protocol, .. } => assert!(protocol >= 0x20c),
            }
            assert_eq!(kernel.require_uki().is_ok(), kernel.format() == Format::Uki);
            KernelHashes::compute(kernel.blob(), None, "quiet").expect("bytes in memory can be hashed");
        }
        Err(error) => assert!(error.to_string().starts_with("kernel fuzz.efi: ")),
    }
});

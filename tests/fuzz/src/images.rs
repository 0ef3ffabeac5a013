// SPDX-License-Identifier: Apache-2.0
//! Kernel files that pass the recogniser, for plans whose fuzzed part is the firmware.

use cvmm_launch::blob::Blob;
use cvmm_launch::kernel::Kernel;
use cvmm_launch::samples;

fn recognised(name: &str, file: Vec<u8>) -> Kernel {
    match Kernel::recognise(Blob::from_bytes(name, file)) {
        Ok(kernel) => kernel,
        Err(error) => panic!("the harness's own {name} is refused: {error}"),
    }
}

/// A unified kernel image of 6000 bytes.
pub fn uki() -> Kernel {
    recognised("uki", samples::uki_of(6000))
}

/// A bzImage of 8 KiB.
pub fn bzimage() -> Kernel {
    recognised("bzimage", samples::bzimage(8192))
}

// SPDX-License-Identifier: Apache-2.0
//! Writes the files whose digests `tests/digest.rs` has from `sev-snp-measure`, to compute them again:
//! `cargo run -p cvmm-launch --example oracle-inputs FOLDER`
#![allow(clippy::expect_used, reason = "an example")]

use std::path::PathBuf;

use cvmm_launch::samples::firmware::{Image, SECTIONS};
use cvmm_launch::samples::{bzimage, uki_of};

fn main() -> std::io::Result<()> {
    let out = PathBuf::from(std::env::args_os().nth(1).expect("the folder to write to"));
    let mut sections = SECTIONS.to_vec();
    sections.insert(2, (0x80_d000, 0, 1));
    for (name, bytes) in [
        ("fw.fd", Image::amdsev().bytes()),
        ("zero.fd", Image { sections: Some(sections), ..Image::amdsev() }.bytes()),
        ("bzimage", bzimage(8192)),
        ("uki.efi", uki_of(9000)),
        ("initrd", b"initrd".to_vec()),
    ] {
        std::fs::write(out.join(name), bytes)?;
    }
    Ok(())
}

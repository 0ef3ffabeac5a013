// SPDX-License-Identifier: Apache-2.0
//! Launch digests against `sev-snp-measure`: the values of `golden/digests.txt` (see `golden/make.py`) and
//! the table of the project's launch reference, made with the same tool and a Debian kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod common;

use std::path::PathBuf;

use common::qemu::{Boot, Launch, sha256, synthetic};
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;

const GOLDEN: &str = include_str!("golden/digests.txt");

/// A real firmware of the golden values: what an environment variable names; under CI without it, what
/// `scripts/fetch` finds. Missing without either, or when the archive has another build by now. A file that
/// should be there and is not fails the test.
fn real_firmware(name: &str) -> Result<Vec<u8>, Missing> {
    let (variable, package, file) = match name {
        "amdsev" => ("CVMM_TEST_FIRMWARE", "ovmf-amdsev", "OVMF.amdsev.fd"),
        "stock" => ("CVMM_TEST_STOCK_FIRMWARE", "ovmf", "OVMF.fd"),
        _ => ("CVMM_TEST_STOCK_FIRMWARE", "ovmf", "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
    };
    let folder = match std::env::var_os(variable) {
        Some(place) => PathBuf::from(place),
        None if std::env::var_os("CI").is_some() => fetched(package),
        None => {
            let advice =
                format!("needs real firmware: set {variable} to what `scripts/fetch {package}` prints");
            return Err(Missing::new(advice));
        }
    };
    // The image itself, or the folder it is in.
    let file = if folder.is_file() { folder } else { folder.join(file) };
    let image = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    if hex(&sha256(&image)) == golden_sum(name) {
        return Ok(image);
    }
    Err(Missing::new(format!("needs the build of the golden values, but {} is another one", file.display())))
}

fn fetched(package: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch");
    let out = std::process::Command::new(script).arg(package).output().unwrap();
    assert!(out.status.success(), "scripts/fetch: {}", String::from_utf8_lossy(&out.stderr));
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

/// SHA-256 of the image that the golden values are of.
fn golden_sum(name: &str) -> &'static str {
    GOLDEN.lines().find_map(|line| line.strip_prefix(&format!("sha256 {name} "))).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap()
}

fn boot(kind: &str) -> Option<Boot> {
    let kernel = b"cvmm test kernel\n".repeat(1000);
    let initrd = b"cvmm test initrd\n".repeat(500);
    let (initrd, append) = match kind {
        "kernel" => (&[][..], ""),
        "append" => (&[][..], "console=ttyS0 root=/dev/vda1 ro"),
        "all" => (&initrd[..], "console=ttyS0 root=/dev/vda1 ro"),
        _ => return None,
    };
    Some(Boot {
        kernel: sha256(&kernel),
        initrd: sha256(initrd),
        append: sha256(&[append.as_bytes(), &[0]].concat()),
    })
}

/// Checks the digests of an image, which has so many.
fn check(name: &str, firmware: &[u8], cases: usize) {
    let mut checked = 0;
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields.as_slice() {
            ["sha256", ..] => {}
            [image, ..] if *image != name => {}
            [_, vcpus, signature, features, kind, expected] => {
                let launch = Launch {
                    firmware,
                    vcpus: vcpus.parse().unwrap(),
                    signature: number(signature) as u32,
                    features: number(features),
                    boot: boot(kind),
                };
                assert_eq!(launch.digest(), *expected, "{line}");
                checked += 1;
            }
            _ => panic!("golden line: {line}"),
        }
    }
    assert_eq!(checked, cases, "{name}");
}

fn digests_of_a_synthetic_image_are_those_of_sev_snp_measure() {
    let image = synthetic();
    assert_eq!(hex(&sha256(&image)), golden_sum("synthetic"), "not the image of make.py");
    check("synthetic", &image, 16);
}

fn digests_of_the_amdsev_image_are_those_of_sev_snp_measure() -> suite::Result {
    check("amdsev", &real_firmware("amdsev")?, 16);
    Ok(())
}

// Firmware without an area for hashes has no cases with a kernel.

fn digests_of_the_stock_image_are_those_of_sev_snp_measure() -> suite::Result {
    check("stock", &real_firmware("stock")?, 12);
    Ok(())
}

fn digests_of_the_secure_boot_image_are_those_of_sev_snp_measure() -> suite::Result {
    check("secboot", &real_firmware("secboot")?, 12);
    Ok(())
}

/// Cases with the kernel `vmlinuz-6.12.95+deb12-cloud-amd64`, of which only the hash is needed.
fn digests_of_the_reference_table_with_a_debian_kernel() -> suite::Result {
    let firmware = real_firmware("amdsev")?;
    let mut kernel = [0; 32];
    let sum = "1e1b20f533828d752b7e822dbf8d86898677f00727f39b36896e3d13881c4a05";
    for (at, byte) in kernel.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).unwrap();
    }
    let initrd = b"cvmm-oracle-initrd-v1\n";
    let append = "console=ttyS0 root=/dev/vda1 ro";
    for (vcpus, signature, initrd, append, expected) in [
        (
            1,
            0x0080_0f12,
            &[][..],
            "",
            "f9ba53920ff813bdb36c6b1cf1596dc10b2e138c245f99531a2367bc91950bd9e37e43f9c9d9f6e21bfbbb365983c87e",
        ),
        (
            1,
            0x0080_0f12,
            &[],
            append,
            "325f905308cd2e95d4743154906380683a38e678591176baa639b26a44cecfce11d4f99dd845f2af4cb149e4f9972ba6",
        ),
        (
            1,
            0x0080_0f12,
            initrd,
            append,
            "b59332ad400df9f4c7a221ff82c402287e9696da521ef993668802da9dbcef9124120b3920cddeea8cf76e809ba39689",
        ),
        (
            4,
            0x00a0_0f11,
            initrd,
            append,
            "e8df9aa3919a0d2d17dba098ab79c08c4db66c099654bf2b7d4e4ef3059f7176933c2bbe8d1c7615befc1e02573b9a91",
        ),
        (
            4,
            0x00a0_0f11,
            initrd,
            "",
            "9e99e025c876778b5ff6a3b346c4ece58d89d318a28ffe1ad29b163fb2f54d84e6f109fd91684dc14c0a2f3b870c7e63",
        ),
    ] {
        let boot =
            Boot { kernel, initrd: sha256(initrd), append: sha256(&[append.as_bytes(), &[0]].concat()) };
        let launch = Launch { firmware: &firmware, vcpus, signature, features: 1, boot: Some(boot) };
        assert_eq!(launch.digest(), expected);
    }
    Ok(())
}

suite!(
    digests_of_a_synthetic_image_are_those_of_sev_snp_measure,
    digests_of_the_amdsev_image_are_those_of_sev_snp_measure,
    digests_of_the_stock_image_are_those_of_sev_snp_measure,
    digests_of_the_secure_boot_image_are_those_of_sev_snp_measure,
    digests_of_the_reference_table_with_a_debian_kernel,
);

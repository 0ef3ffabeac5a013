// SPDX-License-Identifier: Apache-2.0
//! Launch digests do not change: those that `cvmm measure` of commit 4a6bebc printed for the same inputs. A
//! digest that changes locks every deployed policy out, so it may change only on purpose, with a note in the
//! changelog. Guests with a first stage are left out: their digests cover its bytes. `low_memory` is given
//! where it is measured, because its default has changed since.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use cvmm_launch::samples::firmware::Image;
use cvmm_launch::samples::{bzimage, uki_of};

/// A guest: the top of its `vm.toml`, its `[boot]`, its processor, and the digest.
const DIGESTS: [(&str, &str, &str, &str); 7] = [
    (
        "vcpus = 2\nmemory = \"512MiB\"",
        "profile = \"disk\"\n[[disk]]\npath = \"disk\"",
        "EPYC-Milan",
        "5a13ec9b6f3515bcc97ca19ebc96377cac18bc342f4c64d002a65bab8cdef0794f29da04ed0616653343176d580dc6de",
    ),
    (
        "vcpus = 1\nmemory = \"256MiB\"",
        "profile = \"uki\"\nuki = \"guest.efi\"",
        "EPYC-Milan",
        "2ca9ba2d46a9b892264488778c9021bf9a2dfebd9db88743c76147a3fb37dddc308d6dc9eb6d44cbb3e0c1b5af609f62",
    ),
    (
        "vcpus = 64\nmemory = \"6GiB\"\nlow_memory = \"1GiB\"",
        "profile = \"uki\"\nuki = \"guest.efi\"",
        "EPYC-Genoa",
        "f5bb35655539755c753d1faef3e7c3de1945c8c6981295ef2743d742547bbbbbb36616a546321a579a26a6d41a3508e6",
    ),
    (
        "vcpus = 8\nmemory = \"4GiB\"\nlow_memory = \"704MiB\"",
        "profile = \"uki\"\nuki = \"guest.efi\"",
        "EPYC-v4",
        "d30f3a3b1afcdc63abd977c5a108081fba2f38ec1b465762931bceb59004ac897e81abc2e0b38b460542dfcfafba842d",
    ),
    (
        "vcpus = 3\nmemory = \"1GiB\"",
        "profile = \"hashes\"\nkernel = \"bzimage\"\ncmdline = \"console=ttyS0 quiet\"",
        "EPYC-Turin",
        "3fc09a86ac6e90f410842908d6d6ea68688e5b1ec6bc21376223270bd2c7370e3fa420ccfdf6a090ce5472ca52999952",
    ),
    (
        "vcpus = 1\nmemory = \"96MiB\"",
        "profile = \"hashes\"\nkernel = \"bzimage\"\ninitrd = \"initrd\"\ncmdline = \"\"",
        "EPYC-Rome",
        "0ee4fd280b0c0e3ee6828007be202255cea9ff170243d1390ca73f09fae984422b1612e3560d169acba05c29c7cd01a9",
    ),
    (
        "vcpus = 4\nmemory = \"2GiB\"",
        "profile = \"hashes\"\nkernel = \"guest.efi\"\ninitrd = \"initrd\"\ncmdline = \"root=/dev/vda1 ro\"",
        "EPYC-Milan",
        "be8ce7d9c38ec426f2ef11538344943a6894ade724b3f7edb029b5a722dadd9080f7d298804958ca3f587b3ef2c11e61",
    ),
];

fn write_inputs(folder: &Path) {
    for (name, bytes) in [
        ("fw.fd", Image::amdsev().bytes()),
        ("bzimage", bzimage(8192)),
        ("guest.efi", uki_of(50_000)),
        ("initrd", b"initrd".to_vec()),
        ("disk", vec![0; 4096]),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Another build of cvmm to ask, to see what it prints.
const PROGRAM: &str = "CVMM_TEST_MEASURE";

#[test]
fn launch_digests_are_those_of_4a6bebc() {
    let folder = tempfile::tempdir().unwrap();
    write_inputs(folder.path());
    let program = std::env::var_os(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_cvmm").into());
    let mut changed = Vec::new();
    for (index, (top, boot, processor, digest)) in DIGESTS.iter().enumerate() {
        let config =
            format!("name = \"x\"\nisolation = \"snp\"\nfirmware = \"fw.fd\"\n{top}\n[boot]\n{boot}\n");
        fs::write(folder.path().join("vm.toml"), config).unwrap();
        let mut measure = Command::new(&program);
        measure.current_dir(folder.path()).env_remove("CVMM_LOG");
        let output =
            measure.args(["measure", "--config", "vm.toml", "--vcpu-type", processor]).output().unwrap();
        let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if found != *digest {
            changed.push(format!("{index}: {found}{}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

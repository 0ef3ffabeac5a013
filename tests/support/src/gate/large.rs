// SPDX-License-Identifier: Apache-2.0
//! A large unified kernel image and a firmware that boots it, as artifacts of a gate: launch digests that are
//! slow to compute.

use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom, Write};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA384};
use cvmm_gate::store::artifacts;
use cvmm_gate_client::client::Proposal;
use cvmm_gate_protocol::manifest::{Boot, FileDigest, Launch, Manifest};
use cvmm_launch::firmware::{igvm, sev};
use cvmm_launch::guid::Guid;
use cvmm_launch::samples;
use zerocopy::IntoBytes as _;

use super::TestGate;

/// Bytes of the image in tests.
pub const UKI_LEN: u64 = 96 << 20;

/// Where the kernel's section begins.
const KERNEL: u32 = 0x2000;
/// Where the image goes.
const GPA: u64 = 0x200_0000;

/// The two files.
pub struct LargeImage {
    firmware: FileDigest,
    uki: FileDigest,
}

fn words(signature: &[u8; 4], records: &[[u32; 3]]) -> Vec<u8> {
    let head = [16 + 12 * records.len() as u32, 1, records.len() as u32];
    let words = head.iter().chain(records.iter().flatten()).flat_map(|word| word.to_le_bytes());
    signature.iter().copied().chain(words).collect()
}

/// Two pages with the metadata that a confidential guest and an image in memory need: SEV sections (memory,
/// secrets, CPUID), and where IGVM's parameters and HOBs go.
fn firmware() -> Vec<u8> {
    let mut image = vec![0xff; 0x2000];
    let sev = words(b"ASEV", &[[0x80_d000, 0x1000, 2], [0x80_e000, 0x1000, 3], [0x81_1000, 0x1_f000, 1]]);
    let igvm = words(
        b"IGVM",
        &[[0x81_2000, 0x1000, 0x100], [0, 0xc0, 0x101], [0xc0, 0x10, 0x102], [0x81_3000, 0x1000, 0x200]],
    );
    image[256..256 + sev.len()].copy_from_slice(&sev);
    image[1024..1024 + igvm.len()].copy_from_slice(&igvm);
    // From the end: footer with the length of the table, then entries of an offset from the end, 22 and a
    // GUID.
    let mut table = Vec::new();
    for (at, guid) in [(256, sev::GUID), (1024, igvm::GUID)] {
        table.extend((0x2000_u32 - at).to_le_bytes());
        table.extend(22_u16.to_le_bytes());
        table.extend(guid.as_bytes());
    }
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(Guid::from_u128(0x96b582de_1fb2_45f7_baea_a366c55a082d).as_bytes());
    let end = image.len() - 0x20;
    image[end - table.len()..end].copy_from_slice(&table);
    image
}

/// The headers of a PE32+ file with three sections that follow each other, `.initrd` up to `len`.
fn headers(len: u32) -> Vec<u8> {
    let mut head = vec![0; 0x1000];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x84, &0x8664_u16.to_le_bytes());
    put(0x86, &3_u16.to_le_bytes());
    put(0x94, &0xf0_u16.to_le_bytes()); // length of the optional header
    put(0x96, &0x222_u16.to_le_bytes());
    put(0x98, &0x20b_u16.to_le_bytes());
    put(0x98 + 16, &0x1000_u32.to_le_bytes()); // entry point
    put(0x98 + 32, &0x1000_u32.to_le_bytes()); // alignments
    put(0x98 + 36, &0x200_u32.to_le_bytes());
    put(0x98 + 56, &len.to_le_bytes()); // of the image, of the headers
    put(0x98 + 60, &0x1000_u32.to_le_bytes());
    put(0x98 + 68, &10_u16.to_le_bytes()); // an EFI application
    put(0x98 + 108, &16_u32.to_le_bytes());
    for (index, (name, start, size)) in [
        (b".text\0\0\0", 0x1000, 0x1000),
        (b".linux\0\0", KERNEL, 0x10_0000 - KERNEL),
        (b".initrd\0", 0x10_0000, len - 0x10_0000),
    ]
    .into_iter()
    .enumerate()
    {
        let at = 0x98 + 0xf0 + 40 * index;
        put(at, name);
        // In memory as in the file.
        for (offset, value) in [(8, size), (12, start), (16, size), (20, start), (36, 0x6000_0020_u32)] {
            put(at + offset, &value.to_le_bytes());
        }
    }
    head
}

impl LargeImage {
    /// In the folder `artifacts`, with an image of `len` bytes: a sparse file.
    pub fn new(artifacts: &Path, len: u64) -> Self {
        let made = artifacts.join("made");
        fs::write(&made, firmware()).unwrap();
        let sha384 = artifacts::import(artifacts, &made).unwrap().to_string();
        let firmware = FileDigest { sha384, len: fs::metadata(&made).unwrap().len() };
        let mut file = File::create(&made).unwrap();
        file.write_all(&headers(len as u32)).unwrap();
        file.seek(SeekFrom::Start(KERNEL.into())).unwrap();
        file.write_all(&samples::bzimage(0x4000)).unwrap();
        file.set_len(len).unwrap();
        let (mut hash, mut chunk) = (Context::new(&SHA384), vec![0; 1 << 20]);
        let mut file = File::open(&made).unwrap();
        loop {
            let count = file.read(&mut chunk).unwrap();
            if count == 0 {
                break;
            }
            hash.update(&chunk[..count]);
        }
        let sha384: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        fs::rename(made, artifacts.join(&sha384)).unwrap();
        Self { firmware, uki: FileDigest { sha384, len } }
    }

    /// A launch of a machine with `memory_mib` of memory. Each size has a different digest.
    pub fn proposal(&self, gate: &TestGate, memory_mib: u64) -> Proposal {
        let launch = Launch {
            firmware: self.firmware.clone(),
            boot: Boot::Uki { image: self.uki.clone(), gpa: GPA },
            memory: memory_mib << 20,
            low_memory: 1536 << 20,
            // The firmware says nothing of where other vCPUs start.
            vcpus: 1,
            ..gate.manifest.launch.clone()
        };
        let manifest = Manifest { launch, ..gate.manifest.clone() };
        Proposal {
            policy: "p".into(),
            vm_id: manifest.vm_id.clone(),
            manifest: serde_json::to_string(&manifest).unwrap(),
            digest: gate.digest,
        }
    }
}

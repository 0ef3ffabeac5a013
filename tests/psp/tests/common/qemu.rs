// SPDX-License-Identifier: Apache-2.0
//! Launches firmware through the security processor in the page order of QEMU 9.1 and later: image, metadata
//! sections in file order, one VMSA per vCPU. Written from the description of the formats, apart from the
//! crates that cvmm itself launches with: a shared mistake would not be noticed.

use aws_lc_rs::digest::{SHA256, digest};
use cvmm_psp::{PAGE, Status};
use cvmm_test_support::psp::{CPUID, Guest, Kind, NORMAL, POLICY, Rig, SECRETS, VMSA, ZERO};

pub struct Launch<'a> {
    pub firmware: &'a [u8],
    pub vcpus: u32,
    pub signature: u32,
    pub features: u64,
    pub boot: Option<Boot>,
}

/// SHA-256 of kernel, initrd, and command line with its NUL.
#[derive(Clone, Copy)]
pub struct Boot {
    pub kernel: [u8; 32],
    pub initrd: [u8; 32],
    pub append: [u8; 32],
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

const VMSA_GPA: u64 = 0xFFFF_FFFF_F000;
const FOOTER: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);
const SEV_METADATA: [u8; 16] =
    guid(0xdc88_6566, 0x984a, 0x4798, [0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc]);
const RESET_BLOCK: [u8; 16] =
    guid(0x00f7_71de, 0x1a7e, 0x4fcb, [0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e]);
const HASHES_AREA: [u8; 16] =
    guid(0x7255_371f, 0x3a3b, 0x4b04, [0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54]);

const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Data of an entry of the table at the end of the image.
fn entry<'a>(firmware: &'a [u8], wanted: &[u8; 16]) -> Option<&'a [u8]> {
    let footer = firmware.len() - 32 - 18;
    assert_eq!(firmware[footer + 2..footer + 18], FOOTER, "the image has a table");
    let first = firmware.len() - 32 - half(firmware, footer);
    let mut end = footer;
    while end > first {
        let len = half(firmware, end - 18);
        assert!(len >= 18);
        if firmware[end - 16..end] == wanted[..] {
            return Some(&firmware[end - len..end - 18]);
        }
        end -= len;
    }
    None
}

/// Pages of the metadata: GPA, size, type.
fn sections(firmware: &[u8]) -> Vec<(u64, u64, u32)> {
    let offset = firmware.len() - word(entry(firmware, &SEV_METADATA).unwrap(), 0) as usize;
    assert_eq!(&firmware[offset..offset + 4], b"ASEV");
    (0..word(firmware, offset + 12) as usize)
        .map(|index| {
            let at = offset + 16 + 12 * index;
            (u64::from(word(firmware, at)), u64::from(word(firmware, at + 4)), word(firmware, at + 8))
        })
        .collect()
}

fn hashes_page(firmware: &[u8], boot: Boot) -> Vec<u8> {
    let entries = [
        (guid(0x97d0_2dd8, 0xbd20, 0x4c94, [0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a]), boot.append),
        (guid(0x44ba_f731, 0x3a2f, 0x4bd7, [0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d]), boot.initrd),
        (guid(0x4de7_9437, 0xabd2, 0x427f, [0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b]), boot.kernel),
    ];
    let mut table =
        guid(0x9438_d606, 0x4f22, 0x4cc9, [0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21]).to_vec();
    table.extend(168_u16.to_le_bytes());
    for (id, hash) in entries {
        table.extend(id);
        table.extend(50_u16.to_le_bytes());
        table.extend(hash);
    }
    let at = word(entry(firmware, &HASHES_AREA).unwrap(), 0) as usize % PAGE as usize;
    let mut page = vec![0; PAGE as usize];
    page[at..at + table.len()].copy_from_slice(&table);
    page
}

pub fn vmsa(eip: u32, signature: u32, features: u64) -> Vec<u8> {
    let mut page = vec![0_u8; PAGE as usize];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let segment = |selector: u16, attributes: u16, limit: u32, base: u64| {
        [&selector.to_le_bytes()[..], &attributes.to_le_bytes(), &limit.to_le_bytes(), &base.to_le_bytes()]
            .concat()
    };
    for at in [0x00, 0x20, 0x30, 0x40, 0x50] {
        put(at, &segment(0, 0x93, 0xFFFF, 0));
    }
    put(0x10, &segment(0xF000, 0x9B, 0xFFFF, u64::from(eip & 0xFFFF_0000)));
    put(0x60, &segment(0, 0, 0xFFFF, 0));
    put(0x80, &segment(0, 0, 0xFFFF, 0));
    put(0x70, &segment(0, 0x82, 0xFFFF, 0));
    put(0x90, &segment(0, 0x8B, 0xFFFF, 0));
    for (at, value) in [
        (0x0D0, 0x1000),
        (0x148, 0x40),
        (0x158, 0x10),
        (0x160, 0x400),
        (0x168, 0xFFFF_0FF0),
        (0x170, 2),
        (0x178, u64::from(eip & 0xFFFF)),
        (0x268, 0x0007_0406_0007_0406),
        (0x310, u64::from(signature)),
        (0x3B0, features),
        (0x3E8, 1),
    ] {
        put(at, &value.to_le_bytes());
    }
    put(0x408, &0x1F80_u32.to_le_bytes());
    put(0x410, &0x37F_u16.to_le_bytes());
    page
}

impl Launch<'_> {
    /// Launch up to LAUNCH_FINISH; the digest the security processor then prints.
    pub fn digest(&self) -> String {
        let mut rig = Rig::initialised("seed = 'digest'");
        let guest = rig.launching(1, POLICY);
        let base = (1_u64 << 32) - self.firmware.len() as u64;
        for (gpa, page) in (base..).step_by(PAGE as usize).zip(self.firmware.chunks(PAGE as usize)) {
            rig.launch_page(guest, gpa, page, NORMAL);
        }
        for (gpa, size, kind) in sections(self.firmware) {
            self.section(&mut rig, guest, (gpa, size, kind));
        }
        let reset = word(entry(self.firmware, &RESET_BLOCK).unwrap(), 0);
        for vcpu in 0..self.vcpus {
            let eip = if vcpu == 0 { 0xFFFF_FFF0 } else { reset };
            rig.launch_page(guest, VMSA_GPA, &vmsa(eip, self.signature, self.features), VMSA);
        }
        assert_eq!(rig.finish(guest, None, 0, [0; 32]), Status::SUCCESS);
        rig.digest()
    }

    fn section(&self, rig: &mut Rig, guest: Guest, (gpa, size, kind): (u64, u64, u32)) {
        let (kind, content): (Kind, Vec<u8>) = match (kind, self.boot) {
            (2, _) => (SECRETS, Vec::new()),
            (3, _) => (CPUID, Vec::new()),
            (0x10, Some(boot)) => (NORMAL, hashes_page(self.firmware, boot)),
            _ => (ZERO, Vec::new()),
        };
        for gpa in (gpa..gpa + size).step_by(PAGE as usize) {
            rig.launch_page(guest, gpa, &content, kind);
        }
    }
}

/// Firmware made of a formula, with the same formula in `golden/make.py`.
pub fn synthetic() -> Vec<u8> {
    const LEN: usize = 0x8000;
    let mut image: Vec<u8> = (0..LEN).map(|at| (at * at / 128 + at * 31) as u8).collect();
    // Two pages alike, as firmware padding is.
    image[0x1000..0x3000].fill(0xFF);
    let mut metadata = b"ASEV".to_vec();
    let items = [
        (0x80_0000, 0x3000, 1),
        (0x80_D000, 0x1000, 2),
        (0x80_E000, 0x1000, 3),
        (0x80_F000, 0x1000, 4),
        (0x81_1000, 0x2000, 1),
        (0x81_0000, 0x1000, 0x10),
    ];
    for value in [16 + 12 * items.len() as u32, 1, items.len() as u32] {
        metadata.extend(value.to_le_bytes());
    }
    for (gpa, size, kind) in items {
        for value in [gpa, size, kind] {
            metadata.extend(u32::to_le_bytes(value));
        }
    }
    let metadata_at = LEN - 0x400;
    image[metadata_at..metadata_at + metadata.len()].copy_from_slice(&metadata);
    let mut table = Vec::new();
    for (data, id) in [
        ([0x400_u32].as_slice(), SEV_METADATA),
        (&[0x80_B004], RESET_BLOCK),
        (&[0x81_0C00, 0x400], HASHES_AREA),
    ] {
        table.extend(data.iter().flat_map(|value| value.to_le_bytes()));
        table.extend((data.len() as u16 * 4 + 18).to_le_bytes());
        table.extend(id);
    }
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(FOOTER);
    let end = LEN - 32;
    image[end - table.len()..end].copy_from_slice(&table);
    image
}

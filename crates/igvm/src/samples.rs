// SPDX-License-Identifier: Apache-2.0
//! Small IGVM files, for tests and fuzz targets of this and other crates.

use cvmm_launch::plan::VcpuStart;
use cvmm_launch::start;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::features::SevFeatures;
use zerocopy::IntoBytes;

/// Where file data start in a sample.
pub const DATA: usize = 0x1000;
/// Header types.
pub const PLATFORM: u32 = 0x1;
/// A guest policy.
pub const POLICY: u32 = 0x101;
/// A page.
pub const PAGE_DATA: u32 = 0x302;
/// The state of a vCPU.
pub const VP_CONTEXT: u32 = 0x304;

/// A file that is being written; offsets in headers count from the start of the file.
#[derive(Clone, Debug)]
pub struct File {
    /// Types and bodies of the headers.
    pub headers: Vec<(u32, Vec<u8>)>,
    /// File data, from [`DATA`] on.
    pub data: Vec<u8>,
}

impl File {
    /// A guest with one page of code, a zero page, secrets and CPUID pages, and one vCPU.
    #[must_use]
    pub fn guest() -> Self {
        let model = VcpuModel { signature: CpuSignature(0xa0_0f11), features: SevFeatures::SNP_ACTIVE };
        let state = start::initial(&VcpuStart::Reset { eip: 0xffff_fff0 }, model);
        let page = |gpa, offset, kind| (PAGE_DATA, page(gpa, offset, 0, kind));
        Self {
            headers: vec![
                (PLATFORM, platform(1, 0, 2)),
                (POLICY, policy(0x3_0000)),
                page(0xffff_f000, 0x1000, 0),
                page(0x80_0000, 0, 0),
                page(0x80_d000, 0, 1),
                page(0x80_e000, 0, 2),
                (VP_CONTEXT, context(0xffff_ffff_f000, 0x2000, 0)),
            ],
            data: [&[0x90; 4096][..], state.as_bytes()].concat(),
        }
    }

    /// The file, with its checksum.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut headers = Vec::new();
        for (kind, body) in &self.headers {
            headers.extend_from_slice(&kind.to_le_bytes());
            // Samples are small.
            headers.extend_from_slice(&(body.len() as u32).to_le_bytes());
            headers.extend_from_slice(body);
            headers.resize(headers.len().next_multiple_of(8), 0);
        }
        let total = DATA.max(24 + headers.len()) + self.data.len();
        let words = [0x4d56_4749, 1, 24, headers.len() as u32, total as u32, 0];
        let mut file: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        file.extend_from_slice(&headers);
        seal(&mut file);
        file.resize(total - self.data.len(), 0);
        file.extend_from_slice(&self.data);
        file
    }
}

/// Writes the checksum of the headers, wherever the fixed header says they are.
pub fn seal(file: &mut [u8]) {
    let word = |file: &[u8], at: usize| {
        file.get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |word| u32::from_le_bytes(*word) as usize)
    };
    let (start, len) = (word(file, 8), word(file, 12));
    if let Some(place) = file.get_mut(20..24) {
        place.fill(0);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(file.get(..24).unwrap_or_default());
    crc.update(file.get(start..start.saturating_add(len)).unwrap_or_default());
    let checksum = crc.finalize().to_le_bytes();
    if let Some(place) = file.get_mut(20..24) {
        place.copy_from_slice(&checksum);
    }
}

/// The body of a platform of version 1.
#[must_use]
pub fn platform(mask: u32, highest_vtl: u8, kind: u8) -> Vec<u8> {
    [&mask.to_le_bytes()[..], &[highest_vtl, kind, 1, 0], &[0; 8]].concat()
}

/// The body of a guest policy for mask 1.
#[must_use]
pub fn policy(policy: u64) -> Vec<u8> {
    [&policy.to_le_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat()
}

/// The body of page data for mask 1.
#[must_use]
pub fn page(gpa: u64, offset: u32, flags: u32, kind: u16) -> Vec<u8> {
    let words = [1, offset, flags, kind.into()];
    gpa.to_le_bytes().into_iter().chain(words.iter().flat_map(|word: &u32| word.to_le_bytes())).collect()
}

/// The body of a VP context for mask 1.
#[must_use]
pub fn context(gpa: u64, offset: u32, index: u16) -> Vec<u8> {
    let words = [1, offset, index.into()];
    gpa.to_le_bytes().into_iter().chain(words.iter().flat_map(|word: &u32| word.to_le_bytes())).collect()
}

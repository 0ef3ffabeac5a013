// SPDX-License-Identifier: Apache-2.0
//! From a launch plan to a file.
//!
//! A file is a function of plan, policy and ID block: the same inputs give the same bytes. Pages are read
//! from their files in chunks; only the headers are in memory, 32 bytes for each page.

use std::io::{self, Write};

use cvmm_launch::blob::{CHUNK_SIZE, ReadError};
use cvmm_launch::firmware::SnpError;
use cvmm_launch::id_block::Identity;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, PageImport, PageKind, Source};
use cvmm_launch::start;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpuid::{CpuidFunction, CpuidPage};
use cvmm_snp::page_info::VMSA_GPA;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::vmsa::Vmsa;
use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_FORMAT_VERSION_1, IGVM_MAGIC_VALUE, IGVM_SEV_SNP_PLATFORM_VERSION,
    IGVM_VHS_GUEST_POLICY, IGVM_VHS_PAGE_DATA, IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_SNP_ID_BLOCK,
    IGVM_VHS_SUPPORTED_PLATFORM, IGVM_VHS_VARIABLE_HEADER, IGVM_VHS_VP_CONTEXT, IgvmPageDataFlags,
    IgvmPageDataType, IgvmPlatformType, IgvmVariableHeaderType as Kind, RequiredMemoryFlags,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::headers::{FIXED_LEN, MAX_HEADERS, PREFIX_LEN};
use crate::identity;

/// The bit of the file's only platform.
const MASK: u32 = 1;
/// Low memory that the guest needs starts here: below are holes on a PC.
const REQUIRED_FROM: u64 = 1 << 20;
/// Leaves of the CPUID page and how many subleaves each has. Cloud-hypervisor fills in the leaves that the
/// file lists; QEMU and cvmm make a list of their own.
const LEAVES: [(u32, u32); 22] = [
    (0, 1),
    (1, 1),
    (2, 1),
    (4, 4),
    (5, 1),
    (6, 1),
    (7, 2),
    (0xb, 2),
    (0xd, 2),
    (0x8000_0000, 1),
    (0x8000_0001, 1),
    (0x8000_0002, 1),
    (0x8000_0003, 1),
    (0x8000_0004, 1),
    (0x8000_0005, 1),
    (0x8000_0006, 1),
    (0x8000_0007, 1),
    (0x8000_0008, 1),
    (0x8000_000a, 1),
    (0x8000_001d, 4),
    (0x8000_001e, 1),
    (0x8000_001f, 1),
];

/// A plan that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Only SNP guests have a file.
    #[error(transparent)]
    Snp(#[from] SnpError),
    /// The policy of the ID block differs.
    #[error(
        "the ID block has policy {found:#x}, but the guest is launched with {expected:#x}; give both the \
         same policy (--policy, snp.policy)"
    )]
    Policy {
        /// In the block.
        found: u64,
        /// Of the launch.
        expected: u64,
    },
    /// The format has 32-bit offsets.
    #[error("the guest has {pages} pages, too many for an IGVM file")]
    TooLarge {
        /// Number of pages.
        pages: u64,
    },
    /// Content could not be read.
    #[error("cannot export the {tag} pages: {error}")]
    Read {
        /// What the pages are.
        tag: &'static str,
        /// The reason.
        error: ReadError,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// A guest to be written.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// Pages and start states.
    pub plan: &'a LaunchPlan,
    /// RAM.
    pub memory: &'a MemoryLayout,
    /// Policy of the launch.
    pub policy: GuestPolicy,
    /// The virtual CPUs.
    pub model: VcpuModel,
    /// The ID block of the launch, if there is one.
    pub identity: Option<&'a Identity>,
}

impl Export<'_> {
    /// Writes the file.
    ///
    /// # Errors
    /// The plan is not an SNP guest's, does not fit into the format, or cannot be read or written.
    pub fn write(&self, to: &mut dyn Write) -> Result<(), ExportError> {
        self.plan.check_snp()?;
        if let Some(found) = self.identity.map(|identity| identity.block().policy.get())
            && found != self.policy.0
        {
            return Err(ExportError::Policy { found, expected: self.policy.0 });
        }
        let pages: u64 = self.plan.imports().iter().map(|import| import.len / PAGE_SIZE).sum();
        let too_large = ExportError::TooLarge { pages };
        let vmsas = self.vmsas();
        let states = self.plan.vcpus().len() as u64;
        let id_len = if self.identity.is_some() { header_len::<IGVM_VHS_SNP_ID_BLOCK>() } else { 0 };
        let headers_len = header_len::<IGVM_VHS_SUPPORTED_PLATFORM>()
            + header_len::<IGVM_VHS_GUEST_POLICY>()
            + header_len::<IGVM_VHS_REQUIRED_MEMORY>()
            + id_len
            + pages * header_len::<IGVM_VHS_PAGE_DATA>()
            + states * header_len::<IGVM_VHS_VP_CONTEXT>();
        let data_start = (FIXED_LEN + headers_len).next_multiple_of(PAGE_SIZE);
        // One page of CPUID at most, as plans have it.
        let content = |import: &&PageImport| has_data(import.kind);
        let with_data: u64 =
            self.plan.imports().iter().filter(content).map(|import| import.len / PAGE_SIZE).sum();
        let total = data_start + (with_data + vmsas.len() as u64) * PAGE_SIZE;
        let Ok(total) = u32::try_from(total) else { return Err(too_large) };
        if headers_len > u64::from(MAX_HEADERS) {
            return Err(too_large);
        }
        let headers = self.headers(data_start, &vmsas);
        debug_assert_eq!(headers.len() as u64, headers_len, "the length was predicted");
        let mut fixed = IGVM_FIXED_HEADER {
            magic: IGVM_MAGIC_VALUE,
            format_version: IGVM_FORMAT_VERSION_1,
            // A constant, and below the limit.
            variable_header_offset: FIXED_LEN as u32,
            variable_header_size: headers_len as u32,
            total_file_size: total,
            checksum: 0,
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(fixed.as_bytes());
        crc.update(&headers);
        fixed.checksum = crc.finalize();
        to.write_all(fixed.as_bytes())?;
        to.write_all(&headers)?;
        zeros(to, data_start - FIXED_LEN - headers_len)?;
        self.data(to, &vmsas)
    }

    /// The different start states, in the order of the vCPUs.
    fn vmsas(&self) -> Vec<(Vmsa, usize)> {
        let mut vmsas: Vec<(Vmsa, usize)> = Vec::new();
        let mut last = None;
        for start in self.plan.vcpus() {
            match vmsas.last_mut() {
                Some((_, count)) if last == Some(start) => *count += 1,
                _ => vmsas.push((start::initial(start, self.model), 1)),
            }
            last = Some(start);
        }
        vmsas
    }

    fn headers(&self, data_start: u64, vmsas: &[(Vmsa, usize)]) -> Vec<u8> {
        let mut out = Vec::new();
        let platform = IGVM_VHS_SUPPORTED_PLATFORM {
            compatibility_mask: MASK,
            highest_vtl: 0,
            platform_type: IgvmPlatformType::SEV_SNP,
            platform_version: IGVM_SEV_SNP_PLATFORM_VERSION,
            shared_gpa_boundary: 0,
        };
        push(&mut out, Kind::IGVM_VHT_SUPPORTED_PLATFORM, &platform);
        let policy = IGVM_VHS_GUEST_POLICY { policy: self.policy.0, compatibility_mask: MASK, reserved: 0 };
        push(&mut out, Kind::IGVM_VHT_GUEST_POLICY, &policy);
        let required = IGVM_VHS_REQUIRED_MEMORY {
            gpa: REQUIRED_FROM,
            compatibility_mask: MASK,
            // Low memory has at most 2 GiB.
            number_of_bytes: self.memory.low.saturating_sub(REQUIRED_FROM) as u32,
            flags: RequiredMemoryFlags::from(0),
            reserved: 0,
        };
        push(&mut out, Kind::IGVM_VHT_REQUIRED_MEMORY, &required);
        if let Some(identity) = self.identity {
            push(&mut out, Kind::IGVM_VHT_SNP_ID_BLOCK, &identity::to_header(identity, MASK));
        }
        // All offsets are below the file's length, which has 32 bits.
        let mut offset = data_start;
        for import in self.plan.imports() {
            let data = has_data(import.kind);
            for gpa in (import.gpa..import.gpa + import.len).step_by(PAGE_SIZE as usize) {
                let page = IGVM_VHS_PAGE_DATA {
                    gpa,
                    compatibility_mask: MASK,
                    file_offset: if data { offset as u32 } else { 0 },
                    flags: IgvmPageDataFlags::new().with_unmeasured(import.kind == PageKind::Unmeasured),
                    data_type: match import.kind {
                        PageKind::Normal | PageKind::Zero | PageKind::Unmeasured => IgvmPageDataType::NORMAL,
                        PageKind::Secrets => IgvmPageDataType::SECRETS,
                        PageKind::Cpuid => IgvmPageDataType::CPUID_DATA,
                    },
                    reserved: 0,
                };
                push(&mut out, Kind::IGVM_VHT_PAGE_DATA, &page);
                offset += if data { PAGE_SIZE } else { 0 };
            }
        }
        let indexes =
            vmsas.iter().enumerate().flat_map(|(at, (_, count))| std::iter::repeat_n(at as u64, *count));
        for (vp_index, at) in (0..).zip(indexes) {
            let context = IGVM_VHS_VP_CONTEXT {
                gpa: VMSA_GPA.into(),
                compatibility_mask: MASK,
                file_offset: (offset + at * PAGE_SIZE) as u32,
                vp_index,
                reserved: 0,
            };
            push(&mut out, Kind::IGVM_VHT_VP_CONTEXT, &context);
        }
        out
    }

    fn data(&self, to: &mut dyn Write, vmsas: &[(Vmsa, usize)]) -> Result<(), ExportError> {
        for import in self.plan.imports().iter().filter(|import| has_data(import.kind)) {
            match (&import.source, import.kind) {
                (_, PageKind::Cpuid) => {
                    to.write_all(cpuid_page().as_bytes())?;
                    zeros(to, import.len - PAGE_SIZE)?;
                }
                (Source::None, _) => zeros(to, import.len)?,
                (Source::Blob { blob, offset, len }, _) => {
                    let mut chunks = blob.chunks(*offset, *len);
                    let failed = |error| ExportError::Read { tag: import.tag, error };
                    while let Some(chunk) = chunks.next_chunk().map_err(failed)? {
                        to.write_all(chunk)?;
                    }
                    zeros(to, import.len - len)?;
                }
            }
        }
        for (vmsa, _) in vmsas {
            to.write_all(vmsa.as_bytes())?;
        }
        Ok(())
    }
}

/// Zero pages and the secrets page have no data: that is how a zero page is written.
fn has_data(kind: PageKind) -> bool {
    match kind {
        PageKind::Normal | PageKind::Unmeasured | PageKind::Cpuid => true,
        PageKind::Zero | PageKind::Secrets => false,
    }
}

/// A CPUID page with leaves and without values.
fn cpuid_page() -> CpuidPage {
    let leaf = |(eax, count)| {
        (0..count).map(move |ecx| CpuidFunction {
            eax_in: U32::new(eax),
            ecx_in: U32::new(ecx),
            // The sizes of these two follow from XCR0, which is 1 when the guest starts.
            xcr0_in: U64::new(u64::from(eax == 0xd)),
            ..CpuidFunction::default()
        })
    };
    let functions: Vec<_> = LEAVES.into_iter().flat_map(leaf).collect();
    const { assert!(LEAVES.len() * 4 <= 2 * cvmm_snp::cpuid::MAX_ENTRIES) };
    CpuidPage::new(&functions).unwrap_or_else(|_| zerocopy::FromZeros::new_zeroed())
}

const fn header_len<T>() -> u64 {
    (PREFIX_LEN + size_of::<T>()).next_multiple_of(8) as u64
}

fn push<T: IntoBytes + Immutable>(out: &mut Vec<u8>, typ: Kind, body: &T) {
    // The longest has some hundred bytes.
    let prefix = IGVM_VHS_VARIABLE_HEADER { typ, length: size_of::<T>() as u32 };
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(body.as_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
}

fn zeros(to: &mut dyn Write, len: u64) -> io::Result<()> {
    let zeros = vec![0; CHUNK_SIZE.min(usize::try_from(len).unwrap_or(CHUNK_SIZE))];
    let mut left = len;
    while left != 0 {
        // At most a chunk.
        let part = left.min(zeros.len() as u64) as usize;
        to.write_all(zeros.get(..part).unwrap_or(&zeros))?;
        left -= part as u64;
    }
    Ok(())
}

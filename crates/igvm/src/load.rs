// SPDX-License-Identifier: Apache-2.0
//! From a file to a launch plan.

use std::collections::BTreeMap;

use cvmm_launch::blob::Blob;
use cvmm_launch::firmware::RESET_VECTOR;
use cvmm_launch::id_block::Identity;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, PageImport, PageKind, Source, VcpuStart};
use cvmm_launch::registers::StartRegisters;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::is_page_multiple;
use cvmm_snp::page_info::VMSA_GPA;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::vmsa::Vmsa;
use igvm_defs::{
    IGVM_SEV_SNP_PLATFORM_VERSION, IGVM_VHS_GUEST_POLICY, IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER,
    IGVM_VHS_PARAMETER_AREA, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_SNP_ID_BLOCK,
    IGVM_VHS_SUPPORTED_PLATFORM, IGVM_VHS_VP_CONTEXT, IGVM_VHT_OPTIONAL_BIT, IGVM_VHT_RANGE_DIRECTIVE,
    IGVM_VHT_RANGE_INIT, IGVM_VHT_RANGE_PLATFORM, IgvmPageDataType, IgvmPlatformType,
    IgvmVariableHeaderType as Kind,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{IgvmError, IgvmProblem, Place};
use crate::headers::{Header, Headers};
use crate::identity;
use crate::names::name;
use crate::pages::{Pages, content};
use crate::parameters::{Areas, memory_map};

const LARGE_PAGE: u64 = 2 << 20;
/// Flags of page data: a page of 2 MiB, not measured.
const FLAG_LARGE: u32 = 1;
const FLAG_UNMEASURED: u32 = 2;

/// The machine that a file is launched on.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// RAM.
    pub memory: &'a MemoryLayout,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// `snp.policy`.
    pub policy: GuestPolicy,
    /// SEV_FEATURES of the virtual CPUs.
    pub features: SevFeatures,
    /// Command line for files that ask for one. It is not measured.
    pub cmdline: &'a str,
    /// ACPI table for files that ask for it, if the machine has one.
    pub madt: Option<&'a [u8]>,
}

/// What a file launches.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its pages and start states.
    pub plan: LaunchPlan,
    /// Its ID block, if it has one.
    pub identity: Option<Identity>,
}

/// Makes the launch plan of `file`.
///
/// # Errors
/// The file is malformed, or is not for this machine.
pub fn load(file: &Blob, machine: &Machine<'_>) -> Result<Guest, IgvmError> {
    load_inner(file, machine).map_err(|(place, problem)| IgvmError { name: file.to_string(), place, problem })
}

type Failure = (Option<Place>, IgvmProblem);

fn load_inner(file: &Blob, machine: &Machine<'_>) -> Result<Guest, Failure> {
    let headers = Headers::read(file).map_err(|problem| (None, problem))?;
    let mut loader = Loader {
        file,
        data_start: headers.end(),
        machine,
        section: Section::Platform,
        platforms: Vec::new(),
        mask: None,
        policy: None,
        areas: Areas::default(),
        pages: Pages::default(),
        secrets: None,
        cpuid: None,
        contexts: BTreeMap::new(),
        id_block: None,
        takes_cmdline: false,
    };
    for header in headers.iter() {
        let header = header.map_err(|(place, problem)| (Some(place), problem))?;
        loader.header(&header).map_err(|problem| (Some(header.place), problem))?;
    }
    loader.finish()
}

/// The three parts of the list of headers, in the order they must have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Platform,
    Initialization,
    Directive,
}

struct Loader<'a> {
    file: &'a Blob,
    data_start: u64,
    machine: &'a Machine<'a>,
    section: Section,
    /// Masks and names of all platforms.
    platforms: Vec<(u32, String, usize)>,
    /// The bit of SEV-SNP, and the number of its header.
    mask: Option<(u32, usize)>,
    policy: Option<(u64, usize)>,
    areas: Areas,
    pages: Pages,
    /// Numbers of the headers.
    secrets: Option<usize>,
    cpuid: Option<usize>,
    contexts: BTreeMap<u16, (StartRegisters, usize)>,
    id_block: Option<(IGVM_VHS_SNP_ID_BLOCK, Place)>,
    takes_cmdline: bool,
}

impl Loader<'_> {
    fn header(&mut self, header: &Header<'_>) -> Result<(), IgvmProblem> {
        let Header { place, body } = header;
        let kind = place.kind & !IGVM_VHT_OPTIONAL_BIT;
        let section = match kind {
            _ if IGVM_VHT_RANGE_PLATFORM.contains(&kind) => Section::Platform,
            _ if IGVM_VHT_RANGE_INIT.contains(&kind) => Section::Initialization,
            _ if IGVM_VHT_RANGE_DIRECTIVE.contains(&kind) => Section::Directive,
            _ => return unknown(place.kind),
        };
        if section < self.section {
            return Err(IgvmProblem::Format("it comes after headers that must come later".to_owned()));
        }
        self.section = section;
        match Kind(kind) {
            Kind::IGVM_VHT_SUPPORTED_PLATFORM => self.platform(&parse(body)?, place.index),
            Kind::IGVM_VHT_GUEST_POLICY => self.policy(&parse(body)?, place.index),
            // Says nothing about the guest.
            Kind::IGVM_VHT_VERSION_STRING => Ok(()),
            Kind::IGVM_VHT_PARAMETER_AREA => {
                let area: IGVM_VHS_PARAMETER_AREA = parse(body)?;
                self.areas.declare(&area, place.index, self.file, self.data_start)
            }
            Kind::IGVM_VHT_PAGE_DATA => self.page(&parse(body)?, *place),
            Kind::IGVM_VHT_PARAMETER_INSERT => self.insert(&parse(body)?, *place),
            Kind::IGVM_VHT_VP_CONTEXT => self.context(&parse(body)?, place.index),
            Kind::IGVM_VHT_REQUIRED_MEMORY => self.required(&parse(body)?),
            Kind::IGVM_VHT_SNP_ID_BLOCK => self.id_block(&parse(body)?, *place),
            Kind::IGVM_VHT_VP_COUNT_PARAMETER => {
                let count = self.machine.vcpus;
                self.areas.put(&parse(body)?, &count.to_le_bytes())
            }
            // All memory of the guest is private when it starts: no bit is set.
            Kind::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER => self.areas.put(&parse(body)?, &[0; 4]),
            Kind::IGVM_VHT_MEMORY_MAP => self.areas.put(&parse(body)?, &memory_map(self.machine.memory)),
            Kind::IGVM_VHT_COMMAND_LINE => self.cmdline(&parse(body)?),
            Kind::IGVM_VHT_MADT => match self.machine.madt {
                Some(table) => self.areas.put(&parse(body)?, table),
                None => Err(IgvmProblem::Unsupported),
            },
            _ if self.for_others(kind, body) => Ok(()),
            _ if name(kind).is_some() => Err(IgvmProblem::Unsupported),
            _ => unknown(place.kind),
        }
    }

    /// Whether the mask of a header has the bit of SEV-SNP.
    fn applies(&self, mask: u32) -> bool {
        self.mask.is_some_and(|(own, _)| mask & own != 0)
    }

    /// Whether a header that is not implemented is for other platforms.
    fn for_others(&self, kind: u32, body: &[u8]) -> bool {
        let offset = match Kind(kind) {
            Kind::IGVM_VHT_RELOCATABLE_REGION
            | Kind::IGVM_VHT_PAGE_TABLE_RELOCATION_REGION
            | Kind::IGVM_VHT_CCA_POLICY
            | Kind::IGVM_VHT_VBS_MEASUREMENT
            | Kind(0x104 | 0x105) => 0,
            Kind::IGVM_VHT_ERROR_RANGE => 8,
            // The others have no mask.
            _ => return false,
        };
        let mask = body.get(offset..).and_then(|rest| rest.first_chunk::<4>());
        mask.is_some_and(|mask| !self.applies(u32::from_le_bytes(*mask)))
    }

    fn platform(&mut self, header: &IGVM_VHS_SUPPORTED_PLATFORM, index: usize) -> Result<(), IgvmProblem> {
        let IGVM_VHS_SUPPORTED_PLATFORM {
            compatibility_mask: mask,
            highest_vtl,
            platform_type,
            platform_version,
            shared_gpa_boundary,
        } = *header;
        if mask.count_ones() != 1 {
            let text = format!("its compatibility mask is {mask:#x}; one bit must be set");
            return Err(IgvmProblem::Header(text));
        }
        if let Some((_, _, first)) = self.platforms.iter().find(|(other, ..)| *other == mask) {
            return Err(IgvmProblem::Duplicate {
                what: format!("platform of mask {mask:#x}"),
                first: *first,
            });
        }
        let what = match platform_type {
            IgvmPlatformType::NATIVE => "native".to_owned(),
            IgvmPlatformType::VSM_ISOLATION => "Hyper-V VSM".to_owned(),
            IgvmPlatformType::SEV_SNP => "SEV-SNP".to_owned(),
            IgvmPlatformType::TDX => "TDX".to_owned(),
            IgvmPlatformType(4) => "SEV".to_owned(),
            IgvmPlatformType(5) => "SEV-ES".to_owned(),
            IgvmPlatformType(6) => "Arm CCA".to_owned(),
            IgvmPlatformType(other) => format!("platform {other:#x}"),
        };
        self.platforms.push((mask, what, index));
        if platform_type != IgvmPlatformType::SEV_SNP {
            return Ok(());
        }
        if let Some((_, first)) = self.mask {
            return Err(IgvmProblem::Duplicate { what: "SEV-SNP platform".to_owned(), first });
        }
        if platform_version != IGVM_SEV_SNP_PLATFORM_VERSION {
            let text = format!("the platform version is {platform_version}; only version 1 is implemented");
            return Err(IgvmProblem::PlatformProperty(text));
        }
        if highest_vtl != 0 {
            return Err(IgvmProblem::Vtl(highest_vtl));
        }
        if shared_gpa_boundary != 0 {
            return Err(IgvmProblem::PlatformProperty(format!(
                "shared_gpa_boundary is {shared_gpa_boundary:#x}: KVM has no virtual top of memory; it must \
                 be 0"
            )));
        }
        self.mask = Some((mask, index));
        Ok(())
    }

    fn policy(&mut self, header: &IGVM_VHS_GUEST_POLICY, index: usize) -> Result<(), IgvmProblem> {
        let IGVM_VHS_GUEST_POLICY { policy, compatibility_mask, reserved } = *header;
        if !self.applies(compatibility_mask) {
            return Ok(());
        }
        zero("reserved", reserved)?;
        if let Some((_, first)) = self.policy {
            return Err(IgvmProblem::Duplicate { what: "guest policy".to_owned(), first });
        }
        let expected = self.machine.policy.0;
        if policy != expected {
            return Err(IgvmProblem::Policy { found: policy, expected });
        }
        self.policy = Some((policy, index));
        Ok(())
    }

    fn page(&mut self, header: &IGVM_VHS_PAGE_DATA, place: Place) -> Result<(), IgvmProblem> {
        let IGVM_VHS_PAGE_DATA { gpa, compatibility_mask, file_offset, flags, data_type, reserved } = *header;
        if !self.applies(compatibility_mask) {
            return Ok(());
        }
        zero("reserved", reserved.into())?;
        let flags = u32::from(flags);
        zero("flags other than 2 MiB and unmeasured", flags & !(FLAG_LARGE | FLAG_UNMEASURED))?;
        let len = if flags & FLAG_LARGE == 0 { PAGE_SIZE } else { LARGE_PAGE };
        if gpa % len != 0 {
            return Err(IgvmProblem::Header(format!("its address {gpa:#x} is not a multiple of {len:#x}")));
        }
        let unmeasured = flags & FLAG_UNMEASURED != 0;
        let (kind, tag) = match data_type {
            IgvmPageDataType::NORMAL if unmeasured => (PageKind::Unmeasured, "igvm unmeasured"),
            IgvmPageDataType::NORMAL if file_offset == 0 => (PageKind::Zero, "igvm zero"),
            IgvmPageDataType::NORMAL => (PageKind::Normal, "igvm page"),
            IgvmPageDataType::SECRETS => (PageKind::Secrets, "secrets"),
            IgvmPageDataType::CPUID_DATA => (PageKind::Cpuid, "cpuid"),
            IgvmPageDataType(other) => {
                let text =
                    format!("its data type is {other:#x}; normal, secrets and CPUID pages are implemented");
                return Err(IgvmProblem::Header(text));
            }
        };
        let source = match kind {
            PageKind::Secrets => {
                single(&mut self.secrets, place.index, "secrets page")?;
                Source::None
            }
            // The launcher fills it in with what the guest will see; the file only has a proposal.
            PageKind::Cpuid => {
                single(&mut self.cpuid, place.index, "CPUID page")?;
                Source::None
            }
            _ if file_offset == 0 => Source::None,
            _ => {
                self.check_data(file_offset.into(), len)?;
                content(self.file, file_offset.into(), len)
            }
        };
        let special = matches!(kind, PageKind::Secrets | PageKind::Cpuid);
        if special && (unmeasured || len != PAGE_SIZE) {
            let text = "secrets and CPUID pages have 4 KiB and no \"unmeasured\"".to_owned();
            return Err(IgvmProblem::Header(text));
        }
        self.pages.add(PageImport { gpa, len, kind, source, tag }, place, self.machine.memory)
    }

    /// Whether data are in the file, behind the headers.
    fn check_data(&self, offset: u64, len: u64) -> Result<(), IgvmProblem> {
        let end = self.file.len();
        if offset >= self.data_start && offset.checked_add(len).is_some_and(|last| last <= end) {
            return Ok(());
        }
        Err(IgvmProblem::Header(format!(
            "its data of {len:#x} bytes at offset {offset:#x} are not in the file, whose data are from \
             {:#x} to {end:#x}",
            self.data_start
        )))
    }

    fn insert(&mut self, header: &IGVM_VHS_PARAMETER_INSERT, place: Place) -> Result<(), IgvmProblem> {
        let IGVM_VHS_PARAMETER_INSERT { gpa, compatibility_mask, parameter_area_index } = *header;
        if !self.applies(compatibility_mask) {
            return Ok(());
        }
        if !is_page_multiple(gpa) {
            return Err(IgvmProblem::Header(format!("its address {gpa:#x} is not a multiple of 4 KiB")));
        }
        let bytes = self.areas.take(parameter_area_index)?;
        let len = bytes.len() as u64;
        let source = Source::Blob { blob: Blob::from_bytes("igvm parameters", bytes), offset: 0, len };
        let import = PageImport { gpa, len, kind: PageKind::Unmeasured, source, tag: "igvm parameters" };
        self.pages.add(import, place, self.machine.memory)
    }

    fn context(&mut self, header: &IGVM_VHS_VP_CONTEXT, index: usize) -> Result<(), IgvmProblem> {
        let IGVM_VHS_VP_CONTEXT { gpa, compatibility_mask, file_offset, vp_index, reserved } = *header;
        if !self.applies(compatibility_mask) {
            return Ok(());
        }
        zero("reserved", reserved.into())?;
        if gpa.get() != VMSA_GPA {
            return Err(IgvmProblem::Context(format!(
                "its VMSA is at {:#x}: KVM measures every VMSA at {VMSA_GPA:#x}, so the file must have it \
                 there",
                gpa.get()
            )));
        }
        if let Some((_, first)) = self.contexts.get(&vp_index) {
            let what = format!("VMSA of vCPU {vp_index}");
            return Err(IgvmProblem::Duplicate { what, first: *first });
        }
        if u32::from(vp_index) >= self.machine.vcpus {
            return Err(IgvmProblem::Context(format!(
                "it is the VMSA of vCPU {vp_index}, but the VM has {} vCPUs, counted from 0; change vcpus",
                self.machine.vcpus
            )));
        }
        self.check_data(file_offset.into(), PAGE_SIZE)?;
        let mut vmsa = Vmsa::zeroed();
        self.file.read(vmsa.as_mut_bytes(), file_offset.into())?;
        let registers = StartRegisters::new(vmsa, self.machine.features)?;
        self.contexts.insert(vp_index, (registers, index));
        Ok(())
    }

    fn required(&mut self, header: &IGVM_VHS_REQUIRED_MEMORY) -> Result<(), IgvmProblem> {
        let IGVM_VHS_REQUIRED_MEMORY { gpa, compatibility_mask, number_of_bytes, flags, reserved } = *header;
        if !self.applies(compatibility_mask) {
            return Ok(());
        }
        zero("reserved", reserved)?;
        zero("flags", flags.into())?;
        self.pages.check(gpa, number_of_bytes.into(), self.machine.memory)
    }

    fn id_block(&mut self, header: &IGVM_VHS_SNP_ID_BLOCK, place: Place) -> Result<(), IgvmProblem> {
        if !self.applies(header.compatibility_mask) {
            return Ok(());
        }
        if let Some((_, first)) = &self.id_block {
            return Err(IgvmProblem::Duplicate { what: "ID block".to_owned(), first: first.index });
        }
        let author = header.author_key_algorithm != 0;
        if header.reserved != [0; 3] || header.author_key_enabled != u8::from(author) {
            let text = "author_key_enabled does not say whether there is an author key".to_owned();
            return Err(IgvmProblem::Header(text));
        }
        self.id_block = Some((*header, place));
        Ok(())
    }

    fn cmdline(&mut self, header: &IGVM_VHS_PARAMETER) -> Result<(), IgvmProblem> {
        self.takes_cmdline = true;
        let mut line = self.machine.cmdline.as_bytes().to_vec();
        line.push(0);
        self.areas.put(header, &line)
    }

    fn finish(self) -> Result<Guest, Failure> {
        let fail = |problem| (None, problem);
        if self.mask.is_none() {
            let names: Vec<_> = self.platforms.iter().map(|(_, name, _)| name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(fail(IgvmProblem::Platform(names)));
        }
        if !self.machine.cmdline.is_empty() && !self.takes_cmdline {
            let text = "it takes no command line; remove boot.cmdline".to_owned();
            return Err(fail(IgvmProblem::Parameter(text)));
        }
        let state = |index: u16| self.contexts.get(&index).map(|(registers, _)| registers.clone());
        let Some(boot) = state(0) else {
            let text = "it has no VP context of vCPU 0, where the guest starts".to_owned();
            return Err(fail(IgvmProblem::Context(text)));
        };
        // As QEMU starts them: after a reset, unless the file says otherwise.
        let others = (1..self.machine.vcpus).map(|index| {
            u16::try_from(index)
                .ok()
                .and_then(state)
                .map_or(VcpuStart::Reset { eip: RESET_VECTOR }, VcpuStart::Registers)
        });
        let vcpus = std::iter::once(VcpuStart::Registers(boot)).chain(others).collect();
        let identity = match &self.id_block {
            Some((header, place)) => Some(
                identity::from_header(header, self.machine.policy)
                    .map_err(|error| (Some(*place), error.into()))?,
            ),
            None => None,
        };
        let (imports, window) = self.pages.finish().map_err(|(place, problem)| (Some(place), problem))?;
        let plan = LaunchPlan::from_file(imports, vcpus, self.machine.memory, window)
            .map_err(|error| fail(error.into()))?;
        Ok(Guest { plan, identity })
    }
}

fn unknown(kind: u32) -> Result<(), IgvmProblem> {
    if kind & IGVM_VHT_OPTIONAL_BIT != 0 { Ok(()) } else { Err(IgvmProblem::Unsupported) }
}

fn parse<T: FromBytes>(body: &[u8]) -> Result<T, IgvmProblem> {
    T::read_from_bytes(body).map_err(|_| {
        IgvmProblem::Format(format!("it has {} bytes instead of {}", body.len(), size_of::<T>()))
    })
}

fn zero(what: &str, found: u32) -> Result<(), IgvmProblem> {
    if found == 0 {
        Ok(())
    } else {
        Err(IgvmProblem::Header(format!("{what} must be zero, and is {found:#x}")))
    }
}

fn single(seen: &mut Option<usize>, index: usize, what: &str) -> Result<(), IgvmProblem> {
    match *seen {
        Some(first) => Err(IgvmProblem::Duplicate { what: what.to_owned(), first }),
        None => {
            *seen = Some(index);
            Ok(())
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Building a plan from firmware, boot profile, memory and vCPU count.

use cvmm_snp::is_page_multiple;

use super::error::PlanError;
use super::{LaunchPlan, PageImport, PageKind, Profile, Source, VcpuStart};
use crate::blob::Blob;
use crate::firmware::{
    Area, Firmware, HobArea, IgvmAreas, KERNEL_HASHES_GUID, ParameterArea, Section, SectionKind, igvm, sev,
};
use crate::first_stage::FirstStage;
use crate::guid::Guid;
use crate::hashes::KernelHashes;
use crate::kernel::{Format, Kernel};
use crate::measured::{Data, Measured};
use crate::memory::{HIGH_BASE, MemoryLayout};
use crate::page::PAGE_SIZE;
use crate::uki::{self, DataHob};

/// The firmware treats a larger vCPU count as corrupt data.
const MAX_VCPUS: u32 = 0xffff;

/// A page of content that replaces part of a section's zeros.
struct Overlay {
    gpa: u64,
    /// The kind of section it must lie in.
    section: SectionKind,
    tag: &'static str,
    content: Vec<u8>,
}

impl LaunchPlan {
    /// Builds the plan for `firmware` with `profile` on a machine with `memory` and `vcpus` virtual CPUs.
    pub fn build(
        firmware: &Firmware,
        profile: &Profile,
        memory: &MemoryLayout,
        vcpus: u32,
    ) -> Result<Self, PlanError> {
        Self::build_with(firmware, profile, memory, vcpus, None)
    }

    /// Like [`Self::build`], with a first stage that runs before the firmware.
    pub fn build_with(
        firmware: &Firmware,
        profile: &Profile,
        memory: &MemoryLayout,
        vcpus: u32,
        stage: Option<&FirstStage>,
    ) -> Result<Self, PlanError> {
        Self::build_all(firmware, profile, memory, vcpus, stage, &Measured::default())
    }

    /// Like [`Self::build_with`], with further data for the firmware.
    pub fn build_all(
        firmware: &Firmware,
        profile: &Profile,
        memory: &MemoryLayout,
        vcpus: u32,
        stage: Option<&FirstStage>,
        measured: &Measured,
    ) -> Result<Self, PlanError> {
        memory.check()?;
        if vcpus == 0 || vcpus > MAX_VCPUS {
            return Err(PlanError::Vcpus(vcpus));
        }
        // Any other firmware would ignore the data, and boot whatever it finds.
        if !measured.is_empty() && !firmware.takes_measured_data() {
            return Err(PlanError::FirmwareData { firmware: firmware.image().to_string() });
        }
        if !measured.has_valid_loader() {
            return Err(PlanError::Loader(measured.loader.clone().unwrap_or_default()));
        }
        let data = measured.pages();
        let overlays = match profile {
            Profile::Disk if data.is_empty() => Vec::new(),
            Profile::Disk => vec![hob_overlay(hob_area(firmware, profile)?, &data, None)],
            Profile::Hashes { .. } | Profile::HashesOnly(_) if !data.is_empty() => {
                // No firmware has both.
                return Err(PlanError::FirmwareData { firmware: firmware.image().to_string() });
            }
            Profile::Hashes { kernel, initrd, cmdline } => {
                let area = hash_area(firmware, profile)?;
                check_cmdline(kernel, cmdline)?;
                hash_overlay(area, &KernelHashes::compute(kernel.blob(), initrd.as_ref(), cmdline)?)?
            }
            Profile::HashesOnly(hashes) => hash_overlay(hash_area(firmware, profile)?, hashes)?,
            Profile::Uki { image, gpa } => {
                check_uki(image, *gpa, memory)?;
                let hobs = hob_area(firmware, profile)?;
                let kernel = DataHob::kernel(*gpa, image.blob().len());
                vec![
                    parameter_overlay(firmware, profile, memory, vcpus)?,
                    hob_overlay(hobs, &data, Some(kernel)),
                ]
            }
        };

        let mut staged = None;
        let mut imports = match stage {
            None => vec![whole("firmware", firmware.image(), firmware.gpa())],
            Some(stage) => {
                if let Profile::Uki { image, .. } = profile {
                    staged = Some(image.clone());
                }
                stage.imports(firmware, profile, memory)?
            }
        };
        for section in firmware.sections().unwrap_or_default() {
            add_section(&mut imports, section, &overlays);
        }
        // An overlay that matched no section would be lost silently.
        for overlay in &overlays {
            let placed = |import: &PageImport| {
                import.gpa == overlay.gpa && matches!(import.source, Source::Blob { .. })
            };
            if !imports.iter().any(placed) {
                return Err(PlanError::FirmwareContradicts {
                    firmware: firmware.image().to_string(),
                    what: overlay.tag,
                    gpa: overlay.gpa,
                    section: overlay.section,
                });
            }
        }
        imports.extend(data.iter().map(|data| whole(data.tag, &data.blob, data.gpa)));
        if let (Profile::Uki { image, gpa }, None) = (profile, stage) {
            imports.push(whole("uki", image.blob(), *gpa));
        }
        let window = firmware.size();
        check(&imports, window, memory)?;
        let snp = firmware.check_snp(vcpus);
        Ok(Self { imports, vcpus: starts(firmware, vcpus, stage), staged, window, snp })
    }

    /// The plan of a guest whose pages and start states an IGVM file gives, for a machine with `memory` and
    /// with `window` bytes of other memory that end at 4 GiB. One element of `vcpus` for each virtual CPU.
    pub fn from_file(
        imports: Vec<PageImport>,
        vcpus: Vec<VcpuStart>,
        memory: &MemoryLayout,
        window: u64,
    ) -> Result<Self, PlanError> {
        memory.check()?;
        let count = u32::try_from(vcpus.len()).unwrap_or(u32::MAX);
        if count == 0 || count > MAX_VCPUS {
            return Err(PlanError::Vcpus(count));
        }
        check(&imports, window, memory)?;
        Ok(Self { imports, vcpus, staged: None, window, snp: Ok(()) })
    }
}

/// The bootstrap processor starts at the reset vector, the others where the firmware's reset block says. A
/// build without a reset block does not support guests that would need it.
fn starts(firmware: &Firmware, vcpus: u32, stage: Option<&FirstStage>) -> Vec<VcpuStart> {
    let reset = VcpuStart::Reset { eip: firmware.reset_vector() };
    let bsp = stage.map_or(reset, |_| VcpuStart::FirstStage { place: firmware.stage_place() });
    let ap = VcpuStart::Reset { eip: firmware.ap_start().unwrap_or(firmware.reset_vector()) };
    std::iter::once(bsp).chain((1..vcpus).map(|_| ap.clone())).collect()
}

fn whole(tag: &'static str, blob: &Blob, gpa: u64) -> PageImport {
    // Only a blob larger than any file saturates, and it fails the checks that follow.
    let len = blob.len().checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
    let source = Source::Blob { blob: blob.clone(), offset: 0, len: blob.len() };
    PageImport { gpa, len, kind: PageKind::Normal, source, tag }
}

/// Adds the pages of one section in ascending order, with the overlays that lie in it.
fn add_section(imports: &mut Vec<PageImport>, section: &Section, overlays: &[Overlay]) {
    let (kind, tag) = match section.kind {
        SectionKind::SecMem => (PageKind::Zero, "sec memory"),
        SectionKind::Secrets => (PageKind::Secrets, "secrets"),
        SectionKind::Cpuid => (PageKind::Cpuid, "cpuid"),
        SectionKind::SvsmCaa => (PageKind::Zero, "svsm calling area"),
        SectionKind::KernelHashes => (PageKind::Zero, "kernel hashes"),
    };
    let plain = |gpa, end: u64| PageImport { gpa, len: end - gpa, kind, source: Source::None, tag };
    let end = section.gpa + section.len;
    let mut inside: Vec<&Overlay> = overlays
        .iter()
        .filter(|o| o.section == section.kind && o.gpa >= section.gpa && o.gpa + PAGE_SIZE <= end)
        .collect();
    inside.sort_by_key(|overlay| overlay.gpa);
    let mut at = section.gpa;
    for overlay in inside {
        if overlay.gpa > at {
            imports.push(plain(at, overlay.gpa));
        }
        let blob = Blob::from_bytes(overlay.tag, overlay.content.clone());
        imports.push(whole(overlay.tag, &blob, overlay.gpa));
        at = overlay.gpa + PAGE_SIZE;
    }
    if end > at {
        imports.push(plain(at, end));
    }
}

fn lacks(firmware: &Firmware, profile: &Profile, what: &'static str, guid: Guid) -> PlanError {
    let firmware = firmware.image().to_string();
    PlanError::FirmwareLacks { firmware, profile: profile.name(), what, guid }
}

/// The area that the firmware reserves for the hash table.
fn hash_area(firmware: &Firmware, profile: &Profile) -> Result<Area, PlanError> {
    let sections = firmware.sections().ok_or_else(|| lacks(firmware, profile, "SEV metadata", sev::GUID))?;
    firmware
        .kernel_hashes()
        .filter(|_| sections.iter().any(|s| s.kind == SectionKind::KernelHashes && s.len != 0))
        .ok_or_else(|| lacks(firmware, profile, "kernel-hash area", KERNEL_HASHES_GUID))
}

fn check_cmdline(kernel: &Kernel, cmdline: &str) -> Result<(), PlanError> {
    match kernel.format() {
        Format::BzImage { cmdline_max, .. } if cmdline.len() as u64 > u64::from(cmdline_max) => {
            let kernel = kernel.blob().to_string();
            Err(PlanError::CmdlineLength { len: cmdline.len(), kernel, max: cmdline_max })
        }
        _ => Ok(()),
    }
}

fn hash_overlay(area: Area, hashes: &KernelHashes) -> Result<Vec<Overlay>, PlanError> {
    let content = hashes.page(area)?;
    let section = SectionKind::KernelHashes;
    Ok(vec![Overlay { gpa: area.page(), section, tag: "kernel hashes", content }])
}

fn check_uki(image: &Kernel, gpa: u64, memory: &MemoryLayout) -> Result<(), PlanError> {
    image.require_uki()?;
    if !is_page_multiple(gpa) || gpa < uki::MIN_GPA {
        return Err(PlanError::UkiAddress { gpa, lowest: uki::MIN_GPA });
    }
    let len = image.blob().len();
    let needed = uki::needed_low(gpa, len, image.image_size());
    if needed > memory.low {
        return Err(PlanError::UkiMemory { name: image.blob().to_string(), len, needed, low: memory.low });
    }
    Ok(())
}

/// The areas that an IGVM loader would fill.
fn igvm_areas(firmware: &Firmware, profile: &Profile) -> Result<(ParameterArea, HobArea), PlanError> {
    if firmware.sections().is_none() {
        return Err(lacks(firmware, profile, "SEV metadata", sev::GUID));
    }
    let areas = firmware.igvm().ok_or_else(|| lacks(firmware, profile, "IGVM metadata", igvm::GUID))?;
    let IgvmAreas { parameters: Some(parameters), hobs: Some(hobs) } = areas else {
        return Err(lacks(firmware, profile, "IGVM parameter and HOB areas", igvm::GUID));
    };
    Ok((parameters, hobs))
}

fn hob_area(firmware: &Firmware, profile: &Profile) -> Result<HobArea, PlanError> {
    igvm_areas(firmware, profile).map(|(_, hobs)| hobs)
}

fn parameter_overlay(
    firmware: &Firmware,
    profile: &Profile,
    memory: &MemoryLayout,
    vcpus: u32,
) -> Result<Overlay, PlanError> {
    let (area, _) = igvm_areas(firmware, profile)?;
    let content = uki::parameter_page(&area, memory, vcpus)
        .ok_or_else(|| PlanError::MemoryMapRoom { firmware: firmware.image().to_string() })?;
    Ok(Overlay { gpa: area.gpa, section: SectionKind::SecMem, tag: "igvm parameters", content })
}

/// The HOBs of `data` and of the image to boot, in ascending order.
fn hob_overlay(area: HobArea, data: &[Data], kernel: Option<DataHob>) -> Overlay {
    let mut hobs: Vec<DataHob> = data.iter().map(|data| data.hob).chain(kernel).collect();
    hobs.sort_by_key(DataHob::gpa);
    Overlay { gpa: area.gpa, section: SectionKind::SecMem, tag: "igvm hobs", content: uki::hob_list(&hobs) }
}

/// Checks the invariants of a plan.
fn check(imports: &[PageImport], window: u64, memory: &MemoryLayout) -> Result<(), PlanError> {
    let start = HIGH_BASE.saturating_sub(window);
    for import in imports {
        let PageImport { gpa, len, ref source, tag, .. } = *import;
        let fits = match source {
            Source::None => true,
            Source::Blob { blob, offset, len: used } => {
                offset.checked_add(*used).is_some_and(|end| end <= blob.len())
                    && *used <= len
                    && len - used < PAGE_SIZE
            }
        };
        if !fits || len == 0 || !is_page_multiple(gpa) || !is_page_multiple(len) {
            return Err(PlanError::Malformed { tag, gpa, len });
        }
        let in_window = gpa >= start && len <= window && gpa - start <= window - len;
        if !in_window && !memory.contains(gpa, len) {
            return Err(PlanError::OutsideMemory { tag, gpa, len, low: memory.low });
        }
    }
    let mut sorted: Vec<&PageImport> = imports.iter().collect();
    sorted.sort_by_key(|import| import.gpa);
    for (a, b) in sorted.iter().zip(sorted.iter().skip(1)) {
        // Both ends are inside memory, so the sum does not wrap.
        if a.gpa + a.len > b.gpa {
            return Err(PlanError::Overlap { first: a.tag, second: b.tag, gpa: b.gpa });
        }
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0
//! Checks that a loader can start a unified kernel image.
//!
//! Two programs read an image's headers after cvmm has measured it: the firmware's PE loader, which copies
//! each section to its address, and the stub in the image, which looks for sections by name in what was
//! copied. An image that either of them refuses, or that one of them reads differently from what the file
//! shows, is refused here, with the section and its offset.
//!
//! Invalid for every loader: sections outside the file or the image, inside the headers, misaligned or over
//! each other; an entry point outside all sections; a section that the stub uses and that appears twice in
//! one profile; content without memory; a kernel that the stub cannot start; a command line with text behind
//! a NUL byte, or longer than the kernel reads. Valid, and not supported here: an image whose only kernel is
//! in a profile other than `@0`, because nothing selects another one. Sources: edk2 MdePkg BasePeCoffLib,
//! systemd src/boot/pe.c, the UAPI group's specification of unified kernel images.

use cvmm_kernel_stub::payload::{HEADER_LEN, Header};
use cvmm_kernel_stub::program::{MARK, MARK_AT};
use zerocopy::FromBytes;

use super::error::{KernelProblem, SectionProblem};
use super::format::{self, Format};
use super::pe::{Headers, Part, Section};

/// Sections that the stub looks for by name. All but [`REPEATABLE`] may appear once before the first profile
/// and once in each.
const KNOWN: [&[u8; 8]; 12] = [
    b".linux\0\0",
    b".osrel\0\0",
    b".cmdline",
    b".initrd\0",
    b".ucode\0\0",
    b".splash\0",
    b".hwids\0\0",
    b".uname\0\0",
    b".sbat\0\0\0",
    b".pcrsig\0",
    b".pcrpkey",
    b".profile",
];
/// Sections that the stub looks for and of which it selects one.
const REPEATABLE: [&[u8; 8]; 4] = [b".dtb\0\0\0\0", b".dtbauto", b".efifw\0\0", b".fwauto\0"];
const LINUX: &[u8; 8] = KNOWN[0];
const CMDLINE: &[u8; 8] = KNOWN[2];
const PROFILE: &[u8; 8] = KNOWN[11];

/// Longest command line that is read, in bytes. Linux accepts 2048 bytes on x86.
const MAX_CMDLINE: u64 = 64 << 10;

impl Section {
    /// First address of the section in memory, and first address after it. A loader copies the whole content
    /// of a section whose VirtualSize is zero.
    fn memory(&self) -> (u64, u64) {
        let len = if self.virtual_size == 0 { self.raw_size } else { self.virtual_size };
        // Both are 32-bit numbers in the file.
        (self.address, self.address + len)
    }

    /// The bytes that the stub finds in memory, where they are in the file.
    fn content<'a>(&self, file: &Part<'a>) -> Part<'a> {
        file.inner(self.raw_offset, self.raw_size.min(self.virtual_size))
    }

    /// The name without padding, escaped for printing.
    fn escaped_name(&self) -> String {
        let len = self.name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.name.get(..len).unwrap_or_default().escape_ascii().to_string()
    }

    fn wrong(&self, problem: SectionProblem) -> KernelProblem {
        KernelProblem::Section { section: self.escaped_name(), offset: self.header, problem }
    }
}

/// Checks the unified kernel image `file` with these `headers`. The result is its size in memory.
pub(super) fn check(file: &Part<'_>, headers: &Headers) -> Result<u64, KernelProblem> {
    check_headers(file, headers)?;
    let mut placed: Vec<&Section> = Vec::with_capacity(headers.sections.len());
    for section in &headers.sections {
        check_placement(section, headers)?;
        let (start, end) = section.memory();
        if start != end {
            placed.push(section);
        }
    }
    placed.sort_by_key(|section| section.address);
    for (lower, upper) in placed.iter().zip(placed.iter().skip(1)) {
        if lower.memory().1 > upper.address {
            let problem = SectionProblem::Overlap { other: lower.escaped_name(), address: upper.address };
            return Err(upper.wrong(problem));
        }
    }
    let inside = |section: &&&Section| (section.memory().0..section.memory().1).contains(&headers.entry);
    if placed.iter().find(inside).is_none() {
        // AddressOfEntryPoint is the 17th byte of the optional header.
        let (field, offset) = ("AddressOfEntryPoint", headers.optional + 16);
        let rule = "it must be the address of a byte in a section";
        return Err(KernelProblem::Header { field, offset, value: headers.entry, rule });
    }
    check_profiles(file, &headers.sections, has_own_stub(file)?)?;
    Ok(headers.image_size)
}

fn check_headers(file: &Part<'_>, headers: &Headers) -> Result<(), KernelProblem> {
    let Headers { section_alignment, file_alignment, image_size, headers_size, table_end, optional, .. } =
        *headers;
    let rules = [
        (
            "SectionAlignment",
            32,
            section_alignment,
            section_alignment.is_power_of_two(),
            "it must be a power of two",
        ),
        ("FileAlignment", 36, file_alignment, file_alignment.is_power_of_two(), "it must be a power of two"),
        ("SizeOfHeaders", 60, headers_size, headers_size >= table_end, "it must include the section table"),
        (
            "SizeOfHeaders",
            60,
            headers_size,
            headers_size <= file.len(),
            "it must be at most the file's length",
        ),
        ("SizeOfImage", 56, image_size, image_size > headers_size, "it must be more than SizeOfHeaders"),
    ];
    for (field, at, value, met, rule) in rules {
        if !met {
            return Err(KernelProblem::Header { field, offset: optional + at, value, rule });
        }
    }
    Ok(())
}

fn check_placement(section: &Section, headers: &Headers) -> Result<(), KernelProblem> {
    let Headers { section_alignment, file_alignment, image_size, headers_size, .. } = *headers;
    let (address, end) = section.memory();
    let start = section.raw_offset;
    if section.raw_size != 0 {
        if start < headers_size {
            return Err(section.wrong(SectionProblem::ContentInHeaders { start, headers: headers_size }));
        }
        if !start.is_multiple_of(file_alignment) {
            return Err(section.wrong(SectionProblem::ContentMisaligned { start, alignment: file_alignment }));
        }
    }
    if address == end {
        return Ok(());
    }
    let used = KNOWN.contains(&&section.name) || REPEATABLE.contains(&&section.name);
    if used && section.virtual_size == 0 {
        return Err(section.wrong(SectionProblem::NoMemory { len: section.raw_size }));
    }
    if address < headers_size {
        return Err(section.wrong(SectionProblem::InHeaders { address, headers: headers_size }));
    }
    if !address.is_multiple_of(section_alignment) {
        return Err(section.wrong(SectionProblem::Misaligned { address, alignment: section_alignment }));
    }
    if end > image_size {
        return Err(section.wrong(SectionProblem::OutsideImage { address, end, image: image_size }));
    }
    Ok(())
}

/// The longest command line that a kernel takes, if it says so.
type CmdlineMax = Option<u64>;

/// The sections of one profile, or those before the first profile.
#[derive(Default)]
struct Group<'a> {
    /// Names that have been seen, with the offset of their header.
    seen: Vec<([u8; 8], u64)>,
    kernel: Option<CmdlineMax>,
    cmdline: Option<&'a Section>,
}

/// Whether the image's stub is the one of `cvmm uki build`, which starts unpacked kernels and only those.
fn has_own_stub(file: &Part<'_>) -> Result<bool, KernelProblem> {
    let mut mark = [0; MARK.len()];
    file.read(&mut mark, MARK_AT as u64)?;
    Ok(mark == *MARK)
}

fn check_profiles(file: &Part<'_>, sections: &[Section], own_stub: bool) -> Result<(), KernelProblem> {
    let mut groups = vec![Group::default()];
    for section in sections {
        if section.name == *PROFILE {
            groups.push(Group::default());
            continue;
        }
        // `groups` is never empty.
        let Some(group) = groups.last_mut() else { continue };
        if KNOWN.contains(&&section.name) {
            if let Some((_, first)) = group.seen.iter().find(|(name, _)| *name == section.name) {
                return Err(section.wrong(SectionProblem::Twice { first: *first }));
            }
            group.seen.push((section.name, section.header));
        }
        match &section.name {
            LINUX if section.raw_size != 0 => {
                let content = section.content(file);
                let kernel = if own_stub { unpacked_kernel(&content) } else { kernel(&content) };
                group.kernel =
                    Some(kernel.map_err(|problem| section.wrong(SectionProblem::Kernel(Box::new(problem))))?);
            }
            CMDLINE => group.cmdline = Some(section),
            _ => {}
        }
    }
    let base = groups.first().and_then(|base| base.kernel);
    // Without a selector on its command line the stub takes profile @0, the first after the base.
    if base.or_else(|| groups.get(1).and_then(|first| first.kernel)).is_none() {
        return Err(KernelProblem::NoLinuxSection);
    }
    // The base's command line is for each profile's kernel, a profile's for its own or the base's.
    for group in &groups {
        let Some(section) = group.cmdline else { continue };
        check_cmdline(file, section, group.kernel.or(base).flatten())?;
    }
    Ok(())
}

/// Checks what the stub starts: a kernel with an EFI stub, or another EFI program for x86-64.
fn kernel(file: &Part<'_>) -> Result<CmdlineMax, KernelProblem> {
    match format::recognise(file)? {
        Some(Format::BzImage { cmdline_max, .. }) => Ok(Some(cmdline_max.into())),
        _ => Headers::read(file).map(|_| None),
    }
}

/// Checks the unpacked kernel that the stub of `cvmm uki build` starts.
fn unpacked_kernel(file: &Part<'_>) -> Result<CmdlineMax, KernelProblem> {
    if file.len() < HEADER_LEN as u64 {
        return Err(KernelProblem::Short(file.len()));
    }
    let mut bytes = [0; HEADER_LEN];
    file.read(&mut bytes, 0)?;
    let header = Header::ref_from_bytes(&bytes).map_err(|_| KernelProblem::Short(file.len()))?;
    header.check()?;
    let needed = header.stored.get().saturating_add(HEADER_LEN as u64);
    if needed > file.len() {
        return Err(KernelProblem::Truncated { needed, len: file.len() });
    }
    Ok(Some(header.cmdline_max().into()))
}

fn check_cmdline(file: &Part<'_>, section: &Section, max: CmdlineMax) -> Result<(), KernelProblem> {
    let content = section.content(file);
    let max = max.unwrap_or(MAX_CMDLINE).min(MAX_CMDLINE);
    if content.len() > MAX_CMDLINE {
        return Err(section.wrong(SectionProblem::CmdlineLength { len: content.len(), max }));
    }
    // At most 64 KiB.
    let mut text = vec![0; content.len() as usize];
    content.read(&mut text, 0)?;
    // Builders end the text with a NUL or a line break, or fill the section up with NULs.
    let padding = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let len = text.iter().rposition(|byte| !padding(byte)).map_or(0, |last| last + 1);
    let text = text.get(..len).unwrap_or_default();
    if let Some(at) = text.iter().position(|byte| *byte == 0) {
        return Err(section.wrong(SectionProblem::Nul { offset: section.raw_offset + at as u64 }));
    }
    let len = text.trim_ascii_start().len() as u64;
    if len > max {
        return Err(section.wrong(SectionProblem::CmdlineLength { len, max }));
    }
    Ok(())
}

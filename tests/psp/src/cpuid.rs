// SPDX-License-Identifier: Apache-2.0
//! Validation of CPUID pages.
//!
//! A CPUID page is a table the host proposes; the firmware lets it into the guest only if it promises nothing
//! that the processor does not have. A table with a wrong value is refused with INVALID_PARAM, and the page
//! then holds the corrected table for the host to read. The page is not measured by content, so this check is
//! all the guest has.
//!
//! Checked here, against the processor's own CPUID:
//! - feature words (functions 1, 7, 0Dh, 80000001h, 80000007h, 80000008h, 8000001Fh): bits may be cleared,
//!   not set;
//! - address widths (80000008h EAX): not more than the processor has;
//! - C-bit position (8000001Fh EBX 5:0): exact;
//! - XSAVE areas (0Dh): the sizes that follow from XCR0_IN and XSS_IN, and the exact place of each component;
//! - reserved fields: zero.
//!
//! Real firmware checks more functions, by tables in AMD's processor manuals that are not public as a list
//! (cache topology, 8000001Dh, is known to be one) and more fields of those above. What passes here may be
//! refused there. Bits that belong to the virtual machine and not to the processor (hypervisor present,
//! OSXSAVE, x2APIC, more than one processor) may always be set; `[[cpuid_allow]]` in the configuration adds
//! others, for processors emulated with fewer bits than KVM gives.

use crate::config::{Config, CpuidCheck};
use crate::host::{self, Host, PAGE, le32, le64};
use crate::product::Product;
use crate::status::{Outcome, Status};

/// Entries of a table.
const MAX_ENTRIES: usize = 64;
const HEADER: usize = 16;
const ENTRY: usize = 48;
/// Legacy region and header of an XSAVE area, bytes.
const XSAVE_BASE: u32 = 0x240;
/// 1 ECX: x2APIC, OSXSAVE, hypervisor present.
const VIRTUAL_1_ECX: u32 = 1 << 21 | 1 << 27 | 1 << 31;
/// 1 EDX: HTT, and 80000001h ECX: CmpLegacy. More than one logical processor: every such chip has that, and a
/// virtual machine says of itself. The emulated host's own CPUID may have a single processor.
const VIRTUAL_1_EDX: u32 = 1 << 28;
const VIRTUAL_80000001_ECX: u32 = 1 << 1;

/// Function, inputs and outputs of an entry.
struct Query {
    leaf: u32,
    subleaf: u32,
    xcr0: u64,
    xss: u64,
}

/// CPUID.1.EAX of the processor, or of Milan when the machine gives none.
pub(crate) fn signature(host: &mut dyn Host) -> u32 {
    match host.cpuid(1, 0)[0] {
        0 => Product::Milan.signature(),
        signature => signature,
    }
}

/// Check a table; the corrected one is written to `spa` when it is refused.
pub(crate) fn check(
    host: &mut dyn Host,
    config: &Config,
    spa: u64,
    table: &[u8; PAGE as usize],
) -> Outcome<()> {
    if config.cpuid_check == CpuidCheck::Off {
        return Ok(());
    }
    let count = le32(table, 0) as usize;
    if count > MAX_ENTRIES {
        return Err(Status::INVALID_PARAM);
    }
    let mut fixed = *table;
    fixed[4..HEADER].fill(0);
    for index in 0..count {
        let at = HEADER + index * ENTRY;
        let query = Query {
            leaf: le32(table, at),
            subleaf: le32(table, at + 4),
            xcr0: le64(table, at + 8),
            xss: le64(table, at + 16),
        };
        let proposed = [24, 28, 32, 36].map(|field| le32(table, at + field));
        let allowed = permitted(host, config, &query, proposed);
        for (value, field) in allowed.iter().zip([24, 28, 32, 36]) {
            fixed[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
        }
        fixed[at + 40..at + 48].fill(0);
    }
    if fixed == *table {
        return Ok(());
    }
    host::write(host, spa, &fixed)?;
    Err(Status::INVALID_PARAM)
}

/// The value nearest to the proposed one that may stand in the table.
fn permitted(host: &mut dyn Host, config: &Config, query: &Query, proposed: [u32; 4]) -> [u32; 4] {
    let [eax, ebx, ecx, edx] = proposed;
    let real = host.cpuid(query.leaf, query.subleaf);
    // Bits the processor has, and bits that are allowed without.
    let mut mask = real;
    for allow in config.cpuid_allow.iter().filter(|a| a.leaf == query.leaf && a.subleaf == query.subleaf) {
        for (mask, extra) in mask.iter_mut().zip([allow.eax, allow.ebx, allow.ecx, allow.edx]) {
            *mask |= extra;
        }
    }
    match (query.leaf, query.subleaf) {
        (1, _) => [eax, ebx, ecx & (mask[2] | VIRTUAL_1_ECX), edx & (mask[3] | VIRTUAL_1_EDX)],
        (7, 0) => [eax, ebx & mask[1], ecx & mask[2], edx & mask[3]],
        (7, 1) => [eax & mask[0], ebx & mask[1], ecx & mask[2], edx & mask[3]],
        (0xD, 0) => {
            let size = xsave_size(host, query.xcr0, 0, false);
            [eax & mask[0], size, ecx.min(real[2]), edx & mask[3]]
        }
        (0xD, 1) => {
            let size = xsave_size(host, query.xcr0, query.xss, true);
            [eax & mask[0], size, ecx & mask[2], edx & mask[3]]
        }
        // A component is where the processor puts it, or is left out.
        (0xD, _) if proposed == [0; 4] => proposed,
        (0xD, _) => real,
        (0x8000_0001, _) => [eax, ebx, ecx & (mask[2] | VIRTUAL_80000001_ECX), edx & mask[3]],
        (0x8000_0007, _) => [eax, ebx, ecx, edx & mask[3]],
        (0x8000_0008, _) => [widths(eax, real[0]), ebx & mask[1], ecx, edx],
        (0x8000_001F, _) => [eax & mask[0], ebx & !0x3F | real[1] & 0x3F, ecx, edx],
        _ => proposed,
    }
}

/// Physical, linear and guest physical address widths, each at most what the processor has (0 = not stated).
fn widths(proposed: u32, real: u32) -> u32 {
    [0, 8].iter().fold(proposed & 0xFFFF_0000, |word, shift| {
        let field = |value: u32| value >> shift & 0xFF;
        word | field(proposed).min(field(real)) << shift
    })
}

/// Size of the XSAVE area for the enabled components, standard or compacted form.
fn xsave_size(host: &mut dyn Host, xcr0: u64, xss: u64, compacted: bool) -> u32 {
    let enabled = if compacted { xcr0 | xss } else { xcr0 };
    let mut size = XSAVE_BASE;
    for component in (2..63).filter(|component| enabled >> component & 1 != 0) {
        let [length, offset, flags, _] = host.cpuid(0xD, component);
        if length == 0 {
            continue;
        }
        if compacted {
            let start = if flags & 2 != 0 { size.next_multiple_of(64) } else { size };
            size = start.saturating_add(length);
        } else {
            size = size.max(offset.saturating_add(length));
        }
    }
    size
}

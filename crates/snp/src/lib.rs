// SPDX-License-Identifier: Apache-2.0
//! The data structures of AMD SEV-SNP.
//!
//! Everything here is a layout or a number that is defined elsewhere: the SNP firmware ABI (AMD document
//! 56860), the processor (APM volume 2, document 24593) or the kernel. Layouts are `zerocopy` types without
//! padding, so that a value *is* its bytes, and each has its size and the offsets of its fields asserted at
//! compile time. Nothing here does I/O, talks to a hypervisor or hashes anything.
//!
//! Tables of the ABI document are named by their title, because their numbers change with each revision. The
//! document itself was not at hand: the layouts were cross-checked between the Linux kernel, QEMU,
//! `sev-snp-measure` and the `sev` crate. All integers are little-endian. Values that must stay secret do not
//! show in `Debug` output.

#![forbid(unsafe_code)]

mod layout;

pub mod cpu;
pub mod cpuid;
pub mod digest;
pub mod features;
pub mod id;
pub mod p384;
pub mod page_info;
pub mod platform;
pub mod platform_info;
pub mod policy;
pub mod report;
pub mod secrets;
pub mod status;
pub mod tcb;
pub mod vmsa;

/// Size of a page in bytes; SNP launches a guest page by page.
pub const PAGE_SIZE: usize = 4096;

/// True if an address or length in bytes is a whole number of pages.
#[must_use]
pub const fn is_page_multiple(value: u64) -> bool {
    value.is_multiple_of(PAGE_SIZE as u64)
}

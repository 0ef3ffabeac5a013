// SPDX-License-Identifier: Apache-2.0
//! Kernels as distributions ship them, and unified kernel images that start them unpacked.
//!
//! [`kernel::UnpackedKernel`] is what a kernel's own decompressor would make of a bzImage, or a vmlinux;
//! [`uki::write`] makes an image of it. Files come from a distribution or a build, not from a guest; they are
//! read as if they came from an attacker nevertheless: every offset is checked, and what a file claims to
//! unpack to is bounded. Sources: Linux Documentation/arch/x86/boot.rst, the ELF and PE/COFF specifications,
//! the UAPI group's specification of unified kernel images.

#![forbid(unsafe_code)]

mod compressed;
mod elf;
mod error;
pub mod kernel;
mod pe;
mod relocations;
mod setup;
pub mod uki;

pub use error::{CODES, ImageError, KernelError};

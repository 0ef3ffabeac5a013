// SPDX-License-Identifier: Apache-2.0
//! Kernel files: formats and checks.
//!
//! OVMF starts only EFI programs, so a kernel is one of two things: a **bzImage** with an EFI stub (Linux
//! boot protocol 2.12 or later, which says whether it is a 64-bit kernel), or a **unified kernel image**: an
//! EFI stub that carries kernel, initrd and command line in sections. Both are PE32+ files; only their
//! headers and an image's command line are read here. Truncated files are found by comparing the headers with
//! the length: a kernel that ends early would otherwise start and die somewhere in its decompressor. Images
//! that no loader starts are refused by the rules in `uki`. Sources: Linux Documentation/arch/x86/boot.rst,
//! the PE format specification, the UAPI group's UKI specification.

mod error;
mod format;
mod pe;
mod program;
mod uki;

pub use error::{KernelError, KernelProblem, SectionProblem};
pub use format::Format;
pub use program::{Program, ProgramSection};

use crate::blob::Blob;
use pe::{Headers, Part};

/// A kernel whose headers were checked.
#[derive(Clone, Debug)]
pub struct Kernel {
    blob: Blob,
    format: Format,
    image_size: u64,
}

impl Kernel {
    /// Recognises the format of `blob` and checks its headers.
    pub fn recognise(blob: Blob) -> Result<Self, KernelError> {
        match recognise(&Part::whole(&blob)) {
            Ok((format, image_size)) => Ok(Self { blob, format, image_size }),
            Err(problem) => Err(KernelError { name: blob.to_string(), problem }),
        }
    }

    /// The file.
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of memory that the firmware reserves to load the file.
    pub fn image_size(&self) -> u64 {
        self.image_size
    }

    /// An error unless this is a unified kernel image.
    pub fn require_uki(&self) -> Result<(), KernelError> {
        match self.format {
            Format::Uki => Ok(()),
            Format::BzImage { .. } => {
                Err(KernelError { name: self.blob.to_string(), problem: KernelProblem::NotUki })
            }
        }
    }
}

/// Format and size in memory of a kernel file.
fn recognise(file: &Part<'_>) -> Result<(Format, u64), KernelProblem> {
    let format = format::recognise(file)?;
    let headers = Headers::read(file)?;
    match format {
        Some(format) => Ok((format, headers.image_size)),
        None if !headers.sections.iter().any(|section| section.name == *b".linux\0\0") => {
            Err(KernelProblem::NoLinuxSection)
        }
        None => Ok((Format::Uki, uki::check(file, &headers)?)),
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod uki_tests;

// SPDX-License-Identifier: Apache-2.0
//! What an SNP guest needs of a firmware image.
//!
//! Before its first instruction an SNP guest has no memory but the pages that were launched: the firmware
//! needs its own data pages, the CPUID page and the secrets page, and names them in its SEV metadata. An
//! image without them starts ordinary guests; as an SNP guest it would be measured, launched, and stop with a
//! triple fault.

use super::{Firmware, RESET_BLOCK_GUID, SectionKind, sev};

/// A firmware image that cannot start an SNP guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "firmware {name} cannot start an SNP guest: it has no {problem};  use OVMF.amdsev.fd of Debian's ovmf-amdsev (2026.08 has \
     all that is needed), or isolation = \"none\""
)]
pub struct SnpError {
    /// File name of the image.
    pub name: String,
    /// What is missing.
    pub problem: SnpProblem,
}

/// What a firmware image lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnpProblem {
    /// No SEV metadata.
    #[error("SEV metadata (GUID {})", sev::GUID)]
    Metadata,
    /// Metadata without a section of this kind.
    #[error("\"{0}\" section (kind {kind:#x}) in its SEV metadata (GUID {guid})", kind = *.0 as u32, guid = sev::GUID)]
    Section(SectionKind),
    /// No reset block, which tells where the other vCPUs start.
    #[error(
        "SEV-ES reset block (GUID {RESET_BLOCK_GUID}), which says where the vCPUs after the first one start"
    )]
    ResetBlock,
}

impl SnpProblem {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Metadata => "firmware.sev-metadata",
            Self::Section(_) => "firmware.sev-section",
            Self::ResetBlock => "firmware.reset-block",
        }
    }
}

impl Firmware {
    /// Whether the image has what an SNP guest with `vcpus` virtual CPUs needs.
    pub fn check_snp(&self, vcpus: u32) -> Result<(), SnpError> {
        let lacks = |problem| SnpError { name: self.image().to_string(), problem };
        let sections = self.sections().ok_or_else(|| lacks(SnpProblem::Metadata))?;
        for kind in [SectionKind::SecMem, SectionKind::Secrets, SectionKind::Cpuid] {
            if !sections.iter().any(|section| section.kind == kind && section.len != 0) {
                return Err(lacks(SnpProblem::Section(kind)));
            }
        }
        if vcpus > 1 && self.ap_start().is_none() {
            return Err(lacks(SnpProblem::ResetBlock));
        }
        Ok(())
    }
}

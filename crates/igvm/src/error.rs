// SPDX-License-Identifier: Apache-2.0
//! Errors of IGVM files.

use std::fmt;

use cvmm_launch::blob::ReadError;
use cvmm_launch::id_block::IdError;
use cvmm_launch::plan::PlanError;
use cvmm_launch::registers::RegisterError;

use crate::names::name;

/// An IGVM file that cannot be launched.
#[derive(Debug, thiserror::Error)]
#[error("IGVM file {name}: {}{problem}", place.map(|place| format!("{place}: ")).unwrap_or_default())]
pub struct IgvmError {
    /// File name.
    pub name: String,
    /// The header that is refused, if it is one.
    pub place: Option<Place>,
    /// The reason.
    pub problem: IgvmProblem,
}

/// A variable header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the header, from 0.
    pub index: usize,
    /// Where it starts, in bytes from the start of the file.
    pub offset: u64,
    /// Its type.
    pub kind: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, offset, kind } = self;
        match name(*kind) {
            Some(name) => write!(f, "header {index} ({name}) at offset {offset:#x}"),
            None => write!(f, "header {index} (type {kind:#x}) at offset {offset:#x}"),
        }
    }
}

/// Why an IGVM file cannot be launched.
#[derive(Debug, thiserror::Error)]
pub enum IgvmProblem {
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is not an IGVM file of a known version.
    #[error("{0}")]
    Format(String),
    /// The checksum of the headers is wrong.
    #[error("the checksum of its headers is {found:#010x} instead of {expected:#010x}: the file is damaged")]
    Checksum {
        /// As computed.
        found: u32,
        /// As in the file.
        expected: u32,
    },
    /// It is for other platforms.
    #[error("it has no SEV-SNP platform, only {0}; build it for SEV-SNP")]
    Platform(String),
    /// The SEV-SNP platform has properties that KVM does not offer.
    #[error("{0}")]
    PlatformProperty(String),
    /// The guest wants a second privilege level.
    #[error("highest_vtl is {0}: cvmm runs guests at VMPL 0 only; build the file without a paravisor")]
    Vtl(u8),
    /// A header that cvmm does not implement.
    #[error("cvmm does not implement this header for SEV-SNP")]
    Unsupported,
    /// A field has a value that is not allowed.
    #[error("{0}")]
    Header(String),
    /// A header that may be there once is there again.
    #[error("it is a second {what}; the first is header {first}")]
    Duplicate {
        /// What there are two of.
        what: String,
        /// Number of the first one.
        first: usize,
    },
    /// The policy differs from that of the VM.
    #[error(
        "its guest policy is {found:#x}, but snp.policy is {expected:#x}; set snp.policy = {found:#x} \
         if it is intended"
    )]
    Policy {
        /// In the file.
        found: u64,
        /// Of the VM.
        expected: u64,
    },
    /// Pages are neither RAM nor below 4 GiB.
    #[error(
        "the {len:#x} bytes at {gpa:#x} are not in guest memory: low memory ends at {low:#x}, high memory at \
         {high:#x}; change memory and low_memory"
    )]
    OutsideMemory {
        /// First address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// End of low RAM.
        low: u64,
        /// End of high RAM.
        high: u64,
    },
    /// Two headers have the same page.
    #[error("its page at {gpa:#x} is that of header {other} too")]
    Overlap {
        /// First shared address.
        gpa: u64,
        /// Number of the other header.
        other: usize,
    },
    /// A parameter cannot be passed.
    #[error("{0}")]
    Parameter(String),
    /// A start state cannot be used.
    #[error("{0}")]
    Context(String),
    /// KVM does not reproduce a start state.
    #[error(transparent)]
    Registers(Box<RegisterError>),
    /// The ID block is not valid.
    #[error("its ID block is not valid: {0}")]
    Identity(Box<IdError>),
    /// The plan.
    #[error(transparent)]
    Plan(Box<PlanError>),
}

// Boxed, because they are much longer than the others.
impl From<RegisterError> for IgvmProblem {
    fn from(error: RegisterError) -> Self {
        Self::Registers(Box::new(error))
    }
}

impl From<IdError> for IgvmProblem {
    fn from(error: IdError) -> Self {
        Self::Identity(Box::new(error))
    }
}

impl From<PlanError> for IgvmProblem {
    fn from(error: PlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}

impl IgvmProblem {
    /// The reason's code (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "igvm.read",
            Self::Format(_) | Self::Checksum { .. } | Self::Header(_) => "igvm.format",
            Self::Platform(_) | Self::PlatformProperty(_) => "igvm.platform",
            Self::Vtl(_) => "igvm.vtl",
            Self::Unsupported => "igvm.unsupported",
            Self::Duplicate { .. } => "igvm.duplicate",
            Self::Policy { .. } => "igvm.policy",
            Self::OutsideMemory { .. } => "igvm.memory",
            Self::Overlap { .. } => "igvm.overlap",
            Self::Parameter(_) => "igvm.parameter",
            Self::Context(_) | Self::Registers(_) => "igvm.context",
            Self::Identity(_) => "igvm.id-block",
            Self::Plan(error) => error.code(),
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Why memory of an SNP guest could not be set up or converted.

use thiserror::Error;

use crate::convert::PageState;
use crate::states::{NotMemory, RunError};

/// Why memory could not be set up.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The regions themselves.
    #[error(transparent)]
    Run(#[from] RunError),
    /// KVM_CREATE_GUEST_MEMFD.
    #[error("kvm refused {len:#x} bytes of private memory for {name}: {source}")]
    Memfd {
        /// Which region.
        name: &'static str,
        /// Its length.
        len: u64,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM_SET_USER_MEMORY_REGION2.
    #[error("kvm refused the memory slot of {name} at {gpa:#x} ({len:#x} bytes): {source}")]
    Slot {
        /// Which region.
        name: &'static str,
        /// Start.
        gpa: u64,
        /// Length.
        len: u64,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM_SET_MEMORY_ATTRIBUTES.
    #[error("kvm refused to make {len:#x} bytes at {gpa:#x} {to}: {source}", to = .to.name())]
    Attributes {
        /// Start.
        gpa: u64,
        /// Length.
        len: u64,
        /// Wanted state.
        to: PageState,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// Why a request of the guest was not carried out.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// Only memory can be private, and only memory can be touched in the wrong state.
    #[error("the guest uses an address that is not memory: {0}")]
    NotMemory(#[from] NotMemory),
    /// The host did not do it.
    #[error(transparent)]
    Host(#[from] MemoryError),
}

// SPDX-License-Identifier: Apache-2.0
//! Why a launch ended.

use cvmm_launch::blob::ReadError;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::status::SevError;
use thiserror::Error;

use crate::cpuid_page::Difference;
use crate::sys::SevCallError;

/// LAUNCH_START failed.
#[derive(Debug, Error)]
pub enum StartError {
    /// The policy asks for something that this kernel cannot give.
    #[error(
        "guest policy {policy}: this host's kernel and firmware do not support bits {unsupported:#x}; take them out of \
         snp.policy"
    )]
    PolicyBits {
        /// The policy.
        policy: GuestPolicy,
        /// Bits that are the problem.
        unsupported: u64,
    },
    /// The platform does not satisfy the policy.
    #[error("the security processor refused the guest policy {policy}: {source}")]
    Policy {
        /// The policy.
        policy: GuestPolicy,
        /// What was answered.
        #[source]
        source: SevCallError,
    },
    /// The kernel has no guest context or ASID to give.
    #[error("SNP_LAUNCH_START failed: {0}")]
    Command(#[source] SevCallError),
}

/// A page did not get into the guest.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// The file.
    #[error("cannot launch the {tag} pages: {source}")]
    Read {
        /// What the pages are.
        tag: &'static str,
        /// Why, with file and offset.
        #[source]
        source: ReadError,
    },
    /// The range is not private memory: found before the kernel was asked.
    #[error("cannot launch the {tag} pages: {gpa:#x} and {len:#x} bytes from there are not private memory")]
    NotPrivate {
        /// What the pages are.
        tag: &'static str,
        /// First address.
        gpa: u64,
        /// Bytes.
        len: u64,
    },
    /// The firmware refused a page.
    #[error("the security processor refused the {tag} page at {gpa:#x} ({kind}): {status}")]
    Firmware {
        /// What the page is.
        tag: &'static str,
        /// Its address.
        gpa: u64,
        /// Its kind.
        kind: &'static str,
        /// Why.
        status: SevError,
    },
    /// The kernel refused before it asked the firmware.
    #[error(
        "the kernel did not launch the {tag} page at {gpa:#x} ({kind}): errno {errno}; it says no more than that (the page may \
         be in the guest already, or the host is out of memory)"
    )]
    Kernel {
        /// What the page is.
        tag: &'static str,
        /// Its address.
        gpa: u64,
        /// Its kind.
        kind: &'static str,
        /// The kernel's answer.
        errno: i32,
    },
    /// The kernel reports success without progress.
    #[error("the kernel made no progress with the {tag} page at {gpa:#x}")]
    Stuck {
        /// What the page is.
        tag: &'static str,
        /// Its address.
        gpa: u64,
    },
    /// The CPUID page has values the processor does not allow.
    #[error(transparent)]
    Cpuid(#[from] CpuidRefused),
}

/// The firmware wants other CPUID values, and they may not be taken over.
#[derive(Debug, Error)]
#[error(
    "the security processor refused the cpuid page at {gpa:#x}: {}", list(.differences)
)]
pub struct CpuidRefused {
    /// Address of the page.
    pub gpa: u64,
    /// What the firmware would have another way; empty if it did not say.
    pub differences: Vec<Difference>,
}

fn list(differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "it did not say which value is wrong".to_owned();
    }
    let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// LAUNCH_FINISH failed. The guest cannot be tried again: its registers are sealed already.
#[derive(Debug, Error)]
pub enum FinishError {
    /// Something else was launched than the ID block says.
    #[error(
        "the security processor measured another guest than the id block expects: a file, the processor model or the kernel's \
         vcpu state differs from what the launch digest was computed from ({0})"
    )]
    Measurement(#[source] SevCallError),
    /// A signature of the ID block or of its key is wrong.
    #[error("the id block is not signed by its key, or the key not by the author's: {0}")]
    Signature(#[source] SevCallError),
    /// The ID block's policy is not that of the launch.
    #[error("the id block was made for another guest policy than {policy}: {source}")]
    Policy {
        /// The policy of the launch.
        policy: GuestPolicy,
        /// What was answered.
        #[source]
        source: SevCallError,
    },
    /// Anything else.
    #[error("SNP_LAUNCH_FINISH failed: {0}")]
    Command(#[source] SevCallError),
}

/// The ticket belongs to a different launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the gate's ticket belongs to a different launch: its digest or HOST_DATA does not match this guest")]
pub struct AdmitError;

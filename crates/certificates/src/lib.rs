// SPDX-License-Identifier: Apache-2.0
//! Certificates for a guest that asks for its report with them.
//!
//! A guest's extended request brings the certificate chain of its report from the host, so that it can be
//! verified without AMD's key server. Kernels that know KVM_SEV_SNP_ENABLE_REQ_CERTS (not Linux 6.12) leave
//! with exit reason 43 for them; the certificates come from a folder (`store`) and go to the guest as a table
//! (`table`). Nothing depends on their origin: a verifier of the report verifies the chain too.
//!
//! Which certificates are right depends on the platform's reported TCB, which a firmware update changes while
//! guests run. Asking the security processor and reading files is the work of a thread (`worker`); a vCPU
//! takes what that thread found, and waits for it for a limited time.

#![deny(clippy::disallowed_macros)]
#![forbid(unsafe_code)]

mod store;
mod table;
mod worker;

use std::io;
use std::path::PathBuf;

use cvmm_devices::memory::DeviceMemory;
use cvmm_kvm::vcpu::{CertificateAnswer, CertificateSource};
use cvmm_sev_host::SevHostError;
use cvmm_snp::cpu::CpuSignature;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

pub use store::StoreError;
use worker::{Lookup, Platform, Worker};

const PAGE: u64 = 4096;

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The security processor.
    #[error("cannot read TCB and chip identifier from the security processor: {0}")]
    Platform(#[from] SevHostError),
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Serves one VM.
#[derive(Debug)]
pub struct Certificates {
    worker: Worker,
    memory: DeviceMemory,
}

impl Certificates {
    /// From the folder `root`, for guests of a processor with this signature, into the shared view of their
    /// memory. Starts the thread that fetches them.
    ///
    /// # Errors
    /// The host does not start a thread.
    pub fn new(root: PathBuf, signature: CpuSignature, memory: DeviceMemory) -> io::Result<Self> {
        let mut platform = Platform::new(root, signature);
        Ok(Self { worker: Worker::start(move || platform.table())?, memory })
    }
}

impl CertificateSource for Certificates {
    /// Waits for the worker for `worker::PATIENCE` at most.
    fn serve(&self, gpa: u64, pages: u64) -> CertificateAnswer {
        match self.worker.find() {
            Lookup::Table(table) => put(&self.memory, &table, gpa, pages),
            Lookup::Nothing => CertificateAnswer::Failed,
            Lookup::NotYet => CertificateAnswer::Busy,
        }
    }
}

fn put(memory: &DeviceMemory, table: &[u8], gpa: u64, pages: u64) -> CertificateAnswer {
    let needed = (table.len() as u64).div_ceil(PAGE);
    if pages < needed {
        return CertificateAnswer::TooSmall(needed);
    }
    // The guest chose the address: it may be private, or no memory.
    match memory.write_slice(table, GuestAddress(gpa)) {
        Ok(()) => CertificateAnswer::Done,
        Err(error) => {
            cvmm_log_limit::warn!(gpa, %error, "the guest's buffer for certificates cannot be written");
            CertificateAnswer::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cvmm_log_limit::testing::Lines;
    use vm_memory::GuestMemoryMmap;

    use super::*;

    #[test]
    fn a_buffer_is_filled_or_refused() {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let memory = DeviceMemory::new(Arc::new(ram));
        let table = vec![7; 5000];
        assert_eq!(put(&memory, &table, 0x1000, 1), CertificateAnswer::TooSmall(2));
        assert_eq!(put(&memory, &table, 0x1000, 2), CertificateAnswer::Done);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1000 + 4999)).unwrap(), 7);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1000 + 5000)).unwrap(), 0);
        for gpa in [0x3000, 0x4000, u64::MAX - 100] {
            assert_eq!(put(&memory, &table, gpa, u64::MAX), CertificateAnswer::Failed, "{gpa:#x}");
        }
        let codes = [
            CertificateAnswer::Done,
            CertificateAnswer::TooSmall(1),
            CertificateAnswer::Failed,
            CertificateAnswer::Busy,
        ]
        .map(CertificateAnswer::code);
        assert_eq!(codes, [0, 28, 5, 11]);
    }

    #[test]
    fn requests_without_end_are_a_few_lines() {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let memory = DeviceMemory::new(Arc::new(ram));
        let lines = Lines::of(|| {
            for request in 0..10_000 {
                assert_eq!(put(&memory, &[7; 100], 0x4000 + request, 1), CertificateAnswer::Failed);
            }
        });
        assert!(lines.len() <= cvmm_log_limit::BURST as usize, "{} lines", lines.len());
    }
}

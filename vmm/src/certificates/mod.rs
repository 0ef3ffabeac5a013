// SPDX-License-Identifier: Apache-2.0
//! Certificates for a guest that asks for its report with them.
//!
//! A guest's extended request brings the certificate chain of its report from the host, so that it can be verified without AMD's
//! key server. Kernels that know KVM_SEV_SNP_ENABLE_REQ_CERTS (not Linux 6.12) leave with exit reason 43 for them; the
//! certificates come from a folder ([`store`]) and go to the guest as a table ([`table`]). Nothing is believed because of them:
//! whoever verifies the report verifies the chain too.

pub mod store;
pub mod table;

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cvmm_devices::memory::DeviceMemory;
use cvmm_snp::cpu::CpuSignature;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use crate::doctor::sev;
use store::{Store, StoreError};

const PAGE: u64 = 4096;

/// Why there are no certificates.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The security processor.
    #[error("cannot ask /dev/sev: {0}")]
    Platform(#[source] io::Error),
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the guest is answered: the `ret` of exit reason 43 (Linux Documentation/virt/kvm/api.rst, KVM_EXIT_SNP_REQ_CERTS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The table is in the guest's buffer.
    Done,
    /// The buffer is too small; this many pages are needed.
    TooSmall(u64),
    /// It could not be done.
    Failed,
}

impl Answer {
    /// The number for the kernel.
    pub fn code(self) -> u64 {
        let errno = match self {
            Self::Done => 0,
            Self::TooSmall(_) => libc::ENOSPC,
            Self::Failed => libc::EIO,
        };
        // Error numbers are positive.
        errno.unsigned_abs().into()
    }
}

/// Serves one VM.
#[derive(Debug)]
pub struct Certificates {
    store: Store,
    memory: DeviceMemory,
    /// The table for the TCB it was made for: firmware can be updated while guests run.
    made: Mutex<Option<([u8; 8], Vec<u8>)>>,
}

impl Certificates {
    /// From the folder `root`, for guests of a processor with this signature, into the shared view of their memory.
    pub fn new(root: PathBuf, signature: CpuSignature, memory: DeviceMemory) -> Self {
        Self { store: Store::new(root, signature), memory, made: Mutex::new(None) }
    }

    /// Answers one request: `pages` pages at `gpa` are the guest's buffer.
    pub fn serve(&self, gpa: u64, pages: u64) -> Answer {
        match self.table() {
            Ok(table) => put(&self.memory, &table, gpa, pages),
            Err(error) => {
                tracing::warn!(%error, "no certificates for the guest");
                Answer::Failed
            }
        }
    }

    fn table(&self) -> Result<Vec<u8>, CertificateError> {
        let device =
            std::fs::File::open(cvmm_kvm_snp::probe::SEV_PATH).map_err(CertificateError::Platform)?;
        let platform = sev::status(&device).map_err(CertificateError::Platform)?;
        let tcb = platform.reported_tcb;
        // What a panic elsewhere left is a whole table or none.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = made.as_ref().filter(|(of, _)| *of == tcb.0) {
            return Ok(table.clone());
        }
        let chip = sev::chip_id(&device).map_err(CertificateError::Platform)?;
        let table = table::build(&self.store.chain(&chip, tcb, platform.vlek)?);
        *made = Some((tcb.0, table.clone()));
        Ok(table)
    }
}

fn put(memory: &DeviceMemory, table: &[u8], gpa: u64, pages: u64) -> Answer {
    let needed = (table.len() as u64).div_ceil(PAGE);
    if pages < needed {
        return Answer::TooSmall(needed);
    }
    // The guest chose the address: it may be private, or no memory.
    match memory.write_slice(table, GuestAddress(gpa)) {
        Ok(()) => Answer::Done,
        Err(error) => {
            tracing::warn!(gpa, %error, "the guest's buffer for certificates cannot be written");
            Answer::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vm_memory::GuestMemoryMmap;

    use super::*;

    #[test]
    fn a_buffer_is_filled_or_refused() {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let memory = DeviceMemory::new(Arc::new(ram));
        let table = vec![7; 5000];
        assert_eq!(put(&memory, &table, 0x1000, 1), Answer::TooSmall(2));
        assert_eq!(put(&memory, &table, 0x1000, 2), Answer::Done);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1000 + 4999)).unwrap(), 7);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1000 + 5000)).unwrap(), 0);
        for gpa in [0x3000, 0x4000, u64::MAX - 100] {
            assert_eq!(put(&memory, &table, gpa, u64::MAX), Answer::Failed, "{gpa:#x}");
        }
        assert_eq!((Answer::Done.code(), Answer::TooSmall(1).code(), Answer::Failed.code()), (0, 28, 5));
    }
}

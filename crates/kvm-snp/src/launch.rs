// SPDX-License-Identifier: Apache-2.0
//! The launch, as types.
//!
//! Each step consumes the one before. What a failed step leaves behind is dropped with it, so that no
//! half-launched guest can be run or tried again. The kernel can stop in the middle of an update and says
//! little about what it did not like; this module loops where it must, and checks beforehand what the kernel
//! would only answer with EIO.

mod error;

use std::sync::Arc;

use cvmm_gate_protocol::ticket::VerifiedTicket;
use cvmm_launch::id_block::Identity;
use cvmm_launch::plan::{LaunchPlan, PageImport, PageKind, Source};
use cvmm_snp::PAGE_SIZE;
use cvmm_snp::cpuid::CpuidPage;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::status::SevError;
use kvm_bindings::{kvm_sev_snp_launch_finish, kvm_sev_snp_launch_start, kvm_sev_snp_launch_update};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

pub use error::{AdmitError, CpuidRefused, FinishError, StartError, UpdateError};

use crate::cpuid_page::{self, Difference, Tolerance};
use crate::memory::PrivateMemory;
use crate::sys::{self, SevCallError};
use crate::vm::SnpVm;

/// Bytes of a report.
pub const REPORT_LEN: usize = size_of::<cvmm_snp::report::Report>();
/// Pages handed to the kernel in one call: enough that calls do not show beside the firmware's work for each
/// page.
const BATCH: usize = 256;

/// How often an update is retried that the kernel left for a reason other than the page (see [`may_go_on`]).
const MAX_RETRIES: u32 = 16;

/// Memory the kernel copies from, aligned as it wants it. KVM_SEV_SNP_LAUNCH_UPDATE never takes guest RAM for
/// its source.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct StagingPage([u8; PAGE_SIZE]);

/// Parameters of LAUNCH_FINISH.
#[derive(Clone, Debug)]
pub struct FinishOptions {
    /// Expected digest and policy, signed. The security processor refuses any other guest.
    pub identity: Identity,
    /// In every report of the guest.
    pub host_data: [u8; 32],
    /// Reports are only signed with a VLEK.
    pub vcek_disabled: bool,
}

/// A guest whose context exists in the security processor, and whose memory is still empty.
#[derive(Debug)]
pub struct Started {
    vm: SnpVm,
    memory: Arc<PrivateMemory>,
    policy: GuestPolicy,
}

/// A guest with all pages of its plan in. Its vCPUs must exist before it is finished.
#[derive(Debug)]
pub struct Measured {
    vm: SnpVm,
    memory: Arc<PrivateMemory>,
    policy: GuestPolicy,
    accepted: Vec<Difference>,
    first_stage: bool,
}

/// A guest the security processor has found to be the expected one.
#[derive(Debug)]
pub struct Finished {
    vm: SnpVm,
    memory: Arc<PrivateMemory>,
    digest: Digest,
    host_data: [u8; 32],
    first_stage: bool,
}

/// A finished guest whose bootstrap processor may run its first stage, which is measured and waits by itself;
/// nothing else of it may run.
#[derive(Debug)]
pub struct Staged(Finished);

/// A guest that may run. Only an admission makes one (E0451):
///
/// ```compile_fail,E0451
/// # use cvmm_kvm_snp::launch::Admitted;
/// fn forge() -> Admitted {
///     Admitted { _vm: todo!(), memory: todo!() }
/// }
/// ```
#[derive(Debug)]
pub struct Admitted {
    _vm: SnpVm,
    memory: Arc<PrivateMemory>,
}

impl SnpVm {
    /// LAUNCH_START: the security processor makes a context with `policy` and binds it to the VM's ASID.
    pub fn start(self, memory: Arc<PrivateMemory>, policy: GuestPolicy) -> Result<Started, StartError> {
        if let Some(bits) = self.policy_bits() {
            let unsupported = policy.0 & !bits;
            if unsupported != 0 {
                return Err(StartError::PolicyBits { policy, unsupported });
            }
        }
        let mut start = kvm_sev_snp_launch_start { policy: policy.0, ..Default::default() };
        self.command(sys::SNP_LAUNCH_START, &mut start).map_err(|source| match source.firmware {
            Some(SevError::PolicyFailure) => StartError::Policy { policy, source },
            // Kernels that do not tell their policy bits refuse unknown ones so.
            None if source.errno == libc::EINVAL => StartError::Policy { policy, source },
            _ => StartError::Command(source),
        })?;
        Ok(Started { vm: self, memory, policy })
    }
}

impl Started {
    /// LAUNCH_UPDATE for every page of `plan`, in its order. `cpuid` becomes the plan's CPUID page.
    pub fn measure(
        self,
        plan: &LaunchPlan,
        cpuid: &CpuidPage,
        tolerance: Tolerance,
    ) -> Result<Measured, UpdateError> {
        let mut staging = vec![StagingPage([0; PAGE_SIZE]); BATCH];
        let mut accepted = Vec::new();
        for import in plan.imports() {
            let (gpa, len, tag) = (import.gpa, import.len, import.tag);
            if !self.memory.is_private(gpa, len) {
                return Err(UpdateError::NotPrivate { tag, gpa, len });
            }
            match import.kind {
                PageKind::Cpuid => accepted = self.cpuid_page(import, cpuid, tolerance, &mut staging)?,
                _ => self.pages(import, &mut staging)?,
            }
        }
        let first_stage = plan.has_first_stage();
        Ok(Measured { vm: self.vm, memory: self.memory, policy: self.policy, accepted, first_stage })
    }

    /// All pages of an import.
    fn pages(&self, import: &PageImport, staging: &mut [StagingPage]) -> Result<(), UpdateError> {
        let batch = (staging.len() * PAGE_SIZE) as u64;
        let mut at = 0;
        while at < import.len {
            let len = (import.len - at).min(batch);
            // At most a batch, so the cast keeps the value.
            let bytes = staging.as_mut_bytes().get_mut(..len as usize).unwrap_or_default();
            fill(import, at, bytes)?;
            self.update(import, at, len, staging)?;
            at += len;
        }
        Ok(())
    }

    /// Hands `len` bytes of staging to the kernel as the pages of `import` from `at` on.
    fn update(
        &self,
        import: &PageImport,
        at: u64,
        len: u64,
        staging: &mut [StagingPage],
    ) -> Result<(), UpdateError> {
        let PageImport { gpa, kind, tag, .. } = import;
        let mut update = kvm_sev_snp_launch_update {
            gfn_start: (gpa + at) / PAGE_SIZE as u64,
            // Also for pages without content: Linux 6.12 answers a missing source with a warning and EIO.
            uaddr: staging.as_mut_ptr() as u64,
            len,
            type_: *kind as u8,
            ..Default::default()
        };
        let mut retries = 0;
        // The kernel advances the fields as far as it got.
        while update.len != 0 {
            let left = update.len;
            let result = self.vm.command(sys::SNP_LAUNCH_UPDATE, &mut update);
            let gpa = update.gfn_start.saturating_mul(PAGE_SIZE as u64);
            let kind = kind.name();
            match result {
                Ok(()) if update.len < left => retries = 0,
                Ok(()) => return Err(UpdateError::Stuck { tag, gpa }),
                Err(error) if may_go_on(error) && retries < MAX_RETRIES => retries += 1,
                Err(error) => {
                    return Err(match error.firmware {
                        Some(status) => UpdateError::Firmware { tag, gpa, kind, status },
                        None => UpdateError::Kernel { tag, gpa, kind, errno: error.errno },
                    });
                }
            }
        }
        Ok(())
    }

    /// The CPUID page; returns the corrections that were taken over.
    fn cpuid_page(
        &self,
        import: &PageImport,
        cpuid: &CpuidPage,
        tolerance: Tolerance,
        staging: &mut [StagingPage],
    ) -> Result<Vec<Difference>, UpdateError> {
        let gpa = import.gpa;
        let Some(page) = staging.first_mut() else {
            return Err(CpuidRefused { gpa, differences: vec![] }.into());
        };
        page.0.copy_from_slice(cpuid.as_bytes());
        let refused = match self.update(import, 0, PAGE_SIZE as u64, staging) {
            Err(UpdateError::Firmware { status: SevError::InvalidParam, .. }) => staging,
            other => return other.map(|()| Vec::new()),
        };
        // The kernel has copied the firmware's version over ours.
        let corrected = refused
            .first()
            .and_then(|page| CpuidPage::read_from_bytes(&page.0).ok())
            .unwrap_or_else(CpuidPage::new_zeroed);
        let differences = cpuid_page::differences(cpuid, &corrected);
        if differences.is_empty() || !differences.iter().all(|difference| tolerance.allows(difference)) {
            return Err(CpuidRefused { gpa, differences }.into());
        }
        for difference in &differences {
            cvmm_log_limit::warn!(%difference, "the security processor's cpuid value is used");
        }
        self.update(import, 0, PAGE_SIZE as u64, refused)?;
        Ok(differences)
    }
}

/// Whether an update failed in a way that the next try may not. The kernel leaves it when the thread has a
/// signal or other work pending, and Linux 6.12 answers EIO then as for everything else. A reason that lies
/// in the page itself is still there the next time.
fn may_go_on(error: SevCallError) -> bool {
    error.firmware.is_none() && matches!(error.errno, libc::EIO | libc::EINTR | libc::EAGAIN)
}

/// The content of `import` from `at` on; zero behind its end.
fn fill(import: &PageImport, at: u64, bytes: &mut [u8]) -> Result<(), UpdateError> {
    let Source::Blob { blob, offset, len } = &import.source else {
        bytes.fill(0);
        return Ok(());
    };
    // A batch is shorter than usize on every host this runs on.
    let have = len.saturating_sub(at).min(bytes.len() as u64) as usize;
    let (content, rest) = bytes.split_at_mut(have);
    rest.fill(0);
    blob.read(content, offset + at).map_err(|source| UpdateError::Read { tag: import.tag, source })
}

impl Measured {
    /// Corrections of the CPUID page that were taken over.
    pub fn accepted_corrections(&self) -> &[Difference] {
        &self.accepted
    }

    /// LAUNCH_FINISH: the vCPUs are measured and sealed, then the security processor compares digest and
    /// policy with the ID block.
    pub fn finish(self, options: &FinishOptions) -> Result<Finished, FinishError> {
        let FinishOptions { identity, host_data, vcek_disabled } = options;
        let (id_block, id_auth) = (identity.block(), identity.auth());
        let mut finish = kvm_sev_snp_launch_finish {
            id_block_uaddr: std::ptr::from_ref(id_block) as u64,
            id_auth_uaddr: std::ptr::from_ref(id_auth) as u64,
            id_block_en: 1,
            auth_key_en: u8::from(id_auth.author_key_algo.get() != 0),
            vcek_disabled: u8::from(*vcek_disabled),
            host_data: *host_data,
            ..Default::default()
        };
        let policy = self.policy;
        self.vm.command(sys::SNP_LAUNCH_FINISH, &mut finish).map_err(|source| match source.firmware {
            Some(SevError::BadMeasurement) => FinishError::Measurement(source),
            Some(SevError::BadSignature) => FinishError::Signature(source),
            Some(SevError::PolicyFailure) => FinishError::Policy { policy, source },
            _ => FinishError::Command(source),
        })?;
        Ok(Finished {
            vm: self.vm,
            memory: self.memory,
            // What the security processor has just compared with its own.
            digest: id_block.launch_digest,
            host_data: *host_data,
            first_stage: self.first_stage,
        })
    }
}

impl Finished {
    /// The launch digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// HOST_DATA of the guest's reports.
    pub fn host_data(&self) -> &[u8; 32] {
        &self.host_data
    }

    /// A report of the guest that the host asks for; `None` if this kernel cannot ask. It proves nothing to
    /// anyone who does not trust the host.
    pub fn host_report(&self) -> Result<Option<[u8; REPORT_LEN]>, SevCallError> {
        // MSG_REPORT_RSP: status, length, reserved, then the report (firmware ABI, "MSG_REPORT_RSP").
        const HEADER: usize = 0x20;
        let mut response = [0_u8; HEADER + REPORT_LEN];
        let mut request = sys::HostReportRequest {
            address: response.as_mut_ptr() as u64,
            len: response.len() as u64,
            ..Default::default()
        };
        match self.vm.command(sys::SNP_HV_REPORT_REQ, &mut request) {
            Ok(()) => Ok(response.last_chunk().copied()),
            Err(SevCallError { errno: libc::EINVAL | libc::ENOTTY, firmware: None }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets it run because the gate has admitted this guest: one with this digest and this HOST_DATA, which
    /// no other launch has.
    ///
    /// Not without a ticket (E0061):
    ///
    /// ```compile_fail,E0061
    /// # use cvmm_kvm_snp::launch::{AdmitError, Admitted, Finished};
    /// fn skip_the_gate(finished: Finished) -> Result<Admitted, AdmitError> {
    ///     finished.admit()
    /// }
    /// ```
    ///
    /// Not before LAUNCH_FINISH (E0599), and not twice (E0382):
    ///
    /// ```compile_fail,E0599
    /// # use cvmm_gate_protocol::ticket::VerifiedTicket;
    /// # use cvmm_kvm_snp::launch::{AdmitError, Admitted, Measured};
    /// fn skip_the_firmware(measured: Measured, ticket: VerifiedTicket) -> Result<Admitted, AdmitError> {
    ///     measured.admit(ticket)
    /// }
    /// ```
    ///
    /// ```compile_fail,E0382
    /// # use cvmm_gate_protocol::ticket::VerifiedTicket;
    /// # use cvmm_kvm_snp::launch::Finished;
    /// fn two_guests(one: Finished, other: Finished, ticket: VerifiedTicket) {
    ///     let _ = (one.admit(ticket), other.admit(ticket));
    /// }
    /// ```
    ///
    /// The same function with its ticket:
    ///
    /// ```
    /// # use cvmm_gate_protocol::ticket::VerifiedTicket;
    /// # use cvmm_kvm_snp::launch::{AdmitError, Admitted, Finished};
    /// fn with_a_ticket(finished: Finished, ticket: VerifiedTicket) -> Result<Admitted, AdmitError> {
    ///     finished.admit(ticket)
    /// }
    /// ```
    pub fn admit(self, ticket: VerifiedTicket) -> Result<Admitted, AdmitError> {
        let admitted = ticket.launch_digest() == self.digest && *ticket.host_data() == self.host_data;
        // By value: a ticket admits once.
        drop(ticket);
        if !admitted {
            return Err(AdmitError);
        }
        Ok(Admitted { _vm: self.vm, memory: self.memory })
    }

    /// Lets it run because the operator said so, without any evidence.
    pub fn admit_without_gate(self) -> Admitted {
        Admitted { _vm: self.vm, memory: self.memory }
    }

    /// Lets its first stage run, if it was launched with one. Otherwise it comes back as it was.
    pub fn first_stage(self) -> Result<Staged, Self> {
        if self.first_stage { Ok(Staged(self)) } else { Err(self) }
    }
}

impl Staged {
    /// For the conversions that the stage asks for.
    pub fn memory(&self) -> &Arc<PrivateMemory> {
        &self.0.memory
    }

    /// The stage is done: what comes next needs an admission like any other guest.
    pub fn done(self) -> Finished {
        self.0
    }
}

impl Admitted {
    /// For the conversions the running guest asks for.
    pub fn memory(&self) -> &Arc<PrivateMemory> {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_firmware_did_not_refuse_is_tried_again() {
        let error = |errno, firmware| SevCallError { errno, firmware };
        // kvm_gmem_populate ended by EINTR, as Linux 6.12 tells it and as it should.
        assert!(may_go_on(error(libc::EIO, None)) && may_go_on(error(libc::EINTR, None)));
        assert!(!may_go_on(error(libc::EIO, Some(SevError::InvalidParam))));
        assert!(!may_go_on(error(libc::EINVAL, None)) && !may_go_on(error(libc::EFAULT, None)));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! A vCPU: its state at start, and the loop that runs it and hands its accesses to the machine.

#![expect(unsafe_code, reason = "reads the I/O description and data of an exit from the shared kvm_run page")]

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};

use cvmm_kvm_snp::convert::Request as PageRequest;
use cvmm_kvm_snp::launch::{Admitted, Staged};
use cvmm_kvm_snp::memory::PrivateMemory;
use cvmm_launch::plan::VcpuStart;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use thiserror::Error;

use crate::coalesced::CoalescedWrites;
use crate::cpuid::{CpuidBase, CpuidError};
use crate::exits::ExitCounters;
use crate::kick::Kicker;
use crate::reset;

/// Why a vCPU could not be prepared.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// KVM_CREATE_VCPU failed.
    #[error("cannot create vcpu {id}: {source}")]
    Create {
        /// APIC id.
        id: u32,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Its CPUID table is unusable.
    #[error("cpuid of vcpu {id}: {source}")]
    Cpuid {
        /// APIC id.
        id: u32,
        /// What is wrong with it.
        #[source]
        source: CpuidError,
    },
    /// KVM refused its initial state.
    #[error("cannot set {what} of vcpu {id}: {source}")]
    State {
        /// APIC id.
        id: u32,
        /// Which part of the state.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The host does not install the handler for kicks.
    #[error("cannot install the signal handler for vcpu threads: {0}")]
    Signal(#[source] io::Error),
}

/// Why a vCPU cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuEnd {
    /// It shut down by a triple fault.
    TripleFault,
    /// KVM failed, with what it said.
    InternalError(String),
    /// An SNP guest asked to be terminated (GHCB protocol).
    Terminated {
        /// The set of reason codes: 0 is the protocol's, 1 Linux's, others belong to the firmware or the
        /// guest.
        set: u8,
        /// Reason code of that set.
        reason: u8,
    },
    /// An SNP guest used its memory in a way that cannot be served.
    MemoryViolation(String),
}

/// Answers a vCPU's port and MMIO accesses. Called on vCPU threads, so it must not block.
pub trait AccessHandler: Send + Sync {
    /// Fills `data` (1, 2 or 4 bytes) from `port`.
    fn port_read(&self, port: u16, data: &mut [u8]);
    /// Takes `data` for `port`.
    fn port_write(&self, port: u16, data: &[u8]);
    /// A string instruction: fills `data` by reads of `width` bytes each.
    fn port_read_string(&self, port: u16, width: usize, data: &mut [u8]);
    /// A string instruction: takes `data` by writes of `width` bytes each.
    fn port_write_string(&self, port: u16, width: usize, data: &[u8]);
    /// Fills `data` (1 to 8 bytes) from `gpa`.
    fn mmio_read(&self, gpa: u64, data: &mut [u8]);
    /// Takes `data` for `gpa`.
    fn mmio_write(&self, gpa: u64, data: &[u8]);
}

/// The answer to a request for certificates: the `ret` of exit reason 43 (Linux
/// Documentation/virt/kvm/api.rst, KVM_EXIT_SNP_REQ_CERTS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateAnswer {
    /// The table is in the guest's buffer.
    Done,
    /// The buffer is too small; this many pages are needed.
    TooSmall(u64),
    /// The certificates are being fetched: the guest is told to ask again (SNP_GUEST_VMM_ERR_BUSY).
    Busy,
    /// The request failed.
    Failed,
}

impl CertificateAnswer {
    /// The number for the kernel.
    #[must_use]
    pub fn code(self) -> u64 {
        let errno = match self {
            Self::Done => 0,
            Self::TooSmall(_) => libc::ENOSPC,
            Self::Busy => libc::EAGAIN,
            Self::Failed => libc::EIO,
        };
        // Error numbers are positive.
        errno.unsigned_abs().into()
    }
}

/// Serves certificates to a guest that asks for its report with them. Called on vCPU threads, so it must not
/// block for long.
pub trait CertificateSource: fmt::Debug + Send + Sync {
    /// Puts the certificate table into the guest's buffer: `pages` pages at `gpa`.
    fn serve(&self, gpa: u64, pages: u64) -> CertificateAnswer;
}

/// An initialised vCPU that has not been authorised to run. [`Vcpu::permit`] turns it into a
/// [`RunnableVcpu`]; it has no `run` method of its own (E0599), and its descriptor is private (E0616):
///
/// ```compile_fail,E0599
/// # use cvmm_kvm::{exits::ExitCounters, vcpu::{AccessHandler, Vcpu}};
/// fn skip_the_gate(mut vcpu: Vcpu, machine: &dyn AccessHandler, counters: &ExitCounters) {
///     vcpu.run(machine, counters, &|| false);
/// }
/// ```
///
/// ```compile_fail,E0616
/// # use cvmm_kvm::vcpu::Vcpu;
/// fn skip_cvmm(mut vcpu: Vcpu) {
///     vcpu.fd.run();
/// }
/// ```
#[derive(Debug)]
pub struct Vcpu {
    id: u32,
    fd: VcpuFd,
    /// Of an SNP guest.
    private: Option<Arc<PrivateMemory>>,
    /// Of an SNP guest whose kernel can ask for certificates.
    certificates: Option<Arc<dyn CertificateSource>>,
    kicker: Kicker,
    /// A page that could not be brought into the state the guest uses, and how often that was tried.
    stuck: (u64, u32),
}

/// KVM_HC_MAP_GPA_RANGE.
const HC_MAP_GPA_RANGE: u64 = 12;
/// KVM_EXIT_SNP_REQ_CERTS, which kvm-ioctls does not know.
const EXIT_SNP_REQ_CERTS: u32 = 43;
/// KVM_SYSTEM_EVENT_SEV_TERM.
const SYSTEM_EVENT_SEV_TERM: u32 = 6;
/// KVM_MEMORY_EXIT_FLAG_PRIVATE.
const FAULT_PRIVATE: u64 = 1 << 3;
/// A page that faults this often in a row although it has the right state will never be there: the host has
/// no memory for it.
const MAX_RETRIES: u32 = 64;

impl Vcpu {
    /// Creates the vCPU with APIC id `id`. `start` is the state it begins in; `None` leaves an
    /// application processor waiting for INIT and SIPI. Those of an SNP guest wait for AP creation too.
    /// `private` is an SNP guest's memory.
    pub fn new(
        vm: &VmFd,
        id: u32,
        cpuid: &CpuidBase,
        start: Option<VcpuStart>,
        private: Option<Arc<PrivateMemory>>,
    ) -> Result<Self, VcpuError> {
        let fd = vm.create_vcpu(u64::from(id)).map_err(|source| VcpuError::Create { id, source })?;
        let table = cpuid.for_vcpu(id).map_err(|source| VcpuError::Cpuid { id, source })?;
        let state = |what| move |source| VcpuError::State { id, what, source };
        fd.set_cpuid2(&table).map_err(state("cpuid"))?;
        if let Some(start) = &start {
            let mut sregs = fd.get_sregs().map_err(state("special registers"))?;
            reset::special_registers(&mut sregs, start);
            fd.set_sregs(&sregs).map_err(state("special registers"))?;
            let regs = reset::general_registers(start, cpuid.signature());
            fd.set_regs(&regs).map_err(state("general registers"))?;
        }
        if private.is_some() && id != 0 {
            // Linux starts it by the GHCB protocol's AP creation. KVM ignores that in a vCPU that never had
            // an INIT (UNINITIALIZED), which firmware that starts no processors does not send. INIT and
            // SIPI work here as well.
            let held = kvm_bindings::kvm_mp_state { mp_state: kvm_bindings::KVM_MP_STATE_AP_RESET_HOLD };
            fd.set_mp_state(held).map_err(state("processor state"))?;
        }
        let kicker = Kicker::new().map_err(VcpuError::Signal)?;
        Ok(Self { id, fd, private, certificates: None, kicker, stuck: (u64::MAX, 0) })
    }

    /// APIC id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Kicks it out of the guest, whichever thread runs it.
    pub fn kicker(&self) -> Kicker {
        self.kicker.clone()
    }

    /// Lets it serve certificates.
    pub fn set_certificates(&mut self, certificates: Arc<dyn CertificateSource>) {
        self.certificates = Some(certificates);
    }

    /// Maps the ring of writes that KVM collects for the whole VM; once.
    pub fn coalesced_writes(&self) -> io::Result<CoalescedWrites> {
        CoalescedWrites::map(&self.fd)
    }

    /// Its CPUID table as KVM has it now.
    pub fn cpuid(&self) -> Result<kvm_bindings::CpuId, VcpuError> {
        let id = self.id;
        self.fd.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).map_err(|source| VcpuError::State {
            id,
            what: "cpuid",
            source,
        })
    }

    /// Lets it run. `None` if it is an SNP guest's and `permit` is not an admission of that guest.
    pub fn permit(self, permit: Permit<'_>) -> Option<RunnableVcpu> {
        let permitted = match (&self.private, permit) {
            (None, Permit::NotIsolated) => true,
            (Some(own), Permit::Admitted(admitted)) => Arc::ptr_eq(own, admitted.memory()),
            _ => false,
        };
        permitted.then_some(RunnableVcpu(self))
    }

    /// Lets it run its guest's first stage. `None` if it is not the bootstrap processor of that guest.
    pub fn permit_first_stage(self, staged: &Staged) -> Option<StageVcpu> {
        let own = self.private.as_ref().is_some_and(|own| Arc::ptr_eq(own, staged.memory()));
        (own && self.id == 0).then_some(StageVcpu(self))
    }
}

/// A bootstrap processor that may run its guest's first stage.
#[derive(Debug)]
pub struct StageVcpu(Vcpu);

impl StageVcpu {
    /// Runs until `stop` or until it cannot go on, which is what it returns.
    pub fn run(
        &mut self,
        machine: &dyn AccessHandler,
        counters: &ExitCounters,
        stop: &dyn Fn() -> bool,
    ) -> Option<VcpuEnd> {
        self.0.run_until(machine, counters, stop)
    }

    /// It needs another permit to go on.
    pub fn into_vcpu(self) -> Vcpu {
        self.0
    }
}

/// Why a vCPU may run.
#[derive(Clone, Copy, Debug)]
pub enum Permit<'a> {
    /// Its guest is not isolated: there is nothing to admit.
    NotIsolated,
    /// Its guest has been admitted.
    Admitted(&'a Admitted),
}

/// A vCPU that may run. Only [`Vcpu::permit`] makes one (E0423):
///
/// ```compile_fail,E0423
/// # use cvmm_kvm::vcpu::{RunnableVcpu, Vcpu};
/// fn forge(vcpu: Vcpu) -> RunnableVcpu {
///     RunnableVcpu(vcpu)
/// }
/// ```
///
/// ```
/// # use cvmm_kvm::{exits::ExitCounters, vcpu::{AccessHandler, RunnableVcpu}};
/// fn run(mut vcpu: RunnableVcpu, machine: &dyn AccessHandler, counters: &ExitCounters) {
///     vcpu.run(machine, counters, &|| false);
/// }
/// ```
#[derive(Debug)]
pub struct RunnableVcpu(Vcpu);

impl RunnableVcpu {
    /// APIC id.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Kicks it out of the guest, whichever thread runs it.
    pub fn kicker(&self) -> Kicker {
        self.0.kicker()
    }

    /// Runs until `stop` or until it cannot go on, which is what it returns. `stop` is asked before each
    /// entry into the guest: after a [kick](Kicker::kick) too.
    pub fn run(
        &mut self,
        machine: &dyn AccessHandler,
        counters: &ExitCounters,
        stop: &dyn Fn() -> bool,
    ) -> Option<VcpuEnd> {
        self.0.run_until(machine, counters, stop)
    }
}

impl Vcpu {
    fn run_until(
        &mut self,
        machine: &dyn AccessHandler,
        counters: &ExitCounters,
        stop: &dyn Fn() -> bool,
    ) -> Option<VcpuEnd> {
        let kicker = self.kicker.clone();
        let _entered = kicker.enter(&mut self.fd);
        while !stop() {
            let end = self.step(machine, counters);
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// A signal took it out of KVM_RUN, or kept it out.
    fn interrupted(&mut self, counters: &ExitCounters) {
        counters.interrupted();
        self.fd.set_kvm_immediate_exit(0);
        // Before the stop condition is looked at: a kick from now on sets the flag again.
        compiler_fence(Ordering::SeqCst);
    }

    /// Enters the guest once and serves the exit.
    fn step(&mut self, machine: &dyn AccessHandler, counters: &ExitCounters) -> Option<VcpuEnd> {
        // What is needed after the borrow of `self.fd` by the exit has ended.
        enum Next {
            Port,
            Interrupted,
            Internal,
            Convert([u64; 6]),
            Certificates,
            Fault { flags: u64, gpa: u64, size: u64 },
        }
        let next = match self.fd.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Next::Port,
            Ok(VcpuExit::MmioRead(gpa, data)) => {
                counters.mmio(gpa, false);
                machine.mmio_read(gpa, data);
                return None;
            }
            Ok(VcpuExit::MmioWrite(gpa, data)) => {
                counters.mmio(gpa, true);
                machine.mmio_write(gpa, data);
                return None;
            }
            Ok(VcpuExit::Intr) => Next::Interrupted,
            Ok(VcpuExit::Hypercall(call)) if call.nr == HC_MAP_GPA_RANGE => Next::Convert(call.args),
            Ok(VcpuExit::Unsupported(EXIT_SNP_REQ_CERTS)) => Next::Certificates,
            Ok(VcpuExit::MemoryFault { flags, gpa, size }) => Next::Fault { flags, gpa, size },
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SEV_TERM, data)) => {
                counters.other();
                // The GHCB MSR: reason set in bits 15:12, code in 23:16.
                let msr = data.first().copied().unwrap_or(0);
                return Some(VcpuEnd::Terminated { set: (msr >> 12 & 0xf) as u8, reason: (msr >> 16) as u8 });
            }
            Ok(VcpuExit::Shutdown) => {
                counters.other();
                return Some(VcpuEnd::TripleFault);
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                counters.other();
                return Some(VcpuEnd::InternalError(format!(
                    "the processor refused to enter the guest: reason {reason:#x} on host cpu {cpu}"
                )));
            }
            Ok(VcpuExit::InternalError) => Next::Internal,
            Ok(exit) => {
                let detail = format!("unexpected exit {exit:?}");
                counters.other();
                return Some(VcpuEnd::InternalError(detail));
            }
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => Next::Interrupted,
            Err(error) => return Some(VcpuEnd::InternalError(format!("KVM_RUN: {error}"))),
        };
        match next {
            Next::Interrupted => {
                self.interrupted(counters);
                None
            }
            Next::Port => {
                self.serve_port(machine, counters);
                None
            }
            Next::Convert(args) => {
                counters.conversion();
                self.convert(&args);
                None
            }
            Next::Certificates => {
                counters.other();
                self.serve_certificates();
                None
            }
            Next::Fault { flags, gpa, size } => {
                counters.conversion();
                self.memory_fault(flags, gpa, size)
            }
            Next::Internal => {
                counters.other();
                Some(VcpuEnd::InternalError(self.describe_internal_error()))
            }
        }
    }

    /// Serves a port exit. String instructions deliver several items in one exit, which `VcpuExit` hands over
    /// as one run of bytes; the item size is needed to tell `rep insb` from `in eax`.
    fn serve_port(&mut self, machine: &dyn AccessHandler, counters: &ExitCounters) {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was KVM_EXIT_IO, for which the kernel filled this member of the union.
        let io = unsafe { run.__bindgen_anon_1.io };
        let size = usize::from(io.size);
        if !matches!(size, 1 | 2 | 4) {
            return;
        }
        let len = size * io.count as usize;
        // SAFETY: the kernel placed `count * size` bytes at `data_offset` from the start of the mapping that
        // `run` points to (Documentation/virt/kvm/api.rst, KVM_EXIT_IO); nothing else touches it until
        // KVM_RUN, which needs `&mut self`.
        let data = unsafe {
            let base = std::ptr::from_mut(run).cast::<u8>();
            std::slice::from_raw_parts_mut(base.add(io.data_offset as usize), len)
        };
        let write = u32::from(io.direction) == kvm_bindings::KVM_EXIT_IO_OUT;
        counters.port(io.port, write);
        match (write, len == size) {
            (true, true) => machine.port_write(io.port, data),
            (true, false) => machine.port_write_string(io.port, size, data),
            (false, true) => machine.port_read(io.port, data),
            (false, false) => machine.port_read_string(io.port, size, data),
        }
    }

    /// Serves a page state change. What the guest may not have is answered with an error, which its firmware
    /// and kernel do not survive by their own choice.
    fn convert(&mut self, args: &[u64; 6]) {
        let answer = page_state_change(self.id, self.private.as_deref(), args);
        let run = self.fd.get_kvm_run();
        // The exit reason was KVM_EXIT_HYPERCALL, whose member of the union this is; writing one is safe.
        run.__bindgen_anon_1.hypercall.ret = answer as u64;
    }

    /// Puts certificates where the guest wants them.
    fn serve_certificates(&mut self) {
        /// `kvm_run.snp_req_certs`; kvm-bindings lacks it.
        #[repr(C)]
        struct Request {
            gpa: u64,
            npages: u64,
            ret: u64,
        }
        let certificates = self.certificates.clone();
        let run = self.fd.get_kvm_run();
        let request = std::ptr::from_mut(&mut run.__bindgen_anon_1).cast::<Request>();
        // SAFETY: the exit reason was KVM_EXIT_SNP_REQ_CERTS, whose member of the union this is: 24 bytes at
        // its start, within its 256, and aligned as it is. Nothing else touches it until KVM_RUN, which needs
        // `&mut self`.
        let request = unsafe { &mut *request };
        let answer = match certificates {
            Some(certificates) => certificates.serve(request.gpa, request.npages),
            None => CertificateAnswer::Failed,
        };
        if let CertificateAnswer::TooSmall(needed) = answer {
            request.npages = needed;
        }
        request.ret = answer.code();
    }

    /// Serves an access to a page that has the other state.
    fn memory_fault(&mut self, flags: u64, gpa: u64, size: u64) -> Option<VcpuEnd> {
        let violation = |detail| Some(VcpuEnd::MemoryViolation(detail));
        let Some(memory) = &self.private else {
            return violation(format!("memory fault at {gpa:#x} of a guest without private memory"));
        };
        let result = PageRequest::from_fault(gpa, size, flags & FAULT_PRIVATE != 0)
            .map_err(|error| error.to_string())
            .and_then(|request| memory.fault(request).map_err(|error| error.to_string()));
        match result {
            Ok(true) => {
                cvmm_log_limit::debug!(
                    vcpu = self.id,
                    gpa,
                    private = flags & FAULT_PRIVATE != 0,
                    "implicit conversion"
                );
                None
            }
            Ok(false) => {
                let tries = if self.stuck.0 == gpa { self.stuck.1 + 1 } else { 1 };
                self.stuck = (gpa, tries);
                if tries < MAX_RETRIES {
                    return None;
                }
                violation(format!("kvm cannot provide the page at {gpa:#x}; is the host out of memory?"))
            }
            Err(detail) => violation(detail),
        }
    }

    fn describe_internal_error(&mut self) -> String {
        let rip = self.fd.get_regs().map(|regs| regs.rip).ok();
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit reason was KVM_EXIT_INTERNAL_ERROR, for which the kernel filled this member.
        let internal = unsafe { run.__bindgen_anon_1.internal };
        let cause = match internal.suberror {
            kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => "instruction emulation failed",
            kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "exception while delivering an exception",
            kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => "exit while delivering an event",
            kvm_bindings::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected exit reason",
            _ => "unknown cause",
        };
        let count = (internal.ndata as usize).min(internal.data.len());
        let data = &internal.data[..count];
        match rip {
            Some(rip) => format!("{cause} (suberror {}) at rip {rip:#x}, data {data:x?}", internal.suberror),
            None => format!("{cause} (suberror {}), data {data:x?}", internal.suberror),
        }
    }
}

/// Carries out a page state change; the hypercall's result.
fn page_state_change(vcpu: u32, memory: Option<&PrivateMemory>, args: &[u64; 6]) -> i64 {
    let done = match (memory, PageRequest::from_hypercall(args)) {
        (Some(memory), Ok(request)) => memory.convert(request).map_err(|error| error.to_string()),
        (None, _) => Err("not an snp guest".to_owned()),
        (_, Err(error)) => Err(error.to_string()),
    };
    if let Err(reason) = &done {
        cvmm_log_limit::warn!(vcpu, reason, "page state change refused");
    }
    // Linux 6.12 leaves what was there before, and takes EINVAL and EAGAIN only.
    if done.is_ok() { 0 } else { -i64::from(libc::EINVAL) }
}

#[cfg(test)]
mod tests {
    use cvmm_log_limit::testing::Lines;

    use super::*;

    #[test]
    fn refused_page_state_changes_without_end_are_a_few_lines() {
        let lines = Lines::of(|| {
            for page in 0..10_000 {
                let args = [page << 12, 1, 16, 0, 0, 0];
                assert_eq!(page_state_change(0, None, &args), -i64::from(libc::EINVAL));
            }
        });
        assert!(lines.len() <= cvmm_log_limit::BURST as usize, "{} lines", lines.len());
    }
}

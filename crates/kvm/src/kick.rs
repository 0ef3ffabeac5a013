// SPDX-License-Identifier: Apache-2.0
//! Kicks: taking a vCPU thread out of KVM_RUN.
//!
//! A kick is a real-time signal. KVM_RUN returns EINTR when one is pending, but a signal that arrives between
//! the thread's look at its stop condition and its call of KVM_RUN would be handled before the call, and
//! lost. So the handler, which runs on the vCPU's own thread, sets `kvm_run.immediate_exit`: the next KVM_RUN
//! then returns EINTR at once (Documentation/virt/kvm/api.rst, KVM_RUN). The vCPU clears the flag on its way
//! back to the stop condition.

#![expect(unsafe_code, reason = "a signal handler that writes to the kvm_run page; pthread_kill")]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs. Without a destructor, so that a signal handler may
    /// read it.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is set by `Kicker::enter` only, on this thread, and taken back before the vCPU
        // can be dropped.
        unsafe { &*flag }.store(1, Ordering::Relaxed);
    }
}

/// Installs the handler, once per process.
fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed =
        INSTALLED.get_or_init(|| register_signal_handler(SIGRTMIN(), on_kick).map_err(|error| error.errno()));
    installed.map_err(io::Error::from_raw_os_error)
}

/// Kicks one vCPU. A clone kicks the same one.
#[derive(Clone, Debug)]
pub struct Kicker(Arc<Mutex<Option<libc::pthread_t>>>);

impl Kicker {
    /// For a vCPU that no thread runs yet.
    pub(crate) fn new() -> io::Result<Self> {
        install()?;
        Ok(Self(Arc::default()))
    }

    fn thread(&self) -> MutexGuard<'_, Option<libc::pthread_t>> {
        // One word: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the vCPU look at its stop condition, if a thread runs it. What the condition depends on has to
    /// change before: one kick is then enough, whatever the thread is doing at this moment.
    pub fn kick(&self) {
        let thread = self.thread();
        if let Some(thread) = *thread {
            // SAFETY: a thread that has entered leaves under this lock before it ends, so its id is valid
            // while the lock is held.
            let _ = unsafe { libc::pthread_kill(thread, SIGRTMIN()) };
        }
    }

    /// From now on this thread runs the vCPU of `fd`, until the guard is dropped. The guard must not outlive
    /// `fd`.
    pub(crate) fn enter(&self, fd: &mut VcpuFd) -> Entered {
        let flag: *mut u8 = &raw mut fd.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.set(flag.cast_const().cast());
        // SAFETY: takes no arguments and cannot fail.
        *self.thread() = Some(unsafe { libc::pthread_self() });
        Entered(self.clone())
    }
}

/// A thread that runs a vCPU.
#[derive(Debug)]
pub(crate) struct Entered(Kicker);

impl Drop for Entered {
    fn drop(&mut self) {
        // In this order: a kick that is sent until here still finds its flag.
        *self.0.thread() = None;
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

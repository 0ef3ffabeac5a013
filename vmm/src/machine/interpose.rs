// SPDX-License-Identifier: Apache-2.0
//! Where a program that links cvmm can put itself between a guest and its machine, as a hostile host does.
//! The `cvmm` program puts nothing there ([`NoInterposer`]); the project's tests do, from a program of their
//! own (`tests/hostile`).
//!
//! An interposer has the powers of a host: it sees the files before they are used, the guest's shared memory,
//! and the state of its pages. It is never given a vCPU, a launch or an admission, so it cannot make a guest
//! run that was not admitted.

use std::fmt::Debug;
use std::sync::Arc;

use cvmm_kvm::memory::MachineMemory;
use cvmm_kvm_snp::memory::PrivateMemory;
use cvmm_launch::firmware::Firmware;

use crate::inputs::Inputs;

/// What a host can reach of an SNP guest.
#[derive(Clone, Copy, Debug)]
pub struct GuestAccess<'a> {
    /// The shared view of all its memory, firmware included.
    pub memory: &'a MachineMemory,
    /// The state of its pages, and their conversion.
    pub private: &'a Arc<PrivateMemory>,
    /// Where the firmware has which page; `None` if it came in an IGVM file.
    pub firmware: Option<&'a Firmware>,
}

/// A program between guest and machine. Each method's default does nothing.
pub trait Interposer: Debug + Sync {
    /// The files are checked and measured; nothing has been built from them.
    fn opened(&self, _inputs: &mut Inputs) {}

    /// The launch is finished; no vCPU has run.
    fn launched(&self, _guest: GuestAccess<'_>) {}

    /// The first stage has a message for the machine. `serve` answers it.
    fn stage_message(&self, _guest: GuestAccess<'_>, serve: &mut dyn FnMut()) {
        serve();
    }
}

/// Nothing between guest and machine.
#[derive(Clone, Copy, Debug)]
pub struct NoInterposer;

impl Interposer for NoInterposer {}

// SPDX-License-Identifier: Apache-2.0
//! Carries out [`Op`]s without blocking the queue's worker: io_uring where the kernel has it, threads
//! elsewhere.
//!
//! An operation is started under a tag and reported once, in any order. It may be over when it was
//! submitted; if not, [`Engine::event`] is signalled later. At most `capacity` operations are in flight.
//! Dropping an engine waits for them: the kernel must not touch guest memory that is not kept mapped.

mod pool;
mod uring;

use std::io;
use std::sync::{Arc, OnceLock};

use cvmm_disk_image::Disk;
use vmm_sys_util::eventfd::EventFd;

use self::pool::Pool;
use self::uring::Uring;
use super::op::{Finished, Op};

/// How operations are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring(7).
    Uring,
    /// Blocking calls on a few threads.
    Threads,
}

impl EngineKind {
    /// io_uring if this kernel lets us use it, asked once.
    pub fn detect() -> Self {
        static KIND: OnceLock<EngineKind> = OnceLock::new();
        *KIND.get_or_init(|| match Uring::probe() {
            Ok(()) => Self::Uring,
            Err(error) => {
                cvmm_log_limit::info!(%error, "io_uring is not usable; disks use threads");
                Self::Threads
            }
        })
    }
}

/// An engine of one queue.
#[derive(Debug)]
pub(super) enum Engine {
    /// See [`EngineKind::Uring`].
    Uring(Box<Uring>),
    /// See [`EngineKind::Threads`].
    Pool(Pool),
}

impl Engine {
    /// An engine for `capacity` operations at once, a power of two, on `disk`. Falls back to threads if a
    /// ring cannot be had now, for example for want of locked memory.
    pub(super) fn new(kind: EngineKind, disk: Arc<Disk>, capacity: u16) -> io::Result<Self> {
        if kind == EngineKind::Uring {
            match Uring::new(disk.clone(), capacity) {
                Ok(uring) => return Ok(Self::Uring(Box::new(uring))),
                Err(error) => {
                    cvmm_log_limit::warn!(%error, "cannot set up io_uring; this queue uses threads")
                }
            }
        }
        Pool::new(disk, capacity).map(Self::Pool)
    }

    /// Signalled when operations have finished after they were submitted.
    pub(super) fn event(&self) -> &EventFd {
        match self {
            Self::Uring(uring) => uring.event(),
            Self::Pool(pool) => pool.event(),
        }
    }

    /// Starts `op` under `tag`, which is below the capacity and not in use.
    pub(super) fn start(&mut self, tag: u16, op: Op) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.start(tag, op),
            Self::Pool(pool) => pool.start(tag, op),
        }
    }

    /// Hands started operations to the kernel, for engines that collect them.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.submit(),
            Self::Pool(_) => Ok(()),
        }
    }

    /// Moves finished operations to `finished`.
    pub(super) fn reap(&mut self, finished: &mut Vec<Finished>) -> io::Result<()> {
        match self {
            Self::Uring(uring) => uring.reap(finished),
            Self::Pool(pool) => {
                pool.reap(finished);
                Ok(())
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The sandbox of the TPM's process. It may compute, allocate memory that is not executable, read random
//! numbers and use its socket. Any other system call kills it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::sys;

/// Address space of the process in bytes; libtpms needs some 30 MiB.
const ADDRESS_SPACE: u64 = 512 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum JailError {
    #[error("cannot set a resource limit: {0}")]
    Limit(#[from] std::io::Error),
    #[error("cannot compile the seccomp filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
    #[error("cannot install the seccomp filter: {0}")]
    Set(#[from] seccompiler::Error),
}

/// Enters the sandbox, irrevocably.
pub(super) fn enter() -> Result<(), JailError> {
    sys::limit_resources(ADDRESS_SPACE)?;
    // apply_filter sets no_new_privs. If two filters disagree, the stricter action applies.
    seccompiler::apply_filter(&harmless()?)?;
    seccompiler::apply_filter(&filter()?)?;
    Ok(())
}

/// System calls that libc's dprintf makes when libtpms reports a failure. It continues if they fail.
const HARMLESS: [i64; 3] = [libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat];

/// Makes these fail with EBADF.
fn harmless() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = HARMLESS.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EBADF as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?.try_into()
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let always: &[i64] = &[
        // The existing socket.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_close,
        // Memory.
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        // Locks, sleep between retries of the store, time, random numbers.
        libc::SYS_futex,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_restart_syscall,
        // Exit and abort.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_getpid,
        libc::SYS_gettid,
    ];
    let allowed = always.iter().chain(&HARMLESS);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.map(|call| (*call, Vec::new())).collect();
    let no_exec = || -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        let exec = libc::PROT_EXEC as u64;
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(exec), 0)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    rules.insert(libc::SYS_mmap, no_exec()?);
    rules.insert(libc::SYS_mprotect, no_exec()?);
    let me = u64::from(std::process::id());
    let own =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own(0, me)?, own(2, libc::SIGABRT as u64)?])?]);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?
        .try_into()
}

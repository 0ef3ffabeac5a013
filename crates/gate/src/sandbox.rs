// SPDX-License-Identifier: Apache-2.0
//! What the gate may still do once it serves: answer on the sockets that it has, read its policies, artifacts
//! and certificates, and write its state. Code that takes over the gate through a message can do no more.
//!
//! - **Landlock** restricts files: policies, their public keys, artifacts, certificates and resources can be
//!   read, the state folder can be written, and nothing else can be opened. The private keys and the audit
//!   log are open before and cannot be opened again. No TCP socket can be bound or connected.
//! - **seccomp** restricts system calls: no new sockets, programs, processes of others, executable memory or
//!   namespaces. A call that is not on the list fails with EPERM.
//! - **no_new_privs** comes with both.
//!
//! All of it has to be entered while there is one thread, since threads inherit it. What needs more (a
//! PKCS#11 module, a listener) is opened before, or is in the [`Rules`].

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::Deserialize;
use thiserror::Error;

/// The Landlock ABI that is required: Linux 6.10, older than any kernel that hosts SNP guests. Files with
/// truncation and device ioctls, and TCP.
const REQUIRED: ABI = ABI::V5;
/// The ABI that is used where the kernel has it (6.12): no signals and no abstract sockets out of the
/// sandbox.
const OPTIONAL: ABI = ABI::V6;

/// `sandbox` of gate.toml.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The gate does not serve without all of it.
    #[default]
    Require,
    /// As much as this kernel supports; a warning says what is missing.
    BestEffort,
    /// None.
    Off,
}

/// What remains possible.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Files and folders that can be read.
    pub read: Vec<PathBuf>,
    /// Files and folders that can be written too.
    pub write: Vec<PathBuf>,
    /// Folders in which files can be removed.
    pub remove: Vec<PathBuf>,
    /// Whether new Unix sockets can be connected: a PKCS#11 module may need a daemon.
    pub unix_sockets: bool,
}

/// What is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// System calls.
    pub seccomp: bool,
    /// Files and TCP ports.
    pub landlock: bool,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |on| if on { "enforced" } else { "NOT enforced" };
        write!(f, "seccomp {}, Landlock {}", word(self.seccomp), word(self.landlock))
    }
}

/// Why the sandbox cannot be entered.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// This kernel.
    #[error(
        "the kernel does not support the required Landlock features (Linux 6.10, CONFIG_SECURITY_LANDLOCK, landlock in lsm=): {0}; \
         sandbox = \"best-effort\" in gate.toml serves without"
    )]
    Landlock(#[from] RulesetError),
    /// Only a part is enforced.
    #[error(
        "the kernel enforces Landlock only in part ({0:?}); sandbox = \"best-effort\" in gate.toml serves without the rest"
    )]
    Partial(RulesetStatus),
    /// A path that is to be allowed.
    #[error("cannot open {path} for the sandbox: {problem}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The system call filter.
    #[error("the system call filter cannot be built: {0}")]
    Filter(#[from] BackendError),
    /// The kernel does not accept the filter.
    #[error(
        "the system call filter cannot be installed: {0}; sandbox = \"best-effort\" in gate.toml serves without"
    )]
    Seccomp(#[from] seccompiler::Error),
}

/// Enters the sandbox. Only the calling thread and those that it starts later are in it.
pub fn enter(mode: Mode, rules: &Rules) -> Result<Confinement, SandboxError> {
    let mut confinement = Confinement { seccomp: false, landlock: false };
    if mode == Mode::Off {
        tracing::warn!("sandbox = \"off\": the gate can do whatever its user can");
        return Ok(confinement);
    }
    confinement.landlock = restrict_files(mode, rules)?;
    if !confinement.landlock {
        tracing::warn!(
            "this kernel does not support Landlock, or only in part: the gate can open whatever its user can"
        );
    }
    match filter(rules.unix_sockets)? {
        program if mode == Mode::Require => {
            apply(&program)?;
            confinement.seccomp = true;
        }
        program => match apply(&program) {
            Ok(()) => confinement.seccomp = true,
            Err(error) => tracing::warn!(%error, "system calls are not filtered"),
        },
    }
    Ok(confinement)
}

/// Whether files are restricted from here on.
fn restrict_files(mode: Mode, rules: &Rules) -> Result<bool, SandboxError> {
    let level = match mode {
        Mode::Require => CompatLevel::HardRequirement,
        Mode::BestEffort | Mode::Off => CompatLevel::BestEffort,
    };
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let mut ruleset = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(REQUIRED))?
        .handle_access(AccessNet::from_all(REQUIRED))?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(OPTIONAL))?
        .create()?
        .set_compatibility(level);
    let Rules { read: readable, write: writable, remove: removable, unix_sockets: _ } = rules;
    for (paths, access) in [(readable, read), (writable, write), (removable, AccessFs::RemoveFile.into())] {
        for path in paths {
            ruleset = ruleset.add_rule(rule(path, access)?)?;
        }
    }
    let status = ruleset.restrict_self()?.ruleset;
    match (mode, status) {
        (Mode::Require, status @ RulesetStatus::NotEnforced) => Err(SandboxError::Partial(status)),
        (_, RulesetStatus::NotEnforced) => Ok(false),
        // With `require`, only optional features can be missing.
        (Mode::Require, _) | (_, RulesetStatus::FullyEnforced) => Ok(true),
        (_, RulesetStatus::PartiallyEnforced) => Ok(supports_required()),
    }
}

/// Whether the kernel supports all that is required.
fn supports_required() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(REQUIRED))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(REQUIRED)))
        .and_then(Ruleset::create)
        .is_ok()
}

fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, SandboxError> {
    let failed = |problem: String| SandboxError::Path { path: path.to_owned(), problem };
    let file = PathFd::new(path).map_err(|error| failed(error.to_string()))?;
    let is_file = path.metadata().map_err(|error: io::Error| failed(error.to_string()))?.is_file();
    let access = if is_file { access & AccessFs::from_file(REQUIRED) } else { access };
    Ok(PathBeneath::new(file, access))
}

fn apply(program: &(BpfProgram, BpfProgram)) -> Result<(), seccompiler::Error> {
    // The stricter of two results counts. TSYNC: threads that a library has started already are included.
    seccompiler::apply_filter_all_threads(&program.0)?;
    seccompiler::apply_filter_all_threads(&program.1)
}

/// System calls that are allowed with any argument: threads and memory, time, open files and sockets, and
/// files, which Landlock restricts.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone3, // see `filter`
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mlock, // pages for keys
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_tgkill, // abort(); Landlock keeps signals inside where it can
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// Flags of clone() that create namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u64;

/// Names a memory area (`PR_SET_VMA`), which allocators do.
const PR_SET_VMA: u64 = 0x5356_4d41;

type CallRules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// The list of allowed calls, and a filter by which clone3() does not exist: its flags are in memory, where a
/// filter cannot see them, and the C library uses clone() instead.
fn filter(unix_sockets: bool) -> Result<(BpfProgram, BpfProgram), BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    use SeccompCmpOp::{Eq, MaskedEq};
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let one_of = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |value: &u64| SeccompRule::new(vec![SeccompCondition::new(argument, Dword, Eq, *value)?]);
        values.iter().map(rule).collect()
    };
    let none_of = |argument, mask| -> Result<Vec<SeccompRule>, BackendError> {
        let condition = SeccompCondition::new(argument, Qword, MaskedEq(mask), 0)?;
        Ok(vec![SeccompRule::new(vec![condition])?])
    };
    let mut rules: CallRules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, none_of(0, NAMESPACES)?);
    rules.insert(libc::SYS_mmap, none_of(2, libc::PROT_EXEC as u64)?);
    rules.insert(libc::SYS_mprotect, none_of(2, libc::PROT_EXEC as u64)?);
    rules.insert(libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME as u64, PR_SET_VMA])?);
    // Limits of this process only.
    rules.insert(libc::SYS_prlimit64, one_of(0, &[0])?);
    // Switches blocking mode; tells terminals.
    rules.insert(libc::SYS_ioctl, one_of(1, &[libc::FIONBIO, libc::TCGETS])?);
    rules.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX as u64])?);
    if unix_sockets {
        for call in [libc::SYS_socket, libc::SYS_connect] {
            let rule =
                if call == libc::SYS_socket { one_of(0, &[libc::AF_UNIX as u64])? } else { Vec::new() };
            rules.insert(call, rule);
        }
    }
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let list = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?;
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let no_clone3: CallRules = [(libc::SYS_clone3, Vec::new())].into();
    let no_clone3 = SeccompFilter::new(no_clone3, SeccompAction::Allow, absent, arch)?;
    Ok((no_clone3.try_into()?, list.try_into()?))
}

// SPDX-License-Identifier: Apache-2.0
//! What the tests need of Linux below the standard library: memory of their own, an alarm, modules,
//! privileged files.
#![expect(unsafe_code, reason = "mmap, signals and module loading")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Memory from mmap, given back at the end.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

impl Mapping {
    /// Shared anonymous memory, zero.
    pub fn new(size: usize) -> Result<Self> {
        Self::map(size, -1, libc::MAP_SHARED | libc::MAP_ANONYMOUS, 0)
    }

    /// A part of a file or device, writable.
    pub fn of(file: &File, offset: u64, size: usize) -> Result<Self> {
        Self::map(size, file.as_raw_fd(), libc::MAP_SHARED, offset.cast_signed())
    }

    fn map(size: usize, fd: i32, flags: i32, offset: i64) -> Result<Self> {
        // SAFETY: a new mapping wherever there is room for it.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)
        };
        if start == libc::MAP_FAILED {
            bail!("mmap of {size:#x} bytes: {}", io::Error::last_os_error());
        }
        Ok(Self { start: NonNull::new(start.cast()).context("mmap gave address 0")?, size })
    }

    /// Its address, for the kernel.
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Its contents. Not for memory that a guest runs in.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for reading and writing, this long, and borrowed from us alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    /// The 64-bit word of that index, which others may change.
    pub fn word(&self, index: usize) -> u64 {
        assert!(index < self.size / 8, "word {index} of {} bytes", self.size);
        // SAFETY: inside the mapping, which is aligned to pages.
        unsafe { self.start.as_ptr().cast::<u64>().add(index).read_volatile() }
    }

    /// The 32-bit word of that index, of a device.
    pub fn half(&self, index: usize) -> u32 {
        assert!(index < self.size / 4, "half word {index} of {} bytes", self.size);
        // SAFETY: inside the mapping, which is aligned to pages.
        unsafe { self.start.as_ptr().cast::<u32>().add(index).read_volatile() }
    }

    /// Write the 32-bit word of that index, of a device.
    pub fn set_half(&self, index: usize, value: u32) {
        assert!(index < self.size / 4, "half word {index} of {} bytes", self.size);
        // SAFETY: inside the mapping, which is aligned to pages.
        unsafe { self.start.as_ptr().cast::<u32>().add(index).write_volatile(value) }
    }

    /// Write the word of that index; may fault.
    pub fn set_word(&self, index: usize, value: u64) {
        assert!(index < self.size / 8, "word {index} of {} bytes", self.size);
        // SAFETY: inside the mapping, which is aligned to pages.
        unsafe { self.start.as_ptr().cast::<u64>().add(index).write_volatile(value) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing borrows it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}

extern "C" fn nothing(_signal: i32) {}

/// A pending SIGALRM; dropped, it does not come.
#[derive(Debug)]
pub struct Alarm;

/// Interrupt this thread's system call after that time. The process has only one thread.
pub fn alarm(after: Duration) -> Result<Alarm> {
    // SAFETY: an all-zero sigaction is one without flags and mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
    // SAFETY: the handler does nothing; both structures are ours.
    let result = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    ensure!(result == 0, "sigaction: {}", io::Error::last_os_error());
    set_timer(after);
    Ok(Alarm)
}

impl Drop for Alarm {
    fn drop(&mut self) {
        set_timer(Duration::ZERO);
    }
}

fn set_timer(after: Duration) {
    let once = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval {
            tv_sec: after.as_secs().cast_signed(),
            tv_usec: after.subsec_micros().into(),
        },
    };
    // SAFETY: our own structure; the old value is not asked for. It cannot fail with such a value.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const once, std::ptr::null_mut()) };
}

/// Run `action` in a child process; the signal that ended it, if one did. After half a second SIGALRM does.
pub fn in_child(action: impl FnOnce()) -> Result<Option<i32>> {
    // SAFETY: this process has one thread, so the child may do what it likes.
    let child = unsafe { libc::fork() };
    ensure!(child >= 0, "fork: {}", io::Error::last_os_error());
    if child == 0 {
        // SAFETY: the default action ends the child.
        unsafe { libc::signal(libc::SIGALRM, libc::SIG_DFL) };
        set_timer(Duration::from_millis(500));
        action();
        // SAFETY: ends the child at once; no destructor runs twice.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child, our own variable.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    ensure!(waited == child, "waitpid: {}", io::Error::last_os_error());
    Ok(libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)))
}

/// Load a kernel module.
pub fn load_module(module: &File, parameters: &str) -> io::Result<()> {
    let parameters = CString::new(parameters)?;
    // SAFETY: a file and a string that live through the call.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), parameters.as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A model-specific register of CPU 0 (needs the module `msr`).
pub fn rdmsr(index: u32) -> Result<u64> {
    let mut value = [0; 8];
    File::open("/dev/cpu/0/msr")
        .and_then(|file| file.read_exact_at(&mut value, u64::from(index)))
        .with_context(|| format!("read MSR {index:#x} by /dev/cpu/0/msr"))?;
    Ok(u64::from_le_bytes(value))
}

/// The kernel's log.
pub fn dmesg() -> Result<String> {
    let output = std::process::Command::new("dmesg").output().context("start dmesg")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

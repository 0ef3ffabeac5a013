// SPDX-License-Identifier: Apache-2.0
//! The C interface, `include/cvmm_psp.h`: what is documented there is not repeated here.
//!
//! A panic does not cross the boundary. It becomes HWERROR_PLATFORM, which is what a security processor that
//! fell over looks like to the kernel; that needs a build profile that unwinds.
#![allow(unsafe_code)] // Every function here takes pointers from C.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::config::Config;
use crate::host::{Host, HostFault, RmpEntry};
use crate::memory::{self, Direction};
use crate::psp::{NewError, Psp};
use crate::status::Status;

/// `CvmmPspRmpEntry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // The header documents the fields.
pub struct CvmmPspRmpEntry {
    pub gpa: u64,
    pub asid: u32,
    pub assigned: u8,
    pub pagesize: u8,
    pub immutable: u8,
    pub vmsa: u8,
    pub validated: u8,
    pub perms: [u8; 4],
    pub reserved: [u8; 11],
}

const _: () = assert!(size_of::<CvmmPspRmpEntry>() == 32);

/// `CvmmPspOps`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // The header documents the fields.
pub struct CvmmPspOps {
    pub opaque: *mut c_void,
    pub mem_read: Option<unsafe extern "C" fn(*mut c_void, u64, *mut c_void, u64) -> c_int>,
    pub mem_write: Option<unsafe extern "C" fn(*mut c_void, u64, *const c_void, u64) -> c_int>,
    pub rmp_read: Option<unsafe extern "C" fn(*mut c_void, u64, *mut CvmmPspRmpEntry) -> c_int>,
    pub rmp_write: Option<unsafe extern "C" fn(*mut c_void, u64, *const CvmmPspRmpEntry) -> c_int>,
    pub snp_enabled: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    pub cpuid: Option<unsafe extern "C" fn(*mut c_void, u32, u32, *mut u32) -> c_int>,
    pub guest_key: Option<unsafe extern "C" fn(*mut c_void, u32, *const u8) -> c_int>,
}

impl Host for CvmmPspOps {
    fn read(&mut self, spa: u64, into: &mut [u8]) -> Result<(), HostFault> {
        let call = self.mem_read.ok_or(HostFault)?;
        // SAFETY: the caller of cvmm_psp_new vouches for the call-back; the buffer is valid for its length.
        match unsafe { call(self.opaque, spa, into.as_mut_ptr().cast(), into.len() as u64) } {
            0 => Ok(()),
            _ => Err(HostFault),
        }
    }

    fn write(&mut self, spa: u64, from: &[u8]) -> Result<(), HostFault> {
        let call = self.mem_write.ok_or(HostFault)?;
        // SAFETY: as in `read`.
        match unsafe { call(self.opaque, spa, from.as_ptr().cast(), from.len() as u64) } {
            0 => Ok(()),
            _ => Err(HostFault),
        }
    }

    fn rmp_read(&mut self, spa: u64) -> Result<Option<RmpEntry>, HostFault> {
        let call = self.rmp_read.ok_or(HostFault)?;
        let mut raw = CvmmPspRmpEntry::default();
        // SAFETY: as in `read`; `raw` is a valid entry to write to.
        match unsafe { call(self.opaque, spa, &mut raw) } {
            0 => Ok(Some(RmpEntry {
                gpa: raw.gpa,
                asid: raw.asid,
                assigned: raw.assigned != 0,
                large: raw.pagesize != 0,
                immutable: raw.immutable != 0,
                vmsa: raw.vmsa != 0,
                validated: raw.validated != 0,
                perms: raw.perms,
            })),
            1 => Ok(None),
            _ => Err(HostFault),
        }
    }

    fn rmp_write(&mut self, spa: u64, entry: &RmpEntry) -> Result<(), HostFault> {
        let call = self.rmp_write.ok_or(HostFault)?;
        let raw = CvmmPspRmpEntry {
            gpa: entry.gpa,
            asid: entry.asid,
            assigned: u8::from(entry.assigned),
            pagesize: u8::from(entry.large),
            immutable: u8::from(entry.immutable),
            vmsa: u8::from(entry.vmsa),
            validated: u8::from(entry.validated),
            perms: entry.perms,
            reserved: [0; 11],
        };
        // SAFETY: as in `read`; `raw` outlives the call.
        match unsafe { call(self.opaque, spa, &raw) } {
            0 => Ok(()),
            _ => Err(HostFault),
        }
    }

    fn snp_enabled(&mut self) -> bool {
        // SAFETY: as in `read`.
        self.snp_enabled.is_some_and(|call| unsafe { call(self.opaque) } == 1)
    }

    fn cpuid(&mut self, eax: u32, ecx: u32) -> [u32; 4] {
        let mut out = [0; 4];
        let Some(call) = self.cpuid else { return out };
        // SAFETY: as in `read`; `out` has the four words the header asks for.
        match unsafe { call(self.opaque, eax, ecx, out.as_mut_ptr()) } {
            0 => out,
            _ => [0; 4],
        }
    }

    fn guest_key(&mut self, asid: u32, key: &[u8; 32]) {
        if let Some(call) = self.guest_key {
            // SAFETY: as in `read`. There is no status for a failure: the key is the emulator's matter.
            unsafe { call(self.opaque, asid, key.as_ptr()) };
        }
    }
}

/// `CvmmPsp`.
#[derive(Debug)]
pub struct CvmmPsp {
    psp: Psp,
    ops: CvmmPspOps,
    trace: CString,
}

fn build(toml: &str, ops: CvmmPspOps) -> Result<CvmmPsp, NewError> {
    let psp = Psp::new(Config::from_toml(toml)?)?;
    Ok(CvmmPsp { psp, ops, trace: CString::default() })
}

/// See the header.
///
/// # Safety
/// `config_toml` is NULL or a NUL-terminated string, `ops` points to call-backs that stay callable, and `err`
/// is NULL or has room for `err_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_new(
    config_toml: *const c_char,
    ops: *const CvmmPspOps,
    err: *mut c_char,
    err_len: usize,
) -> *mut CvmmPsp {
    let made = catch_unwind(|| {
        // SAFETY: the caller's promise; NULL gives None.
        let ops = unsafe { ops.as_ref() }.copied().ok_or_else(|| "ops is NULL".to_owned())?;
        let toml = if config_toml.is_null() {
            ""
        } else {
            // SAFETY: not NULL, so by the caller's promise a NUL-terminated string.
            unsafe { CStr::from_ptr(config_toml) }
                .to_str()
                .map_err(|_| "configuration is not UTF-8".to_owned())?
        };
        build(toml, ops).map_err(|error| error.to_string())
    });
    match made.unwrap_or_else(|_| Err("internal error while the security processor was made".to_owned())) {
        Ok(psp) => Box::into_raw(Box::new(psp)),
        Err(message) => {
            if !err.is_null() && err_len > 0 {
                let text = message.as_bytes();
                let len = text.len().min(err_len - 1);
                // SAFETY: `err` has room for `err_len` bytes, of which len + 1 are written.
                unsafe {
                    std::ptr::copy_nonoverlapping(text.as_ptr().cast(), err, len);
                    err.add(len).write(0);
                }
            }
            std::ptr::null_mut()
        }
    }
}

/// See the header.
///
/// # Safety
/// `psp` comes from [`cvmm_psp_new`] and is used by one thread at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_command(psp: *mut CvmmPsp, id: u32, cmdbuf_spa: u64) -> u32 {
    // SAFETY: the caller's promise; NULL gives None.
    let Some(this) = (unsafe { psp.as_mut() }) else { return Status::HWERROR_PLATFORM.0 };
    guarded(|| {
        let CvmmPsp { psp, ops, trace } = this;
        let status = psp.execute(ops, id, cmdbuf_spa);
        // The trace holds no NUL; an empty one is better than none.
        *trace = CString::new(psp.trace()).unwrap_or_default();
        status
    })
}

/// The status of some work, HWERROR_PLATFORM if it panics. The state may be torn then, but it is never
/// unsound, and the kernel gives a failed processor up.
fn guarded(work: impl FnOnce() -> Status) -> u32 {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Status::HWERROR_PLATFORM).0
}

/// See the header.
///
/// # Safety
/// As for [`cvmm_psp_command`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_delay_ms(psp: *mut CvmmPsp) -> u32 {
    // SAFETY: the caller's promise; NULL gives None.
    unsafe { psp.as_ref() }.map_or(0, |this| this.psp.delay_ms())
}

/// See the header.
///
/// # Safety
/// As for [`cvmm_psp_command`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_trace(psp: *mut CvmmPsp) -> *const c_char {
    // SAFETY: the caller's promise; NULL gives None.
    unsafe { psp.as_ref() }.map_or(c"".as_ptr(), |this| this.trace.as_ptr())
}

/// See the header.
///
/// # Safety
/// As for [`cvmm_psp_command`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_reset(psp: *mut CvmmPsp) {
    // SAFETY: the caller's promise; NULL gives None.
    if let Some(this) = unsafe { psp.as_mut() } {
        // A reset has no status to report a panic with; what a torn reset leaves, the next command meets.
        let _ = catch_unwind(AssertUnwindSafe(|| this.psp.reset()));
    }
}

/// See the header.
///
/// # Safety
/// As for [`cvmm_psp_command`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_wbinvd_done(psp: *mut CvmmPsp) {
    // SAFETY: the caller's promise; NULL gives None.
    if let Some(this) = unsafe { psp.as_mut() } {
        this.psp.wbinvd_done();
    }
}

/// See the header.
///
/// # Safety
/// `key` points to 32 bytes and `data` to `len` bytes, or one of them is NULL and nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_memory(
    key: *const [u8; 32],
    spa: u64,
    data: *mut u8,
    len: u64,
    encrypt: c_int,
) {
    let (Ok(len), false) = (usize::try_from(len), data.is_null()) else { return };
    // SAFETY: the caller's promise; NULL gives None.
    let Some(key) = (unsafe { key.as_ref() }) else { return };
    // SAFETY: not NULL, so by the caller's promise `len` bytes that nothing else uses during the call.
    let data = unsafe { std::slice::from_raw_parts_mut(data, len) };
    let direction = if encrypt == 0 { Direction::Decrypt } else { Direction::Encrypt };
    // It indexes nothing that could be out of bounds; should it panic all the same, the data stays as far as
    // it got.
    let _ = catch_unwind(AssertUnwindSafe(|| memory::transform(key, spa, data, direction)));
}

/// See the header.
///
/// # Safety
/// `psp` is NULL or comes from [`cvmm_psp_new`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cvmm_psp_free(psp: *mut CvmmPsp) {
    if !psp.is_null() {
        // SAFETY: made by Box::into_raw in cvmm_psp_new, given back once.
        drop(unsafe { Box::from_raw(psp) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(guarded(|| Status::SUCCESS), 0);
        assert_eq!(guarded(|| Status::INVALID_PARAM), 0x16);
        assert_eq!(guarded(|| panic!("as a defect would")), 0x13);
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The C interface: the header's layout is the library's, nothing in it is followed when it is NULL, and a
//! machine behind call-backs launches a guest.
#![allow(unsafe_code)] // Calls of the C interface.
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use cvmm_psp::ffi::{
    CvmmPsp, CvmmPspOps, CvmmPspRmpEntry, cvmm_psp_command, cvmm_psp_delay_ms, cvmm_psp_free,
    cvmm_psp_memory, cvmm_psp_new, cvmm_psp_reset, cvmm_psp_trace, cvmm_psp_wbinvd_done,
};
use cvmm_psp::{Host as _, PAGE, PageState, RmpEntry, Status, command};
use cvmm_test_support::psp::{BUFFER, Buffer, Machine, NORMAL, POLICY, pre_guest};

/// The machine of a call-back.
fn machine<'a>(opaque: *mut c_void) -> &'a mut Machine {
    // SAFETY: every test passes a machine that outlives the processor, and uses one thread.
    unsafe { &mut *opaque.cast::<Machine>() }
}

extern "C" fn read(opaque: *mut c_void, spa: u64, into: *mut c_void, len: u64) -> c_int {
    // SAFETY: the library passes a buffer of that length.
    let into = unsafe { std::slice::from_raw_parts_mut(into.cast::<u8>(), len as usize) };
    c_int::from(machine(opaque).read(spa, into).is_err())
}

extern "C" fn write(opaque: *mut c_void, spa: u64, from: *const c_void, len: u64) -> c_int {
    // SAFETY: as in `read`.
    let from = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len as usize) };
    c_int::from(machine(opaque).write(spa, from).is_err())
}

extern "C" fn rmp_read(opaque: *mut c_void, spa: u64, out: *mut CvmmPspRmpEntry) -> c_int {
    match machine(opaque).rmp_read(spa).unwrap() {
        Some(entry) => {
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
            // SAFETY: the library passes a place for an entry.
            unsafe { out.write(raw) };
            0
        }
        None => 1,
    }
}

extern "C" fn rmp_write(opaque: *mut c_void, spa: u64, entry: *const CvmmPspRmpEntry) -> c_int {
    // SAFETY: the library passes an entry.
    let raw = unsafe { *entry };
    assert_eq!(raw.reserved, [0; 11]);
    let entry = RmpEntry {
        gpa: raw.gpa,
        asid: raw.asid,
        assigned: raw.assigned != 0,
        large: raw.pagesize != 0,
        immutable: raw.immutable != 0,
        vmsa: raw.vmsa != 0,
        validated: raw.validated != 0,
        perms: raw.perms,
    };
    c_int::from(machine(opaque).rmp_write(spa, &entry).is_err())
}

extern "C" fn snp_enabled(_: *mut c_void) -> c_int {
    1
}

extern "C" fn guest_key(opaque: *mut c_void, asid: u32, key: *const u8) -> c_int {
    // SAFETY: the library passes 32 bytes.
    let key = unsafe { key.cast::<[u8; 32]>().read() };
    machine(opaque).guest_key(asid, &key);
    0
}

fn ops(machine: &mut Machine) -> CvmmPspOps {
    CvmmPspOps {
        opaque: std::ptr::from_mut(machine).cast(),
        mem_read: Some(read),
        mem_write: Some(write),
        rmp_read: Some(rmp_read),
        rmp_write: Some(rmp_write),
        snp_enabled: Some(snp_enabled),
        cpuid: None,
        guest_key: Some(guest_key),
    }
}

/// Make a processor; the message when there is none.
fn make(toml: &CStr, ops: &CvmmPspOps) -> Result<*mut CvmmPsp, String> {
    let mut err = [0x7F as c_char; 200];
    // SAFETY: valid pointers, and the size of the buffer.
    let psp = unsafe { cvmm_psp_new(toml.as_ptr(), ops, err.as_mut_ptr(), err.len()) };
    if psp.is_null() {
        // SAFETY: the library has written a string.
        return Err(unsafe { CStr::from_ptr(err.as_ptr()) }.to_str().unwrap().to_owned());
    }
    Ok(psp)
}

fn run(psp: *mut CvmmPsp, machine: &mut Machine, id: u32, buffer: &[u8]) -> Status {
    machine.write(BUFFER, buffer).unwrap();
    // SAFETY: a processor that was made and not freed.
    Status(unsafe { cvmm_psp_command(psp, id, BUFFER) })
}

fn trace(psp: *mut CvmmPsp) -> String {
    // SAFETY: the string is valid until the next call.
    unsafe { CStr::from_ptr(cvmm_psp_trace(psp)) }.to_str().unwrap().to_owned()
}

#[test]
fn null_is_answered_and_not_followed() {
    let mut err = [0x7F as c_char; 64];
    // SAFETY: NULL is what the functions are promised to take.
    unsafe {
        assert!(cvmm_psp_new(c"".as_ptr(), null(), err.as_mut_ptr(), err.len()).is_null());
        assert!(CStr::from_ptr(err.as_ptr()).to_str().unwrap().contains("ops"));
        assert!(cvmm_psp_new(null(), null(), null_mut(), 64).is_null());
        assert_eq!(cvmm_psp_command(null_mut(), command::PLATFORM_STATUS, 0), Status::HWERROR_PLATFORM.0);
        assert_eq!(cvmm_psp_delay_ms(null_mut()), 0);
        assert_eq!(CStr::from_ptr(cvmm_psp_trace(null_mut())), c"");
        cvmm_psp_memory(null(), 0, null_mut(), 64, 1);
        cvmm_psp_memory(null(), 0, err.as_mut_ptr().cast(), 64, 1);
        cvmm_psp_memory(&[1; 32], 0, null_mut(), 64, 1);
        cvmm_psp_reset(null_mut());
        cvmm_psp_wbinvd_done(null_mut());
        cvmm_psp_free(null_mut());
    }
}

#[test]
fn memory_is_transformed_in_place_and_no_further() {
    let plain = [0x42_u8; 48];
    let mut data = plain;
    // SAFETY: 32 of the 48 bytes.
    unsafe { cvmm_psp_memory(&[7; 32], 0x1000, data.as_mut_ptr(), 32, 1) };
    assert!(data[..16] != plain[..16] && data[16..32] != plain[16..32] && data[32..] == plain[32..]);
    // SAFETY: as above.
    unsafe { cvmm_psp_memory(&[7; 32], 0x1000, data.as_mut_ptr(), 32, 0) };
    assert_eq!(data, plain);
}

#[test]
fn a_bad_configuration_is_told() {
    let mut machine = Machine::default();
    let ops = ops(&mut machine);
    for (toml, word) in [
        (c"produkt = 1", "produkt"),
        (c"= = =", "TOML"),
        (c"snp_asids = 70000", "snp_asids"),
        (c"keys_dir = '/proc/none/keys'", "/proc/none/keys"),
        (c"seed = '\xFF'", "UTF-8"),
    ] {
        let message = make(toml, &ops).unwrap_err();
        assert!(message.contains(word), "{toml:?}: {message}");
    }
    // The message is cut to the buffer and ends there.
    let mut err = [0x7F as c_char; 8];
    // SAFETY: one byte less than there is, so that the last one tells of an overrun.
    unsafe {
        assert!(cvmm_psp_new(c"produkt = 1".as_ptr(), &ops, err.as_mut_ptr(), 7).is_null());
        assert_eq!(CStr::from_ptr(err.as_ptr()).to_bytes().len(), 6);
        assert_eq!(err[7], 0x7F);
        assert!(cvmm_psp_new(c"produkt = 1".as_ptr(), &ops, err.as_mut_ptr(), 0).is_null());
    }
}

#[test]
fn missing_call_backs_are_statuses() {
    let none = CvmmPspOps {
        opaque: null_mut(),
        mem_read: None,
        mem_write: None,
        rmp_read: None,
        rmp_write: None,
        snp_enabled: None,
        cpuid: None,
        guest_key: None,
    };
    let psp = make(c"", &none).unwrap();
    for id in 0..0x100 {
        // SAFETY: a processor that was made and not freed.
        let status = Status(unsafe { cvmm_psp_command(psp, id, 0x1000) });
        let harmless = [command::SHUTDOWN, command::DF_FLUSH].contains(&id);
        assert!(status != Status::SUCCESS || harmless, "{id:#x}");
        assert_ne!(status, Status::HWERROR_PLATFORM, "{id:#x}");
    }
    // SAFETY: freed once.
    unsafe { cvmm_psp_free(psp) };
}

#[test]
fn a_guest_is_launched_through_call_backs() {
    let mut machine = Machine::default();
    let ops = ops(&mut machine);
    let toml = CString::new("[[fault]]\ncommand = 0x84\ndelay_ms = 30\nstatus = 0x0E").unwrap();
    let psp = make(&toml, &ops).unwrap();
    let machine = &mut machine;
    let mut init = [0; 64];
    init[0] = 1;
    assert_eq!(run(psp, machine, command::SNP_INIT_EX, &init), Status::SUCCESS);
    assert_eq!(run(psp, machine, command::SNP_DF_FLUSH, &[]), Status::WBINVD_REQUIRED);
    // SAFETY: a processor that was made and not freed.
    assert_eq!(unsafe { cvmm_psp_delay_ms(psp) }, 30);
    assert_eq!(run(psp, machine, command::SNP_DF_FLUSH, &[]), Status::SUCCESS);
    let gctx = machine.firmware_page();
    assert_eq!(run(psp, machine, command::SNP_GCTX_CREATE, &gctx.to_le_bytes()), Status::SUCCESS);
    let start = Buffer::default().u64(gctx).u64(POLICY).bytes(&[0; 32]);
    assert_eq!(run(psp, machine, command::SNP_LAUNCH_START, &start.0), Status::SUCCESS);
    assert_eq!(
        run(psp, machine, command::SNP_ACTIVATE, &Buffer::default().u64(gctx).u32(1).0),
        Status::SUCCESS
    );
    assert!(machine.keys.contains_key(&1));
    let spa = machine.alloc();
    machine.write(spa, &[1; PAGE as usize]).unwrap();
    assert!(machine.rmpupdate(spa, pre_guest(1, 0x1000)));
    let update = Buffer::default().u64(gctx).u32(NORMAL.bits).u32(0).u64(spa).bytes(&[0; 12]);
    assert_eq!(run(psp, machine, command::SNP_LAUNCH_UPDATE, &update.0), Status::SUCCESS);
    assert_eq!(machine.state(spa), PageState::GuestValid);
    let finish = Buffer::default().u64(gctx).bytes(&[0; 56]);
    assert_eq!(run(psp, machine, command::SNP_LAUNCH_FINISH, &finish.0), Status::SUCCESS);
    let line = trace(psp);
    assert!(line.contains("SNP_LAUNCH_FINISH 0x0a2") && line.contains("digest"), "{line}");
    assert_eq!(run(psp, machine, command::SNP_GCTX_CREATE, &u64::MAX.to_le_bytes()), Status::INVALID_ADDRESS);
    // SAFETY: a processor that was made and not freed; freed once.
    unsafe {
        cvmm_psp_wbinvd_done(psp);
        cvmm_psp_reset(psp);
        assert_eq!(Status(cvmm_psp_command(psp, command::SNP_DF_FLUSH, 0)), Status::INVALID_PLATFORM_STATE);
        cvmm_psp_free(psp);
    }
}

/// What a C compiler makes of the header. The library cannot be built without one.
#[test]
fn the_header_has_the_librarys_layout() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout.c");
    let entry =
        |field, at| format!("_Static_assert(offsetof(CvmmPspRmpEntry, {field}) == {at}, \"{field}\");\n");
    let op =
        |field, at: usize| format!("_Static_assert(offsetof(CvmmPspOps, {field}) == {at}, \"{field}\");\n");
    let mut text =
        "#include \"cvmm_psp.h\"\n_Static_assert(sizeof(CvmmPspRmpEntry) == 32, \"entry\");\n".to_owned();
    text += &entry("gpa", std::mem::offset_of!(CvmmPspRmpEntry, gpa));
    text += &entry("asid", std::mem::offset_of!(CvmmPspRmpEntry, asid));
    text += &entry("assigned", std::mem::offset_of!(CvmmPspRmpEntry, assigned));
    text += &entry("pagesize", std::mem::offset_of!(CvmmPspRmpEntry, pagesize));
    text += &entry("immutable", std::mem::offset_of!(CvmmPspRmpEntry, immutable));
    text += &entry("vmsa", std::mem::offset_of!(CvmmPspRmpEntry, vmsa));
    text += &entry("validated", std::mem::offset_of!(CvmmPspRmpEntry, validated));
    text += &entry("perms", std::mem::offset_of!(CvmmPspRmpEntry, perms));
    text += &entry("reserved", std::mem::offset_of!(CvmmPspRmpEntry, reserved));
    text += &op("mem_read", std::mem::offset_of!(CvmmPspOps, mem_read));
    text += &op("mem_write", std::mem::offset_of!(CvmmPspOps, mem_write));
    text += &op("rmp_read", std::mem::offset_of!(CvmmPspOps, rmp_read));
    text += &op("rmp_write", std::mem::offset_of!(CvmmPspOps, rmp_write));
    text += &op("snp_enabled", std::mem::offset_of!(CvmmPspOps, snp_enabled));
    text += &op("cpuid", std::mem::offset_of!(CvmmPspOps, cpuid));
    text += &op("guest_key", std::mem::offset_of!(CvmmPspOps, guest_key));
    text += &format!("_Static_assert(sizeof(CvmmPspOps) == {}, \"ops\");\n", size_of::<CvmmPspOps>());
    // The functions have the types that the library has them with.
    text += "uint32_t use(CvmmPsp *p) { cvmm_psp_reset(p); { uint8_t k[32] = {0}; cvmm_psp_memory(k, 0, k, 32, 1); } return cvmm_psp_command(p, 1u, 2ull) + cvmm_psp_delay_ms(p); }\n";
    std::fs::write(&source, text).unwrap();
    let out = std::process::Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/include"))
        .arg(&source)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

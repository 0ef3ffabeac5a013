// SPDX-License-Identifier: Apache-2.0
//! TPM commands made by hand, and the engines to try them on.
#![allow(dead_code)] // each test file uses its part

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cvmm_vtpm::command::cc;
use cvmm_vtpm::{LibraryEngine, ProcessEngine, ProcessOptions, Response, StateStore, TpmEngine};

pub const RH_OWNER: u32 = 0x4000_0001;
pub const RS_PW: u32 = 0x4000_0009;
pub const RH_NULL: u32 = 0x4000_0007;
pub const SHA1: u16 = 4;
pub const SHA256: u16 = 0xb;
pub const SHA384: u16 = 0xc;

/// A command as it grows.
pub struct Build {
    code: u32,
    handles: Vec<u8>,
    auths: usize,
    body: Vec<u8>,
}

pub fn command(code: u32) -> Build {
    Build { code, handles: Vec::new(), auths: 0, body: Vec::new() }
}

impl Build {
    pub fn handle(mut self, handle: u32) -> Build {
        self.handles.extend_from_slice(&handle.to_be_bytes());
        self
    }
    /// An empty password for one more handle.
    pub fn auth(mut self) -> Build {
        self.auths += 1;
        self
    }
    pub fn u8(mut self, value: u8) -> Build {
        self.body.push(value);
        self
    }
    pub fn u16(mut self, value: u16) -> Build {
        self.body.extend_from_slice(&value.to_be_bytes());
        self
    }
    pub fn u32(mut self, value: u32) -> Build {
        self.body.extend_from_slice(&value.to_be_bytes());
        self
    }
    pub fn bytes(mut self, bytes: &[u8]) -> Build {
        self.body.extend_from_slice(bytes);
        self
    }
    /// With a u16 size before it.
    pub fn sized(self, bytes: &[u8]) -> Build {
        self.u16(bytes.len() as u16).bytes(bytes)
    }
    /// A TPML_PCR_SELECTION of one bank.
    pub fn pcrs(self, bank: u16, pcrs: &[u8]) -> Build {
        let mut map = [0u8; 3];
        pcrs.iter().for_each(|pcr| map[*pcr as usize / 8] |= 1 << (pcr % 8));
        self.u32(1).u16(bank).u8(3).bytes(&map)
    }
    pub fn done(self) -> Vec<u8> {
        let mut auths = Vec::new();
        for _ in 0..self.auths {
            auths.extend_from_slice(&RS_PW.to_be_bytes());
            auths.extend_from_slice(&[0, 0, 0, 0, 0]);
        }
        let mut bytes = vec![0x80, if auths.is_empty() { 1 } else { 2 }, 0, 0, 0, 0];
        bytes.extend_from_slice(&self.code.to_be_bytes());
        bytes.extend_from_slice(&self.handles);
        if !auths.is_empty() {
            bytes.extend_from_slice(&(auths.len() as u32).to_be_bytes());
            bytes.extend_from_slice(&auths);
        }
        bytes.extend_from_slice(&self.body);
        let size = bytes.len() as u32;
        bytes[2..6].copy_from_slice(&size.to_be_bytes());
        bytes
    }
}

pub fn startup(state: u16) -> Vec<u8> {
    command(cc::STARTUP).u16(state).done()
}
pub fn shutdown(state: u16) -> Vec<u8> {
    command(cc::SHUTDOWN).u16(state).done()
}
pub fn get_capability(capability: u32, property: u32, count: u32) -> Vec<u8> {
    command(cc::GET_CAPABILITY).u32(capability).u32(property).u32(count).done()
}
pub fn get_random(count: u16) -> Vec<u8> {
    command(cc::GET_RANDOM).u16(count).done()
}
pub fn pcr_extend(pcr: u32, digest: &[u8; 32]) -> Vec<u8> {
    command(cc::PCR_EXTEND).handle(pcr).auth().u32(1).u16(SHA256).bytes(digest).done()
}
pub fn pcr_read(pcr: u8) -> Vec<u8> {
    command(cc::PCR_READ).pcrs(SHA256, &[pcr]).done()
}
/// A restricted P-256 or RSA-2048 signing key in the owner hierarchy.
pub fn create_signing_key(rsa: bool) -> Vec<u8> {
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign
    let mut public = vec![0, if rsa { 1 } else { 0x23 }, 0, SHA256 as u8];
    public.extend_from_slice(&0x0005_0472u32.to_be_bytes());
    public.extend_from_slice(&[0, 0]); // no policy
    public.extend_from_slice(&[0, 0x10]); // symmetric: null
    if rsa {
        public.extend_from_slice(&[0, 0x14, 0, SHA256 as u8, 0x08, 0, 0, 0, 0, 0, 0, 0]);
    } else {
        public.extend_from_slice(&[0, 0x18, 0, SHA256 as u8, 0, 3, 0, 0x10, 0, 0, 0, 0]);
    }
    command(cc::CREATE_PRIMARY)
        .handle(RH_OWNER)
        .auth()
        .sized(&[0, 0, 0, 0])
        .sized(&public)
        .u16(0)
        .u32(0)
        .done()
}
pub fn quote(key: u32, nonce: &[u8], pcrs: &[u8]) -> Vec<u8> {
    command(cc::QUOTE).handle(key).auth().sized(nonce).u16(0x10).pcrs(SHA256, pcrs).done()
}
pub fn flush(handle: u32) -> Vec<u8> {
    command(cc::FLUSH_CONTEXT).u32(handle).done()
}
pub fn nv_define(index: u32, size: u16, extra: u32) -> Vec<u8> {
    // ownerwrite, authwrite, ownerread, authread
    let mut public = index.to_be_bytes().to_vec();
    public.extend_from_slice(&[0, SHA256 as u8]);
    public.extend_from_slice(&(0x0006_0006u32 | extra).to_be_bytes());
    public.extend_from_slice(&[0, 0]);
    public.extend_from_slice(&size.to_be_bytes());
    command(cc::NV_DEFINE_SPACE).handle(RH_OWNER).auth().u16(0).sized(&public).done()
}
pub fn nv_write(index: u32, data: &[u8]) -> Vec<u8> {
    command(cc::NV_WRITE).handle(index).handle(index).auth().sized(data).u16(0).done()
}
pub fn nv_read(index: u32, size: u16) -> Vec<u8> {
    command(cc::NV_READ).handle(index).handle(index).auth().u16(size).u16(0).done()
}

/// The first handle of a response.
pub fn handle_of(response: &Response) -> u32 {
    u32::from_be_bytes(response[10..14].try_into().unwrap())
}
/// The first TPM2B of a response with sessions and no handle.
pub fn first_2b(response: &Response) -> &[u8] {
    let size = u16::from_be_bytes(response[14..16].try_into().unwrap()) as usize;
    &response[16..16 + size]
}
/// The digest of a PCR_Read of one PCR: counter, selection (count, hash, size, map), count, size.
pub fn pcr_of(response: &Response) -> &[u8] {
    &response[10 + 4 + 4 + 2 + 1 + 3 + 4 + 2..]
}

pub fn ok(engine: &mut dyn TpmEngine, command: &[u8]) -> Response {
    let response = engine.execute(0, command).unwrap();
    assert_eq!(response.code(), 0, "command {:02x?}", &command[6..10]);
    response
}

/// libtpms is one per process, and tests run in threads.
pub fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn options() -> ProcessOptions {
    ProcessOptions {
        program: PathBuf::from(option_env!("CARGO_BIN_EXE_vtpm-test-engine").unwrap_or("/proc/self/exe")),
        timeout: Duration::from_secs(60),
        abort_on: None,
    }
}

pub fn in_process(store: impl StateStore + 'static) -> Box<dyn TpmEngine> {
    Box::new(LibraryEngine::new(Box::new(store)).unwrap())
}

pub fn in_child(store: impl StateStore + 'static) -> Box<dyn TpmEngine> {
    Box::new(ProcessEngine::new(options(), Box::new(store)).unwrap())
}

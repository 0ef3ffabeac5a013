// SPDX-License-Identifier: Apache-2.0
//! TPM commands that the tests send.

use cvmm_tpm::Command;
use cvmm_tpm::constants::{alg, cc, rh};

fn build(command: Command) -> Vec<u8> {
    command.build().unwrap().to_vec()
}

pub fn startup(state: u16) -> Vec<u8> {
    build(Command::new(cc::STARTUP).u16(state))
}

pub fn shutdown(state: u16) -> Vec<u8> {
    build(Command::new(cc::SHUTDOWN).u16(state))
}

pub fn get_capability(capability: u32, property: u32, count: u32) -> Vec<u8> {
    build(Command::new(cc::GET_CAPABILITY).u32(capability).u32(property).u32(count))
}

pub fn get_random(count: u16) -> Vec<u8> {
    build(Command::new(cc::GET_RANDOM).u16(count))
}

pub fn pcr_extend(pcr: u32, digest: &[u8; 32]) -> Vec<u8> {
    build(Command::new(cc::PCR_EXTEND).handle(pcr).password(&[]).u32(1).u16(alg::SHA256).raw(digest))
}

pub fn pcr_read(pcr: u8) -> Vec<u8> {
    let mut map = [0; 3];
    map[usize::from(pcr / 8)] = 1 << (pcr % 8);
    build(Command::new(cc::PCR_READ).u32(1).u16(alg::SHA256).u8(3).raw(&map))
}

/// Defines an index that the owner and its own authorisation read and write; `extra` are more attributes.
pub fn nv_define(index: u32, size: u16, extra: u32) -> Vec<u8> {
    build(Command::new(cc::NV_DEFINE_SPACE).handle(rh::OWNER).password(&[]).sized(&[]).nested(|public| {
        public.u32(index).u16(alg::SHA256).u32(0x0006_0006 | extra).sized(&[]).u16(size);
    }))
}

pub fn nv_write(index: u32, data: &[u8]) -> Vec<u8> {
    build(Command::new(cc::NV_WRITE).handle(index).handle(index).password(&[]).sized(data).u16(0))
}

pub fn nv_read(index: u32, size: u16) -> Vec<u8> {
    build(Command::new(cc::NV_READ).handle(index).handle(index).password(&[]).u16(size).u16(0))
}

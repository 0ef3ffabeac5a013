// SPDX-License-Identifier: Apache-2.0
//! Requests by the GHCB page (GHCB specification, 2.6 and 4).

use cvmm_first_stage::layout::{GHCB, REQUEST, RESPONSE};
use cvmm_first_stage::stop::Stop;

use crate::{cpu, memory};

/// Offsets in the page.
const RAX: u64 = 0x1f8;
const EXIT_CODE: u64 = 0x390;
const EXIT_INFO_1: u64 = 0x398;
const EXIT_INFO_2: u64 = 0x3a0;
const VALID: u64 = 0x3f0;
const VERSION: u64 = 0xffa;
/// Exits.
const PORT: u64 = 0x7b;
const GUEST_REQUEST: u64 = 0x8000_0011;
/// EXITINFO1 of a port access: a write, of 32 bits, with a 64-bit address size.
const OUT_32: u64 = 1 << 6 | 1 << 9;
/// The version of the protocol.
const PROTOCOL: u16 = 2;

fn exit(code: u64, info_1: u64, info_2: u64, rax: Option<u64>) -> u64 {
    memory::clear(GHCB, 4096);
    let put = |offset: u64, value: u64| {
        memory::write(GHCB + offset, &value.to_le_bytes());
        let bit = offset / 8;
        let byte = GHCB + VALID + bit / 8;
        let mut valid = [0];
        memory::read(byte, &mut valid);
        memory::write(byte, &[valid[0] | 1 << (bit % 8)]);
    };
    put(EXIT_CODE, code);
    put(EXIT_INFO_1, info_1);
    put(EXIT_INFO_2, info_2);
    if let Some(rax) = rax {
        put(RAX, rax);
    }
    memory::write(GHCB + VERSION, &PROTOCOL.to_le_bytes());
    cpu::use_ghcb(GHCB);
    cpu::vmgexit();
    let mut answer = [0; 8];
    memory::read(GHCB + EXIT_INFO_2, &mut answer);
    u64::from_le_bytes(answer)
}

/// Writes 32 bits to a port. It is unknown whether a device accepted them.
pub fn port_write(port: u16, value: u32) {
    exit(PORT, u64::from(port) << 16 | OUT_32, 0, Some(value.into()));
}

/// Sends the message in the request page to the security processor, which answers in the response page.
pub fn guest_request() -> Result<(), Stop> {
    // 0: success of both host and security processor.
    if exit(GUEST_REQUEST, REQUEST, RESPONSE, None) == 0 { Ok(()) } else { Err(Stop::Request) }
}

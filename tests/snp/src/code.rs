// SPDX-License-Identifier: Apache-2.0
//! The guests' programs, 16-bit code as a processor runs it after reset.

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// What the guest gives as its reason to the host: reason set 3, reason 0x42 (GHCB specification, 2.3.1).
pub const TERMINATION: u64 = 0x42_3100;
/// WRMSR of the GHCB MSR with that; VMGEXIT; HLT.
pub const TERMINATE: [u8; 22] = [
    0x66, 0xb9, 0x30, 0x01, 0x01, 0xc0, 0x66, 0xb8, 0x00, 0x31, 0x42, 0x00, 0x66, 0x31, 0xd2, 0x0f, 0x30,
    0xf3, 0x0f, 0x01, 0xd9, 0xf4,
];
/// HLT.
pub const HALT: [u8; 1] = [0xf4];

/// Where the secret is, inside its page.
pub const SECRET_AT: usize = 0x200;
const MULTIPLIER: u32 = 1_664_525;
const INCREMENT: u32 = 1_013_904_223;

/// `MOV AL, [1000h]`, then `end`.
pub fn load_data(end: &[u8]) -> Vec<u8> {
    [&[0xa0, 0x00, 0x10], end].concat()
}

/// Makes a secret of 64 bytes at 1200h out of `seed`, then `end`. It is never elsewhere as a whole.
pub fn make_secret(seed: u32, end: &[u8]) -> Vec<u8> {
    let mut code = vec![0xbf, 0x00, 0x12]; // MOV DI, 1200h
    code.extend([0xb9, 16, 0x00]); // MOV CX, 16
    code.extend([0x66, 0xb8]); // MOV EAX, seed
    code.extend(seed.to_le_bytes());
    code.extend([0x66, 0x69, 0xc0]); // IMUL EAX, EAX, multiplier
    code.extend(MULTIPLIER.to_le_bytes());
    code.extend([0x66, 0x05]); // ADD EAX, increment
    code.extend(INCREMENT.to_le_bytes());
    code.extend([0x66, 0xab]); // STOSD
    code.extend([0xe2, 0xef]); // LOOP to the IMUL
    code.extend(end);
    code
}

/// The secret's 32-bit words.
pub fn secret(seed: u32) -> impl Iterator<Item = u32> {
    let next = move |word: u32| Some(word.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT));
    std::iter::successors(next(seed), move |&word| next(word)).take(16)
}

/// The page of the reset vector, FFFFF000h: a jump to `code` at F00h.
pub fn reset_page(code: &[u8]) -> [u8; PAGE] {
    let mut page = [0xf4; PAGE];
    page[0xf00..0xf00 + code.len()].copy_from_slice(code);
    page[0xff0..0xff3].copy_from_slice(&[0xe9, 0x0d, 0xff]);
    page
}

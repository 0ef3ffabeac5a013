// SPDX-License-Identifier: Apache-2.0
//! Memory outside Rust variables: shared pages by volatile accesses, and private pages by address.

use cvmm_first_stage::layout::{SHARED_ALIAS, WINDOW, WINDOW_LEN};

/// The mapping of shared memory at `address`; the whole range must be in the window.
fn shared(address: u64, len: usize) -> *mut u8 {
    let inside = address >= WINDOW && address - WINDOW + len as u64 <= WINDOW_LEN;
    assert!(inside);
    (address + SHARED_ALIAS) as *mut u8
}

/// Copies from shared memory, each byte once: what the host writes later is not seen.
pub fn read(address: u64, bytes: &mut [u8]) {
    let from = shared(address, bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let left = bytes.len() - at;
        // SAFETY: inside the window, which is mapped and only ever accessed like this. An unaligned access is
        // a volatile one of bytes.
        unsafe {
            if left >= 8 && (from.add(at) as usize).is_multiple_of(8) {
                let word = from.add(at).cast::<u64>().read_volatile();
                bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
                at += 8;
            } else {
                bytes[at] = from.add(at).read_volatile();
                at += 1;
            }
        }
    }
}

/// Copies to shared memory.
pub fn write(address: u64, bytes: &[u8]) {
    let to = shared(address, bytes.len());
    for (at, byte) in bytes.iter().enumerate() {
        // SAFETY: as in `read`.
        unsafe { to.add(at).write_volatile(*byte) };
    }
}

/// Zeros in shared memory.
pub fn clear(address: u64, len: usize) {
    let to = shared(address, len);
    for at in (0..len).step_by(8) {
        // SAFETY: as in `read`; callers clear whole pages.
        unsafe { to.add(at).cast::<u64>().write_volatile(0) };
    }
}

/// A range of private memory that only this program uses.
///
/// # Safety
/// It is mapped, validated, and no other reference to any of it exists while this one does.
pub unsafe fn private<'a>(address: u64, len: usize) -> &'a mut [u8] {
    // SAFETY: the caller's promise; the lowest 4 GiB are mapped at their own address.
    unsafe { core::slice::from_raw_parts_mut(address as *mut u8, len) }
}

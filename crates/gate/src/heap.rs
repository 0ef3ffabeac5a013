// SPDX-License-Identifier: Apache-2.0
//! How much memory the C library's allocator keeps.

#![expect(unsafe_code, reason = "the allocator's settings have no safe interface")]

/// Two arenas for all threads. By default there are eight for each processor, and each keeps what its threads freed: with as many
/// threads as the gate has, memory then grows for a hundred thousand verdicts before it stays where it is. Before threads are made.
pub fn few_arenas() {
    // SAFETY: sets a number in the allocator; nothing is freed or moved. What it answers does not matter: it is a matter of size.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

// SPDX-License-Identifier: Apache-2.0
//! Console device with one port (virtio 1.2, 5.3): hvc0 in Linux.
//!
//! Queue 0 receives what the user types, queue 1 transmits what the guest prints. Neither the multi-port nor
//! the size feature is offered; the size of a terminal is the business of the terminal's own escape
//! sequences.
//!
//! Output goes to any [`Write`](std::io::Write)r. A writer that would block (a non-blocking pipe with a slow
//! reader) is retried until it takes the bytes or the device is stopped; a writer that blocks delays a reset
//! by as long, so give non-blocking ones where that matters. A writer that fails has its bytes dropped: a
//! guest must not hang because the terminal was closed. Input comes from a file descriptor that is read only
//! while the guest has a buffer for it, `INPUT_BYTES` at most at a time; until then it waits in the kernel.

mod device;
mod metrics;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Console;

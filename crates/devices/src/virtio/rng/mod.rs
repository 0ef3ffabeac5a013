// SPDX-License-Identifier: Apache-2.0
//! Entropy device (virtio 1.2, 5.4): one queue of buffers to fill with random bytes.
//!
//! Bytes come from the host kernel's generator (getrandom(2)), which does not run dry, so nothing is
//! rationed. What is bounded is the work per turn: at most `MAX_BYTES` of a chain are filled (the used
//! length says how many), and at most one queue's worth of chains per kick. A confidential guest must not
//! rely on this device alone: the host knows every byte.

mod device;
mod metrics;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Rng;
#[cfg(test)]
use worker::MAX_BYTES;

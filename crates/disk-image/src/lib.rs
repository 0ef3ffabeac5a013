// SPDX-License-Identifier: Apache-2.0
//! The host's side of a disk: a raw image file or a block device.
//!
//! The block device works on a [`Disk`]; `cvmm config check` asks [`Disk::check`] what opening it would
//! refuse. This crate does no I/O for a guest and has no event loop, so that a parser of `vm.toml` can use it
//! without the device's engines.

mod format;
mod image;

pub use format::{Foreign, ImageFormat};
pub use image::{CacheMode, Disk, DiskError, SECTOR};

// SPDX-License-Identifier: Apache-2.0
//! The stub as bytes, for the writer of an image.

/// What an image with this stub has at [`MARK_AT`], where other programs have one for DOS.
pub const MARK: &[u8] = b"cvmm unified kernel image\0";
/// File offset of [`MARK`].
pub const MARK_AT: usize = 0x40;

/// Code and data of the stub, with addresses relative to the image's start.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Code and constants, at [`Program::CODE`].
    pub code: &'static [u8],
    /// Address of the data: a multiple of a page.
    pub data_address: u32,
    /// The data, with what is zero at first.
    pub data: &'static [u8],
    /// Address of the entry point.
    pub entry: u32,
    /// Addresses of 64-bit fields to which a loader adds the image's address.
    pub relocations: &'static [u32],
}

impl Program {
    /// Address of the code.
    pub const CODE: u32 = 0x1000;
}

// SPDX-License-Identifier: Apache-2.0
//! The fuzzer's bytes, taken from the front.

/// A cursor over an input. All numbers are little-endian.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// False at the end.
    pub fn more(&self) -> bool {
        !self.rest.is_empty()
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (now, later) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = later;
        now
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.bytes(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// The data of one access: 1, 2, 4 or 8 bytes, by the low bits of `selector`.
    pub fn access(&mut self, selector: u8) -> Vec<u8> {
        let len = width(selector);
        self.array::<8>()[..len].to_vec()
    }
}

/// Bytes of an access.
pub fn width(selector: u8) -> usize {
    1 << (selector & 3)
}

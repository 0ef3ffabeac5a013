// SPDX-License-Identifier: Apache-2.0
//! A type 0 configuration space (PCI 3.0, 6.1 and 6.2) that any function can be built on.
//!
//! 256 bytes of values stand beside 256 bytes of write masks: a set mask bit means that the guest may change
//! that bit. Everything a driver can do follows from the masks alone. Sizing works because the low address
//! bits of a BAR are not writable: all ones written read back as the size mask (6.2.5.1). A field that the
//! function must react to is simply looked at after [`ConfigSpace::write`].
//!
//! There is one 64-bit memory BAR (registers 0 and 1) because no device here needs more, no interrupt pin
//! (MSI-X only; the *line* register is scratch for software), no expansion ROM and no I/O BAR.

use thiserror::Error;

/// Offset of the command register (16 bits).
pub(crate) const COMMAND: u8 = 0x04;
/// Offset of the status register (16 bits).
pub(crate) const STATUS: u8 = 0x06;
/// Offset of the first base address register.
pub(crate) const BAR0: u8 = 0x10;
/// Offset of the pointer to the first capability.
pub(crate) const CAPABILITY_POINTER: u8 = 0x34;
/// Offset of the interrupt line register.
pub(crate) const INTERRUPT_LINE: u8 = 0x3c;

/// Command bit 1: the function answers memory accesses.
pub(crate) const COMMAND_MEMORY: u16 = 1 << 1;
/// Command bit 2: the function may access memory, which includes sending MSIs.
pub(crate) const COMMAND_BUS_MASTER: u16 = 1 << 2;
/// Command bit 10: no INTx assertion. Kept for drivers that set it and read it back.
pub(crate) const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status bit 4: there is a capability list.
pub(crate) const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Capabilities may use what the header leaves.
const FIRST_CAPABILITY: usize = 0x40;
/// BAR bits 2:1 = 10b: 64-bit memory.
const BAR_TYPE_64: u64 = 0x4;
/// BAR bit 3.
const BAR_PREFETCHABLE: u64 = 0x8;
/// The BAR's low four bits describe it and are not part of the address.
const BAR_FLAGS: u64 = 0xf;

/// Mistakes in building a configuration space; all are the builder's, none can come from a guest.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The list of capabilities is longer than the space.
    #[error(
        "capability {id:#04x} of {len} bytes does not fit at config offset {offset:#x}; 256 bytes is all there is"
    )]
    CapabilityTooLong {
        /// Capability ID.
        id: u8,
        /// Offset it would have had.
        offset: usize,
        /// Its length with the two header bytes.
        len: usize,
    },
    /// The mask does not cover the body.
    #[error(
        "capability {id:#04x}: write mask has {mask} bytes, body has {body}; give one mask byte per body byte"
    )]
    MaskLength {
        /// Capability ID.
        id: u8,
        /// Bytes in the body.
        body: usize,
        /// Bytes in the mask.
        mask: usize,
    },
    /// The size cannot be expressed by a BAR.
    #[error("bar size {0:#x} is not a power of two of at least 16 bytes and below 2^63")]
    BarSize(u64),
}

/// What the identification registers say. Fields as in PCI 3.0, 6.2.1 and 6.2.4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Base class, sub-class, programming interface: `0xBBSSPP`.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// Configuration space of one function.
#[derive(Clone, Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    bar_size: Option<u64>,
    /// Where the pointer to the next capability will be written.
    link: u8,
    /// Where the next capability will be placed.
    next: usize,
}

impl ConfigSpace {
    /// A function with `identity`, no BAR and no capabilities. Bus mastering and INTx disable can be switched
    /// by the guest, memory decoding only once there is a BAR.
    pub(crate) fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
            bar_size: None,
            link: CAPABILITY_POINTER,
            next: FIRST_CAPABILITY,
        };
        space.set_word(0x00, identity.vendor);
        space.set_word(0x02, identity.device);
        space.set_dword(0x08, identity.class << 8 | u32::from(identity.revision));
        space.set_word(0x2c, identity.subsystem_vendor);
        space.set_word(0x2e, identity.subsystem);
        space.allow(COMMAND, &(COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE).to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Gives the function its memory BAR: 64 bits wide, `size` bytes.
    ///
    /// Firmware places a prefetchable BAR above 4 GiB more readily; virtio's structures have no read side
    /// effects except the ISR byte and are marked prefetchable by common practice.
    pub(crate) fn set_bar64(&mut self, size: u64, prefetchable: bool) -> Result<(), ConfigError> {
        if !size.is_power_of_two() || !(16..1 << 63).contains(&size) {
            return Err(ConfigError::BarSize(size));
        }
        let flags = BAR_TYPE_64 | if prefetchable { BAR_PREFETCHABLE } else { 0 };
        self.set_bytes(BAR0, &flags.to_le_bytes());
        self.allow(BAR0, &(!(size - 1) & !BAR_FLAGS).to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        self.allow(COMMAND, &command.to_le_bytes());
        self.bar_size = Some(size);
        Ok(())
    }

    /// Appends a capability: `body` is what follows the ID and next-pointer bytes, `writable` has the mask of
    /// each body byte. Returns the offset of the ID byte, a multiple of 4; the body starts at that + 2.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, ConfigError> {
        if writable.len() != body.len() {
            return Err(ConfigError::MaskLength { id, body: body.len(), mask: writable.len() });
        }
        let too_long =
            ConfigError::CapabilityTooLong { id, offset: self.next, len: body.len().saturating_add(2) };
        let end = self.next.saturating_add(2).saturating_add(body.len());
        let offset = match u8::try_from(self.next) {
            Ok(offset) if end <= self.bytes.len() => offset,
            _ => return Err(too_long),
        };
        self.set_byte(offset, id);
        // `offset + 2` cannot wrap: the list starts at 0x40 and `end` is at most 256.
        self.set_bytes(offset + 2, body);
        self.allow(offset + 2, writable);
        self.set_byte(self.link, offset);
        self.set_word(STATUS, self.word(STATUS) | STATUS_CAPABILITIES);
        self.link = offset + 1;
        self.next = end.next_multiple_of(4);
        Ok(offset)
    }

    /// Sets the write mask at `offset`: a set bit can be changed by the guest. Bytes past 255 are ignored.
    pub(crate) fn allow(&mut self, offset: u8, mask: &[u8]) {
        for (slot, value) in self.writable.iter_mut().skip(offset.into()).zip(mask) {
            *slot = *value;
        }
    }

    /// A guest's read. Bytes past the end of the space are all ones.
    pub(crate) fn read(&self, offset: u8, data: &mut [u8]) {
        data.fill(0xff);
        for (value, slot) in data.iter_mut().zip(self.bytes.iter().skip(offset.into())) {
            *value = *slot;
        }
    }

    /// A guest's write, under the masks. Bytes past the end of the space are dropped.
    pub(crate) fn write(&mut self, offset: u8, data: &[u8]) {
        let slots = self.bytes.iter_mut().zip(&self.writable).skip(offset.into());
        for ((slot, mask), value) in slots.zip(data) {
            *slot = (*slot & !mask) | (value & mask);
        }
    }

    /// The range the BAR decodes: `(base, length)`. `None` without a BAR, while memory decoding is off, and
    /// when the range would reach past the address space, which is how a BAR looks while it is being sized.
    pub(crate) fn bar(&self) -> Option<(u64, u64)> {
        let size = self.bar_size?;
        if !self.memory_enabled() {
            return None;
        }
        let base = self.bar_base();
        base.checked_add(size).map(|_| (base, size))
    }

    /// The BAR's address bits, whatever the command register says; 0 without a BAR or before one is assigned.
    pub(crate) fn bar_base(&self) -> u64 {
        let value = u64::from(self.dword(BAR0)) | u64::from(self.dword(BAR0 + 4)) << 32;
        value & !BAR_FLAGS
    }

    /// True if the guest lets the function answer memory accesses.
    pub(crate) fn memory_enabled(&self) -> bool {
        self.word(COMMAND) & COMMAND_MEMORY != 0
    }

    /// The byte at `offset`.
    pub(crate) fn byte(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// The little-endian word at `offset`.
    pub(crate) fn word(&self, offset: u8) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// The little-endian double word at `offset`.
    pub(crate) fn dword(&self, offset: u8) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Stores a byte whatever the masks say: the device's side of a register.
    pub(crate) fn set_byte(&mut self, offset: u8, value: u8) {
        self.bytes[usize::from(offset)] = value;
    }

    /// Stores a word whatever the masks say.
    pub(crate) fn set_word(&mut self, offset: u8, value: u16) {
        self.set_bytes(offset, &value.to_le_bytes());
    }

    /// Stores a double word whatever the masks say.
    pub(crate) fn set_dword(&mut self, offset: u8, value: u32) {
        self.set_bytes(offset, &value.to_le_bytes());
    }

    /// Stores bytes whatever the masks say; those past offset 255 are dropped.
    pub(crate) fn set_bytes(&mut self, offset: u8, data: &[u8]) {
        for (slot, value) in self.bytes.iter_mut().skip(offset.into()).zip(data) {
            *slot = *value;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn virtio_like() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            class: 0x01_80_00,
            revision: 1,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        space.set_bar64(0x8000, true).unwrap();
        space
    }

    #[test]
    fn header_fields_are_where_the_specification_has_them() {
        let space = virtio_like();
        assert_eq!(space.dword(0x00), 0x1042_1af4);
        assert_eq!(space.dword(0x08), 0x0180_0001);
        assert_eq!(space.dword(0x2c), 0x1100_1af4);
        assert_eq!(space.byte(0x0e), 0, "header type 0, single function");
        assert_eq!(space.byte(0x3d), 0, "no interrupt pin");
        assert_eq!(space.word(STATUS) & STATUS_CAPABILITIES, 0);
    }

    #[test]
    fn bar_sizing_protocol() {
        let mut space = virtio_like();
        // Software reads the BAR, writes all ones to both halves, reads back and computes the size.
        assert_eq!(space.dword(0x10), 0xc, "64-bit, prefetchable, unassigned");
        space.write(0x10, &[0xff; 4]);
        space.write(0x14, &[0xff; 4]);
        let sized = u64::from(space.dword(0x14)) << 32 | u64::from(space.dword(0x10));
        assert_eq!(!(sized & !0xf) + 1, 0x8000);
        space.write(COMMAND, &2_u16.to_le_bytes());
        assert_eq!(space.bar(), None, "a BAR being sized decodes nothing");
        space.write(COMMAND, &0_u16.to_le_bytes());
        space.write(0x10, &0x1234_9abc_u32.to_le_bytes());
        space.write(0x14, &0x10_u32.to_le_bytes());
        assert_eq!(space.bar(), None, "memory decoding is off");
        space.write(COMMAND, &0x7_u16.to_le_bytes());
        assert_eq!(space.word(COMMAND), 0x6, "no I/O BAR, so I/O decoding cannot be switched on");
        assert_eq!(space.bar(), Some((0x10_1234_8000, 0x8000)));
        assert_ne!(space.word(COMMAND) & COMMAND_BUS_MASTER, 0);
    }

    #[test]
    fn a_function_without_bar_never_decodes() {
        let mut space = ConfigSpace::new(Identity::default());
        for offset in (0..=0xfc_u8).step_by(4) {
            space.write(offset, &[0xff; 4]);
        }
        assert_eq!(space.bar(), None);
        assert!(!space.memory_enabled());
        assert_eq!(space.dword(0x10), 0);
    }

    #[test]
    fn capabilities_form_a_list_and_only_masked_bits_change() {
        let mut space = virtio_like();
        let first = space.add_capability(0x09, &[16, 1, 0, 0, 0, 0xaa, 0xbb], &[0; 7]).unwrap();
        let second = space.add_capability(0x11, &[3, 0, 0, 0], &[0, 0xc0, 0, 0]).unwrap();
        assert_eq!((first, second), (0x40, 0x4c));
        let mut seen = Vec::new();
        let mut at = space.byte(CAPABILITY_POINTER);
        while at != 0 {
            seen.push(space.byte(at));
            at = space.byte(at + 1);
        }
        assert_eq!(seen, [0x09, 0x11]);
        assert_ne!(space.word(STATUS) & STATUS_CAPABILITIES, 0);
        space.write(second, &[0xff; 4]);
        assert_eq!(space.dword(second), 0xc003_0011);
    }

    #[test]
    fn builder_mistakes_are_errors() {
        let mut space = virtio_like();
        assert_eq!(space.set_bar64(0x1001, false), Err(ConfigError::BarSize(0x1001)));
        assert_eq!(space.set_bar64(8, false), Err(ConfigError::BarSize(8)));
        assert!(matches!(space.add_capability(9, &[0; 3], &[0; 2]), Err(ConfigError::MaskLength { .. })));
        space.add_capability(9, &[0; 190], &[0; 190]).unwrap();
        assert!(matches!(
            space.add_capability(9, &[], &[]),
            Err(ConfigError::CapabilityTooLong { offset: 0x100, .. })
        ));
        assert!(matches!(
            virtio_like().add_capability(9, &[0; 191], &[0; 191]),
            Err(ConfigError::CapabilityTooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn guest_writes_never_reach_read_only_bits(
            ops in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..9)), 0..64)
        ) {
            let mut space = virtio_like();
            let cap = space.add_capability(0x11, &[0xff; 10], &[0x0f; 10]).unwrap();
            let before = space.clone();
            for (offset, data) in &ops {
                space.write(*offset, data);
            }
            for offset in 0..=255_u8 {
                let fixed = !before.writable[usize::from(offset)];
                prop_assert_eq!(space.byte(offset) & fixed, before.byte(offset) & fixed);
            }
            prop_assert_eq!(space.byte(cap), 0x11);
            if let Some((base, len)) = space.bar() {
                prop_assert_eq!(base % 0x8000, 0);
                prop_assert!(base.checked_add(len).is_some());
            }
        }
    }
}

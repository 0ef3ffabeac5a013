// SPDX-License-Identifier: Apache-2.0
//! The enhanced configuration access mechanism (PCI Express 3.0, 7.2.2): configuration space as memory.
//!
//! Address bits 27:20 are the bus, 19:15 the device, 14:12 the function, 11:0 the byte. Bus 0 is the first
//! MiB; everything else, and every byte from 0x100 on, is absent.
//!
//! Firmware decides where the window is, by PCIEXBAR of the host bridge: OVMF at 0xe0000000, before 2023 at
//! 0xb0000000. The machine says which part of the address space is free for it; a window that would lie
//! elsewhere decodes nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cvmm_metrics::{Inspect, View};

use super::root::{ConfigAddress, Mechanism, PciRoot};
use crate::bus::Access;

/// Bytes of a window with all 256 buses.
const LEN: u64 = 256 << 20;
/// PCIEXBAR: the window is on.
const ENABLE: u64 = 1;
/// PCIEXBAR: the window's length, 256, 128 or 64 MiB.
const LENGTH: u64 = 3 << 1;
/// No window. A register value always has its enable bit, so that no window looks like this.
const OFF: u64 = 0;

/// Where the window is, shared by the register that says so and by the memory that decodes it.
#[derive(Debug)]
pub struct EcamWindow {
    /// Base and length as in PCIEXBAR, or [`OFF`].
    register: AtomicU64,
    free: Range<u64>,
}

impl EcamWindow {
    /// A window that firmware finds on, at `base`, and may move within `free`, where neither RAM nor fixed
    /// devices are.
    #[must_use]
    pub fn new(base: u64, free: Range<u64>) -> Arc<Self> {
        let window = Self { register: AtomicU64::new(OFF), free };
        window.program(base | ENABLE);
        Arc::new(window)
    }

    /// The register's value.
    pub(super) fn register(&self) -> u64 {
        self.register.load(Ordering::Relaxed)
    }

    /// Takes a value of the register.
    pub(super) fn program(&self, value: u64) {
        let usable =
            range(value).is_some_and(|range| self.free.start <= range.start && range.end <= self.free.end);
        self.register.store(if usable { value } else { OFF }, Ordering::Relaxed);
    }

    /// Where in the window an access of `len` bytes at `gpa` is.
    fn offset(&self, gpa: u64, len: usize) -> Option<u64> {
        let range = range(self.register())?;
        let end = gpa.checked_add(u64::try_from(len).ok()?)?;
        (range.start <= gpa && end <= range.end).then(|| gpa - range.start)
    }
}

impl Inspect for EcamWindow {
    fn inspect(&self, view: &mut View) {
        view.number("pciexbar", self.register());
    }
}

/// What a value of PCIEXBAR decodes.
fn range(value: u64) -> Option<Range<u64>> {
    let len = match (value & LENGTH) >> 1 {
        0 => LEN,
        1 => LEN / 2,
        2 => LEN / 4,
        _ => return None,
    };
    let base = value & !(len - 1);
    (value & ENABLE != 0).then_some(())?;
    Some(base..base.checked_add(len)?)
}

/// The memory window of a [`PciRoot`].
#[derive(Debug)]
pub struct Ecam {
    root: Arc<PciRoot>,
    window: Arc<EcamWindow>,
}

impl Ecam {
    /// Bytes of a window: 256 buses of 1 MiB.
    pub const LEN: u64 = LEN;

    /// Serves `root` in `window`.
    pub fn new(root: Arc<PciRoot>, window: Arc<EcamWindow>) -> Self {
        Self { root, window }
    }

    /// Reads, if all of the access is in the window.
    pub fn read(&self, gpa: u64, data: &mut [u8]) -> Access<'_> {
        let Some(offset) = self.window.offset(gpa, data.len()) else { return Access::Unclaimed };
        self.root.config_read(Mechanism::Ecam, Self::address(offset), data);
        Access::Claimed("pci ecam")
    }

    /// Writes, if all of the access is in the window.
    pub fn write(&self, gpa: u64, data: &[u8]) -> Access<'_> {
        let Some(offset) = self.window.offset(gpa, data.len()) else { return Access::Unclaimed };
        self.root.config_write(Mechanism::Ecam, Self::address(offset), data);
        Access::Claimed("pci ecam")
    }

    /// The conversions truncate on purpose: each field is masked to its width.
    fn address(offset: u64) -> ConfigAddress {
        ConfigAddress {
            bus: (offset >> 20) as u8,
            device: (offset >> 15) as u8 & 0x1f,
            function: (offset >> 12) as u8 & 0x7,
            offset: offset as u16 & 0xfff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Range<u64> = 0x8000_0000..0xf000_0000;

    fn window(value: u64) -> Option<Range<u64>> {
        let window = EcamWindow::new(0xe000_0000, FREE);
        window.program(value);
        assert_eq!(window.register(), if range(window.register()).is_some() { value } else { OFF });
        range(window.register())
    }

    #[test]
    fn goes_where_the_register_says() {
        let window = |value| window(value).map(|range| (range.start, range.end - range.start));
        assert_eq!(window(0xb000_0001), Some((0xb000_0000, 256 << 20)));
        assert_eq!(window(0xe000_0001), Some((0xe000_0000, 256 << 20)));
        assert_eq!(window(0xe800_0003), Some((0xe800_0000, 128 << 20)));
        assert_eq!(window(0xec00_0005), Some((0xec00_0000, 64 << 20)));
        assert_eq!(window(0xe000_0007), None, "a reserved length");
        assert_eq!(window(0xb000_0000), None, "not enabled");
        for elsewhere in [0x7000_0001, 0xf000_0001, 0x1_0000_0001, 1, u64::MAX, 0xffff_ffff_f000_0001] {
            assert_eq!(window(elsewhere), None, "{elsewhere:#x}");
        }
    }

    #[test]
    fn holds_whole_accesses_only() {
        let window = EcamWindow::new(0xe000_0000, FREE);
        assert_eq!(window.offset(0xe000_0000, 4), Some(0));
        assert_eq!(window.offset(0xefff_fffc, 4), Some(LEN - 4));
        assert_eq!(window.offset(0xefff_fffd, 4), None);
        assert_eq!(window.offset(0xdfff_ffff, 4), None);
        assert_eq!(window.offset(u64::MAX, 8), None);
        window.program(0);
        assert_eq!(window.offset(0xe000_0000, 4), None);
    }
}

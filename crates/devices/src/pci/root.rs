// SPDX-License-Identifier: Apache-2.0
//! Bus 0: which function sits in which slot, and which BAR decodes which address.
//!
//! The table of slots is fixed once built; each function has its own lock, and a small table of what the BARs
//! decode is kept beside them so that a memory access locks only the function it is for. Lock order is
//! function, then table. The table is a hint: the function is asked again under its lock before it gets the
//! access.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cvmm_metrics::{Inspect, View};
use thiserror::Error;

use super::PciFunction;
use super::metrics::FunctionMetrics;
use crate::bus::{Access, lock};

/// Device numbers on a bus (PCI 3.0, 3.2.2.3.2).
const DEVICES: usize = 32;
/// Bytes of configuration space a function has; extended space reads as absent.
const CONFIG_BYTES: u16 = 256;

/// Mistakes in assembling the bus.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PciError {
    /// No such slot.
    #[error("pci device number {device} for {name} is not 0-31")]
    DeviceNumber {
        /// Function to be added.
        name: String,
        /// Number asked for.
        device: u8,
    },
    /// The slot holds a function already.
    #[error("pci device number {device} for {new} is taken by {old}")]
    Taken {
        /// Function to be added.
        new: String,
        /// Function already there.
        old: String,
        /// Number asked for.
        device: u8,
    },
}

/// Where a function's configuration space can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// By ports 0xcf8/0xcfc only: Linux without MCFG sees it, firmware's ECAM enumeration does not.
    Cf8Only,
    /// By ports and ECAM.
    Everywhere,
}

/// The way a configuration access came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mechanism {
    /// Ports 0xcf8/0xcfc.
    Ports,
    /// The memory window.
    Ecam,
}

/// An address range in which BARs may decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Window {
    /// True if all of `base..base + len` lies inside and is not empty.
    fn holds(&self, base: u64, len: u64) -> bool {
        let end = base.checked_sub(self.base).and_then(|skip| skip.checked_add(len));
        len > 0 && end.is_some_and(|end| end <= self.len)
    }
}

struct Slot {
    name: String,
    visibility: Visibility,
    function: Arc<Mutex<dyn PciFunction>>,
    accesses: FunctionMetrics,
    metrics: Arc<dyn Inspect>,
}

impl Inspect for Slot {
    fn inspect(&self, view: &mut View) {
        self.accesses.inspect(view);
        self.metrics.inspect(view);
    }
}

/// The functions of bus 0.
pub struct PciRoot {
    slots: [Option<Slot>; DEVICES],
    windows: Vec<Window>,
    /// Per slot, the range its BAR decodes, if inside a window.
    decoded: RwLock<[Option<Window>; DEVICES]>,
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots.iter().enumerate();
        let slots = slots.filter_map(|(i, slot)| slot.as_ref().map(|s| (i, (&s.name, s.visibility))));
        f.debug_map().entries(slots).finish()
    }
}

impl PciRoot {
    /// An empty bus whose BARs decode only inside `windows`. The windows must hold neither RAM nor fixed
    /// devices; a BAR that a guest places elsewhere decodes nothing.
    pub fn new(windows: &[Window]) -> Self {
        Self {
            slots: std::array::from_fn(|_| None),
            windows: windows.to_vec(),
            decoded: RwLock::new([None; DEVICES]),
        }
    }

    /// Puts `function` at 00:`device`.0.
    pub fn add(
        &mut self,
        device: u8,
        name: impl Into<String>,
        visibility: Visibility,
        function: Arc<Mutex<dyn PciFunction>>,
    ) -> Result<(), PciError> {
        let name = name.into();
        match self.slots.get_mut(usize::from(device)) {
            None => Err(PciError::DeviceNumber { name, device }),
            Some(Some(old)) => Err(PciError::Taken { new: name, old: old.name.clone(), device }),
            Some(free) => {
                let metrics = lock(&function).metrics();
                let accesses = FunctionMetrics::default();
                *free = Some(Slot { name, visibility, function, accesses, metrics });
                Ok(())
            }
        }
    }

    /// Reads configuration space of `bus`:`device`.`function`; what does not exist reads as all ones.
    pub(crate) fn config_read(&self, via: Mechanism, address: ConfigAddress, data: &mut [u8]) -> Access<'_> {
        data.fill(0xff);
        let Some((_, slot)) = self.slot(via, address) else {
            return Access::Unclaimed;
        };
        slot.accesses.config_reads.increment();
        let mut function = lock(&slot.function);
        for (offset, range) in aligned_pieces(address.offset, data.len()) {
            if let (Ok(offset), Some(piece)) = (u8::try_from(offset), data.get_mut(range)) {
                function.config_read(offset, piece);
            }
        }
        Access::Claimed(&slot.name)
    }

    /// Writes configuration space; writes to what does not exist are dropped.
    pub(crate) fn config_write(&self, via: Mechanism, address: ConfigAddress, data: &[u8]) -> Access<'_> {
        let Some((index, slot)) = self.slot(via, address) else {
            return Access::Unclaimed;
        };
        slot.accesses.config_writes.increment();
        let mut function = lock(&slot.function);
        for (offset, range) in aligned_pieces(address.offset, data.len()) {
            if let (Ok(offset), Some(piece)) = (u8::try_from(offset), data.get(range)) {
                function.config_write(offset, piece);
            }
        }
        let decoded = self.decoded_by(&*function);
        let mut table = self.decoded.write().unwrap_or_else(PoisonError::into_inner);
        table[index] = decoded;
        Access::Claimed(&slot.name)
    }

    /// A memory read that no fixed device claimed. All ones where no BAR decodes all of the access.
    pub fn bar_read(&self, gpa: u64, data: &mut [u8]) -> Access<'_> {
        let len = data.len();
        let count = |accesses: &FunctionMetrics| accesses.bar_reads.increment();
        let answer = self.with_bar(gpa, len, count, |function, offset| function.bar_read(offset, data));
        match answer {
            Some(name) => Access::Claimed(name),
            None => {
                data.fill(0xff);
                Access::Unclaimed
            }
        }
    }

    /// A memory write that no fixed device claimed. Dropped where no BAR decodes all of the access.
    pub fn bar_write(&self, gpa: u64, data: &[u8]) -> Access<'_> {
        let count = |accesses: &FunctionMetrics| accesses.bar_writes.increment();
        let answer =
            self.with_bar(gpa, data.len(), count, |function, offset| function.bar_write(offset, data));
        answer.map_or(Access::Unclaimed, Access::Claimed)
    }

    /// Runs `access` on the function whose BAR decodes `gpa..gpa + len`. When a guest lets BARs overlap, the
    /// lowest device number wins.
    fn with_bar(
        &self,
        gpa: u64,
        len: usize,
        count: impl FnOnce(&FunctionMetrics),
        access: impl FnOnce(&mut dyn PciFunction, u64),
    ) -> Option<&str> {
        let len = u64::try_from(len).ok()?;
        let index = {
            let table = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
            table.iter().position(|range| range.is_some_and(|r| r.holds(gpa, len)))?
        };
        let slot = self.slots.get(index)?.as_ref()?;
        let mut function = lock(&slot.function);
        // Another vCPU may have moved the BAR since the table was read.
        let range = self.decoded_by(&*function).filter(|r| r.holds(gpa, len))?;
        count(&slot.accesses);
        access(&mut *function, gpa - range.base);
        Some(&slot.name)
    }

    fn decoded_by(&self, function: &dyn PciFunction) -> Option<Window> {
        let (base, len) = function.decoded()?;
        self.windows.iter().any(|w| w.holds(base, len)).then_some(Window { base, len })
    }

    fn slot(&self, via: Mechanism, address: ConfigAddress) -> Option<(usize, &Slot)> {
        if address.bus != 0 || address.function != 0 || address.offset >= CONFIG_BYTES {
            return None;
        }
        let index = usize::from(address.device);
        let slot = self.slots.get(index)?.as_ref()?;
        (via == Mechanism::Ports || slot.visibility == Visibility::Everywhere).then_some((index, slot))
    }
}

/// Every function under its name.
impl Inspect for PciRoot {
    fn inspect(&self, view: &mut View) {
        for slot in self.slots.iter().flatten() {
            view.part(slot.name.as_str(), slot);
        }
    }
}

/// What a configuration access names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConfigAddress {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0-31.
    pub device: u8,
    /// Function number, 0-7.
    pub function: u8,
    /// Byte offset, 0-4095.
    pub offset: u16,
}

/// Splits an access of any length and alignment into naturally aligned pieces of 4, 2 and 1 bytes, which is
/// what [`PciFunction`] promises its implementers: `(offset, bytes of the access)`.
fn aligned_pieces(start: u16, len: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let start = usize::from(start);
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let offset = start + done;
        let size = [4, 2].into_iter().find(|size| offset % size == 0 && left >= *size).unwrap_or(1);
        let piece = (offset, done..done + size);
        done += size;
        Some(piece)
    })
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;

// SPDX-License-Identifier: Apache-2.0
//! A bus: which device answers at which address.
//!
//! One [`Bus`] serves ports, another MMIO. It is filled while the machine is built and then shared,
//! read-only, by all vCPU threads; each device has its own lock, so two vCPUs contend only when they touch
//! the same one. Unclaimed addresses read as all ones and swallow writes, as on a PC. The same happens to an
//! access that only partly lies in a device's range: real chipsets differ there and no guest relies on it.
//!
//! Every access says who answered ([`Access`]), so that the VMM can count exits per device.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cvmm_metrics::{Inspect, View, counters};
use thiserror::Error;

/// A device reached by port or MMIO accesses.
///
/// `offset` counts from the start of the range the device was added with. `data` holds 1, 2, 4 or 8 bytes,
/// little-endian. An access never crosses the end of the range. Implementations must accept any combination.
pub trait BusDevice: Send {
    /// Fills `data`; bytes the device does not implement must be set to all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`; writes the device does not implement are dropped.
    fn write(&mut self, offset: u64, data: &[u8]);
    /// What the device has done, beyond the accesses, which the bus counts.
    fn metrics(&self) -> Arc<dyn Inspect>;
}

counters! {
    /// Accesses to a device.
    struct AccessMetrics {
        /// Reads.
        reads,
        /// Writes.
        writes,
    }
}

/// Why a device cannot be put at an address. Ranges are shown as first and last address.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// Two devices would answer at one address.
    #[error("{new} at {new_first:#x}-{new_last:#x} overlaps {old} at {old_first:#x}-{old_last:#x}")]
    Overlap {
        /// Device to be added.
        new: String,
        /// First address of the new device.
        new_first: u64,
        /// Last address of the new device.
        new_last: u64,
        /// Device already there.
        old: String,
        /// First address of the old device.
        old_first: u64,
        /// Last address of the old device.
        old_last: u64,
    },
    /// The range holds no address or wraps around.
    #[error("{name}: a range of {len:#x} bytes at {base:#x} is empty or passes the end of the address space")]
    BadRange {
        /// Device to be added.
        name: String,
        /// Its first address.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
}

/// Who answered an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// The device of this name.
    Claimed(&'a str),
    /// No device: reads gave all ones, writes were dropped.
    Unclaimed,
}

struct Entry {
    first: u64,
    last: u64,
    name: String,
    device: Arc<Mutex<dyn BusDevice>>,
    accesses: AccessMetrics,
    metrics: Arc<dyn Inspect>,
}

impl Inspect for Entry {
    fn inspect(&self, view: &mut View) {
        self.accesses.inspect(view);
        self.metrics.inspect(view);
    }
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    /// Sorted by address; ranges are disjoint.
    entries: Vec<Entry>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.entries.iter().map(|e| (format!("{:#x}-{:#x}", e.first, e.last), &e.name));
        f.debug_map().entries(ranges).finish()
    }
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer at `base..base + len`. `name` is used in errors and exit counts.
    pub fn add(
        &mut self,
        base: u64,
        len: u64,
        name: impl Into<String>,
        device: Arc<Mutex<dyn BusDevice>>,
    ) -> Result<(), BusError> {
        let name = name.into();
        let last = match len.checked_sub(1).and_then(|more| base.checked_add(more)) {
            Some(last) => last,
            None => return Err(BusError::BadRange { name, base, len }),
        };
        let at = self.entries.partition_point(|e| e.last < base);
        if let Some(old) = self.entries.get(at).filter(|e| e.first <= last) {
            return Err(BusError::Overlap {
                new: name,
                new_first: base,
                new_last: last,
                old: old.name.clone(),
                old_first: old.first,
                old_last: old.last,
            });
        }
        let metrics = lock(&device).metrics();
        let accesses = AccessMetrics::default();
        self.entries.insert(at, Entry { first: base, last, name, device, accesses, metrics });
        Ok(())
    }

    /// One read of `data.len()` bytes at `addr`.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> Access<'_> {
        self.read_string(addr, data.len(), data)
    }

    /// One write of `data.len()` bytes at `addr`.
    pub fn write(&self, addr: u64, data: &[u8]) -> Access<'_> {
        self.write_string(addr, data.len(), data)
    }

    /// A string instruction (`rep ins`): as many reads of `width` bytes at the same address as fill `data`.
    /// The device is locked once. A rest shorter than `width` reads as all ones.
    pub fn read_string(&self, addr: u64, width: usize, data: &mut [u8]) -> Access<'_> {
        let Some(entry) = self.find(addr, width) else {
            data.fill(0xff);
            return Access::Unclaimed;
        };
        let mut device = lock(&entry.device);
        let mut items = data.chunks_exact_mut(width);
        entry.accesses.reads.add(items.len() as u64);
        for item in &mut items {
            device.read(addr - entry.first, item);
        }
        items.into_remainder().fill(0xff);
        Access::Claimed(&entry.name)
    }

    /// A string instruction (`rep outs`): as many writes of `width` bytes as `data` holds.
    pub fn write_string(&self, addr: u64, width: usize, data: &[u8]) -> Access<'_> {
        let Some(entry) = self.find(addr, width) else {
            return Access::Unclaimed;
        };
        let mut device = lock(&entry.device);
        let items = data.chunks_exact(width);
        entry.accesses.writes.add(items.len() as u64);
        for item in items {
            device.write(addr - entry.first, item);
        }
        Access::Claimed(&entry.name)
    }

    /// The entry that holds all of `addr..addr + len`; `len` 0 matches nothing.
    fn find(&self, addr: u64, len: usize) -> Option<&Entry> {
        let more = u64::try_from(len.checked_sub(1)?).ok()?;
        let last = addr.checked_add(more)?;
        let at = self.entries.partition_point(|e| e.last < addr);
        self.entries.get(at).filter(|e| e.first <= addr && last <= e.last)
    }
}

/// Every device under its name.
impl Inspect for Bus {
    fn inspect(&self, view: &mut View) {
        for entry in &self.entries {
            view.part(entry.name.as_str(), entry);
        }
    }
}

/// Locks `mutex` even after a panic of another holder: a device whose state may be odd harms its own guest
/// only, a second panic would take down the thread that shuts the machine down in order.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    counters! {
        /// Of a probe.
        struct ProbeMetrics {
            /// Bytes that were written.
            bytes,
        }
    }

    /// Reads give the offset; writes are recorded.
    #[derive(Default)]
    struct Probe {
        writes: Vec<(u64, Vec<u8>)>,
        reads: u32,
        metrics: Arc<ProbeMetrics>,
    }

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            assert!(self.reads != 13, "a device bug for the poison test");
            self.reads += 1;
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.metrics.bytes.add(data.len() as u64);
            self.writes.push((offset, data.to_vec()));
        }
        fn metrics(&self) -> Arc<dyn Inspect> {
            self.metrics.clone()
        }
    }

    fn probe() -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe::default()))
    }

    #[test]
    fn dispatches_by_range_and_counts_from_its_start() {
        let (a, b) = (probe(), probe());
        let mut bus = Bus::new();
        bus.add(0x70, 2, "rtc", a.clone()).unwrap();
        bus.add(0x72, 4, "other", b.clone()).unwrap();
        let mut data = [0; 2];
        assert_eq!(bus.read(0x71, &mut data[..1]), Access::Claimed("rtc"));
        assert_eq!(data[0], 1);
        assert_eq!(bus.write(0x74, &[1, 2]), Access::Claimed("other"));
        assert_eq!(b.lock().unwrap().writes, [(2, vec![1, 2])]);
        // Crossing from one device into the next belongs to neither.
        assert_eq!(bus.read(0x71, &mut data), Access::Unclaimed);
        assert_eq!(data, [0xff; 2]);
        assert_eq!(bus.write(0x6f, &[0; 2]), Access::Unclaimed);
        assert_eq!(bus.read(0x80, &mut data), Access::Unclaimed);
        assert_eq!(a.lock().unwrap().reads, 1);
        assert!(a.lock().unwrap().writes.is_empty());
    }

    #[test]
    fn string_accesses_repeat_at_one_address() {
        let device = probe();
        let mut bus = Bus::new();
        bus.add(0x510, 4, "fw_cfg", device.clone()).unwrap();
        let mut data = [0; 5];
        assert_eq!(bus.read_string(0x511, 2, &mut data), Access::Claimed("fw_cfg"));
        assert_eq!(data, [1, 1, 1, 1, 0xff]);
        bus.write_string(0x511, 1, &[7, 8]);
        assert_eq!(device.lock().unwrap().writes, [(1, vec![7]), (1, vec![8])]);
        assert_eq!(bus.read_string(0x511, 0, &mut data), Access::Unclaimed);
    }

    #[test]
    fn accesses_are_counted_by_device() {
        let mut bus = Bus::new();
        bus.add(0x70, 2, "rtc", probe()).unwrap();
        bus.add(0x510, 4, "fw_cfg", probe()).unwrap();
        bus.read(0x71, &mut [0]);
        bus.write(0x70, &[1]);
        // Not the device's: its rest is too short, it crosses the end, nothing is there.
        bus.read_string(0x510, 2, &mut [0; 7]);
        bus.read(0x71, &mut [0; 2]);
        bus.write(0x80, &[0]);
        let view = View::of(&bus);
        let counts = |name| (view.count(&[name, "reads"]).unwrap(), view.count(&[name, "writes"]).unwrap());
        assert_eq!((counts("rtc"), counts("fw_cfg")), ((1, 1), (3, 0)));
    }

    #[test]
    fn overlaps_name_both_devices() {
        let mut bus = Bus::new();
        bus.add(0x100, 0x10, "first", probe()).unwrap();
        for (base, len) in [(0x10f, 1), (0xff, 2), (0x80, 0x1000), (0x104, 2)] {
            let text = bus.add(base, len, "second", probe()).unwrap_err().to_string();
            assert!(text.contains("first") && text.contains("second"), "{text}");
        }
        bus.add(0x110, 1, "after", probe()).unwrap();
        bus.add(0xff, 1, "before", probe()).unwrap();
        assert!(matches!(bus.add(0, 0, "empty", probe()), Err(BusError::BadRange { .. })));
        assert!(matches!(bus.add(u64::MAX, 2, "wraps", probe()), Err(BusError::BadRange { .. })));
        bus.add(u64::MAX, 1, "last byte", probe()).unwrap();
        assert_eq!(bus.read(u64::MAX, &mut [0]), Access::Claimed("last byte"));
        assert_eq!(bus.read(u64::MAX, &mut [0, 0]), Access::Unclaimed);
    }

    #[test]
    fn a_poisoned_device_still_answers() {
        let device = probe();
        device.lock().unwrap().reads = 13;
        let mut bus = Bus::new();
        bus.add(0, 8, "probe", device).unwrap();
        let bus = Arc::new(bus);
        let other = bus.clone();
        assert!(std::thread::spawn(move || other.read(0, &mut [0]) == Access::Unclaimed).join().is_err());
        assert_eq!(bus.write(3, &[0]), Access::Claimed("probe"));
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            ranges in proptest::collection::vec((0_u64..200, 0_u64..20), 0..20),
            accesses in proptest::collection::vec((0_u64..230, 1_usize..9), 1..50),
        ) {
            let mut bus = Bus::new();
            let mut model: Vec<(u64, u64, String)> = Vec::new();
            for (i, (base, len)) in ranges.into_iter().enumerate() {
                let free = len > 0 && model.iter().all(|(b, l, _)| base + len <= *b || b + l <= base);
                let added = bus.add(base, len, i.to_string(), probe()).is_ok();
                prop_assert_eq!(added, free);
                if added {
                    model.push((base, len, i.to_string()));
                }
            }
            for (addr, len) in accesses {
                let mut data = vec![0; len];
                let end = addr + len as u64;
                let expected = model.iter().find(|(b, l, _)| *b <= addr && end <= b + l);
                let got = bus.write(addr, &data);
                match expected {
                    Some((_, _, name)) => prop_assert_eq!(got, Access::Claimed(name)),
                    None => {
                        prop_assert_eq!(got, Access::Unclaimed);
                        bus.read(addr, &mut data);
                        prop_assert!(data.iter().all(|b| *b == 0xff));
                    }
                }
            }
        }
    }
}

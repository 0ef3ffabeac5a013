// SPDX-License-Identifier: Apache-2.0
//! fw_cfg: port accesses and DMA descriptors against a model of what they return, and a bound on what they
//! cost.
#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use cvmm_devices::bus::BusDevice;
use cvmm_devices::fw_cfg::{Content, FwCfg, PADDING_LIMIT, key};
use cvmm_fuzz::input::{Input, width};
use cvmm_fuzz::machine::memory;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};

const RAM: u64 = 0x4_0000;
/// Bytes of the largest item: more than the device copies at once.
const LARGEST: usize = 70_000;
/// Accesses of one input.
const STEPS: usize = 64;
/// Most bytes read ahead for one byte.
const WINDOW: u64 = 4096;

/// Counts what is read of it; may fail from some offset on, as a file that shrank.
struct Counted {
    bytes: &'static [u8],
    good: u64,
    read: Arc<AtomicU64>,
}

impl Content for Counted {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let end = offset.checked_add(buf.len() as u64).expect("an offset inside of the item");
        assert!(end <= self.len(), "{offset:#x}, {} bytes: past the end of the item", buf.len());
        if end > self.good {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        Ok(())
    }
}

fn pattern(len: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    &BYTES.get_or_init(|| (0..LARGEST).map(|i| (i % 251) as u8 + 1).collect())[..len]
}

/// Selected item and offset, and what is in the items whose bytes are known here.
struct Model {
    items: BTreeMap<u16, &'static [u8]>,
    selected: u16,
    offset: u64,
}

impl Model {
    /// `None` where the item is not one of ours.
    fn byte(&self, at: u64) -> Option<u8> {
        let item = self.items.get(&self.selected)?;
        Some(usize::try_from(at).ok().and_then(|at| item.get(at)).copied().unwrap_or(0))
    }

    fn select(&mut self, key: u16) {
        self.selected = key;
        self.offset = 0;
    }

    fn skip(&mut self, len: u64) {
        self.offset = self.offset.saturating_add(len);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let memory = memory(RAM as usize);
    let read = Arc::new(AtomicU64::new(0));
    let counted = |len, good| Counted { bytes: pattern(len), good, read: read.clone() };
    let mut device = FwCfg::builder()
        .vcpus(2)
        .cmdline("quiet")
        .kernel(counted(1024, 1024), counted(LARGEST, LARGEST as u64))
        .initrd(counted(9000, 5000))
        .file("etc/one", counted(7, 7))
        .file("etc/two", counted(0, 0))
        .build(memory.clone())
        .expect("the items are good");
    let mut model = Model {
        items: BTreeMap::from([
            (key::SIGNATURE, &b"QEMU"[..]),
            (key::CMDLINE_DATA, b"quiet\0"),
            (key::SETUP_DATA, pattern(1024)),
            (key::KERNEL_DATA, pattern(LARGEST)),
            (key::FIRST_FILE, pattern(7)),
            (key::FIRST_FILE + 1, &[]),
        ]),
        selected: key::SIGNATURE,
        offset: 0,
    };

    for _ in 0..STEPS {
        if !input.more() {
            break;
        }
        let before = read.load(Ordering::Relaxed);
        let mut bound = WINDOW;
        match input.u8() % 6 {
            0 => {
                let key = input.u16();
                device.write(0, &key.to_le_bytes());
                model.select(key);
            }
            1 => {
                for _ in 0..input.u8() % 32 {
                    let mut byte = [0];
                    device.read(1, &mut byte);
                    if let Some(expected) = model.byte(model.offset) {
                        assert_eq!(byte[0], expected, "item {:#x} at {:#x}", model.selected, model.offset);
                    }
                    model.skip(1);
                }
                bound = 2 * WINDOW;
            }
            2 => {
                let (offset, selector) = (input.u8() % 12, input.u8());
                let mut data = vec![0; width(selector).min(12 - usize::from(offset))];
                // A read of the data register moves on; that is step 1.
                if (offset, data.len()) != (1, 1) {
                    device.read(offset.into(), &mut data);
                }
            }
            3 => {
                let (offset, selector) = (input.u8() % 12, input.u8());
                let mut data = input.access(selector);
                data.truncate(12 - usize::from(offset));
                // Selection and DMA are steps 0 and 4; the high half alone only waits for them.
                if !matches!((offset, data.len()), (0, 2) | (4, 8) | (4, 4) | (8, 4)) {
                    device.write(offset.into(), &data);
                }
            }
            4 => {
                let at = match input.u8() {
                    0xff => input.u64(),
                    page => u64::from(page) << 10,
                };
                let control = u32::from(input.u8()) | u32::from(input.u16()) << 16;
                let length = match input.u8() {
                    0xff => input.u32(),
                    0xfe => input.u16().into(),
                    small => small.into(),
                };
                let target = match input.u8() {
                    0xff => input.u64(),
                    page => u64::from(page) << 10 | 0x20,
                };
                let mut descriptor = [0; 16];
                descriptor[..4].copy_from_slice(&control.to_be_bytes());
                descriptor[4..8].copy_from_slice(&length.to_be_bytes());
                descriptor[8..].copy_from_slice(&target.to_be_bytes());
                let there = memory.write_slice(&descriptor, GuestAddress(at)).is_ok();
                if control & 0x40 != 0 {
                    device.write(4, &((at >> 32) as u32).to_be_bytes());
                    device.write(8, &(at as u32).to_be_bytes());
                } else {
                    device.write(4, &at.to_be_bytes());
                }
                if there {
                    bound = length.into();
                    check_dma(&memory, &mut model, (at, control, length.into(), target));
                } else {
                    bound = 0;
                }
            }
            _ => {
                let at = u64::from(input.u16());
                let len = input.u8() % 32;
                let _ = memory.write(input.bytes(len.into()), GuestAddress(at));
                bound = 0;
            }
        }
        let cost = read.load(Ordering::Relaxed) - before;
        assert!(cost <= bound, "{cost} bytes read of an item, {bound} would do");
    }
});

/// What a descriptor `(at, control, length, target)` must have done.
fn check_dma(
    memory: &cvmm_devices::memory::DeviceMemory,
    model: &mut Model,
    (at, control, length, target): (u64, u32, u64, u64),
) {
    let mut result = [0; 4];
    memory.read_slice(&mut result, GuestAddress(at)).expect("the descriptor is in memory");
    let result = u32::from_be_bytes(result);
    if control & 8 != 0 {
        model.select((control >> 16) as u16);
    }
    let start = model.offset;
    match control & 0x16 {
        0 | 4 => assert_eq!(result, 0),
        0x10 | 0x14 => assert_eq!(result, u32::from(length != 0), "a write"),
        _ => {
            assert!(result <= 1, "{result:#x}");
            let left = model.items.get(&model.selected).map(|item| (item.len() as u64).saturating_sub(start));
            let fits = target.checked_add(length).is_some_and(|end| end <= RAM);
            let padded = left.is_some_and(|left| length - left.min(length) > PADDING_LIMIT);
            if length > 0 && !fits || padded {
                assert_eq!(result, 1, "a read to {target:#x}, {length:#x} bytes");
            } else if left.is_some() {
                assert_eq!(result, 0, "a read to {target:#x}, {length:#x} bytes");
            }
            if result == 0 {
                let mut bytes = vec![0; length as usize];
                memory.read_slice(&mut bytes, GuestAddress(target)).unwrap_or_default();
                for (i, byte) in (0..).zip(bytes) {
                    // The result may have been written into what was read.
                    let own = (at..at + 4).contains(&(target + i));
                    if let Some(expected) = model.byte(start.saturating_add(i)).filter(|_| !own) {
                        assert_eq!(byte, expected, "item {:#x} at {:#x}", model.selected, start + i);
                    }
                }
            }
        }
    }
    if control & 0x16 != 0 && (control & 2 != 0 || control & 0x10 == 0) {
        model.skip(length);
    }
}

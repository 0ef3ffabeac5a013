// SPDX-License-Identifier: Apache-2.0
//! A reader as firmware has one, written from the specification and not from the device.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cvmm_metrics::View;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::bus::BusDevice;
use crate::memory::DeviceMemory;

const RAM: usize = 32 << 20;
const DESCRIPTOR: u64 = 0x1000;
const TARGET: u64 = 0x10_0000;

struct Guest {
    device: FwCfg,
    memory: DeviceMemory,
}

fn guest(builder: FwCfgBuilder) -> Guest {
    let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
    let memory = DeviceMemory::new(Arc::new(ram));
    Guest { device: builder.build(memory.clone()).unwrap(), memory }
}

impl Guest {
    fn by_port(&mut self, key: u16, len: usize) -> Vec<u8> {
        self.device.write(0, &key.to_le_bytes());
        let mut bytes = vec![0xaa; len];
        for byte in bytes.chunks_mut(1) {
            self.device.read(1, byte);
        }
        bytes
    }

    /// Starts a transfer and returns the control word the device left.
    fn dma(&mut self, control: u32, length: u32, address: u64) -> u32 {
        let mut descriptor = control.to_be_bytes().to_vec();
        descriptor.extend(length.to_be_bytes());
        descriptor.extend(address.to_be_bytes());
        self.memory.write_slice(&descriptor, GuestAddress(DESCRIPTOR)).unwrap();
        self.device.write(4, &0_u32.to_be_bytes());
        self.device.write(8, &(DESCRIPTOR as u32).to_be_bytes());
        self.memory.read_obj::<u32>(GuestAddress(DESCRIPTOR)).map(u32::from_be).unwrap()
    }

    fn by_dma(&mut self, key: u16, len: u32) -> Vec<u8> {
        assert_eq!(self.dma(u32::from(key) << 16 | 0x8 | 0x2, len, TARGET), 0);
        let mut bytes = vec![0xaa; len as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(TARGET)).unwrap();
        bytes
    }

    /// The directory: name to (key, size), in the device's order.
    fn files(&mut self) -> Vec<(String, u16, u32)> {
        let count = u32::from_be_bytes(self.by_port(0x19, 4).try_into().unwrap());
        let bytes = self.by_dma(0x19, 4 + 64 * count);
        bytes[4..]
            .chunks(64)
            .map(|entry| {
                let end = entry[8..].iter().position(|b| *b == 0).unwrap();
                let name = String::from_utf8(entry[8..8 + end].to_vec()).unwrap();
                let key = u16::from_be_bytes(entry[4..6].try_into().unwrap());
                (name, key, u32::from_be_bytes(entry[..4].try_into().unwrap()))
            })
            .collect()
    }
}

#[test]
fn transfers_bytes_and_errors_are_counted() {
    let mut guest = guest(FwCfgBuilder::default());
    let metrics = guest.device.metrics();
    guest.by_port(0, 4);
    guest.by_dma(0, 4);
    assert_ne!(guest.dma(0x2, 4, RAM as u64), 0);
    let view = View::of(&*metrics);
    let counts = ["requests", "bytes", "errors"].map(|name| view.count(&[name]).unwrap());
    assert_eq!(counts, [2, 8, 1]);
}

#[test]
fn transfers_that_fail_without_end_are_a_few_lines() {
    let mut guest = guest(FwCfgBuilder::default());
    let lines = cvmm_log_limit::testing::Lines::of(|| {
        for transfer in 0..10_000_u32 {
            // The target is outside of memory, then the descriptor is.
            assert_eq!(guest.dma(0x8 | 0x2, 16, u64::MAX - u64::from(transfer)), 1);
            guest.device.write(4, &u32::MAX.to_be_bytes());
            guest.device.write(8, &transfer.to_be_bytes());
        }
    });
    assert!(lines.len() <= 4 * cvmm_log_limit::BURST as usize, "{} lines", lines.len());
}

/// Content that is too large to hold: byte `i` is `i % 251`. Counts its reads.
struct Pattern(u64, Arc<AtomicU64>);

impl Content for Pattern {
    fn len(&self) -> u64 {
        self.0
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        assert!(offset + buf.len() as u64 <= self.0, "the device reads past the end");
        assert!(buf.len() <= 64 << 10, "the device reads too much at once");
        self.1.fetch_add(1, Ordering::Relaxed);
        for (i, byte) in (offset..).zip(buf) {
            *byte = (i % 251) as u8;
        }
        Ok(())
    }
}

fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn fixed_items_answer_by_port_and_dma() {
    let mut guest = guest(FwCfg::builder().vcpus(64));
    assert_eq!(guest.by_port(0, 6), b"QEMU\0\0");
    assert_eq!(guest.by_port(1, 4), [3, 0, 0, 0]);
    assert_eq!(guest.by_port(5, 2), [64, 0]);
    assert_eq!(guest.by_dma(5, 2), [64, 0]);
    assert_eq!(guest.by_port(0x0e, 2), [0, 0]);
    for size in [0x08, 0x17, 0x0b, 0x14] {
        assert_eq!(guest.by_port(size, 4), [0; 4]);
    }
    assert_eq!(guest.by_port(0x19, 4), [0; 4], "an empty directory");
    assert_eq!(guest.by_port(0x8000, 4), [0; 4], "no architecture items");
    assert_eq!(guest.by_port(0xffff, 4), [0; 4]);
    let mut signature = [0; 4];
    guest.device.read(4, &mut signature);
    assert_eq!(&signature, b"QEMU");
    guest.device.read(8, &mut signature);
    assert_eq!(&signature, b" CFG");
}

#[test]
fn kernel_items_have_sizes_and_data() {
    let mut guest = guest(
        FwCfg::builder()
            .kernel(pattern(1024), pattern(5000))
            .initrd(pattern(77))
            .cmdline("console=hvc0 quiet"),
    );
    for (size_key, data_key, expected) in [
        (0x17, 0x18, pattern(1024)),
        (0x08, 0x11, pattern(5000)),
        (0x0b, 0x12, pattern(77)),
        (0x14, 0x15, b"console=hvc0 quiet\0".to_vec()),
    ] {
        let size = u32::from_le_bytes(guest.by_port(size_key, 4).try_into().unwrap());
        assert_eq!(size as usize, expected.len());
        assert_eq!(guest.by_dma(data_key, size), expected);
        assert_eq!(guest.by_port(data_key, expected.len()), expected);
    }
}

#[test]
fn directory_is_sorted_and_leads_to_the_files() {
    let long = "x".repeat(55);
    let mut guest = guest(
        FwCfg::builder()
            .file("etc/table-loader", pattern(10))
            .file("etc/acpi/rsdp", pattern(36))
            .file(long.clone(), pattern(3))
            .file("etc/e820", Vec::new()),
    );
    let files = guest.files();
    let expected = [("etc/acpi/rsdp", 36), ("etc/e820", 0), ("etc/table-loader", 10), (&*long, 3)];
    for ((i, (name, size)), file) in expected.into_iter().enumerate().zip(&files) {
        assert_eq!(file, &(name.to_owned(), 0x20 + i as u16, size));
        assert_eq!(guest.by_dma(file.1, size), pattern(size.into()));
    }
    assert_eq!(files.len(), 4);
}

#[test]
fn large_items_are_read_in_pieces_when_asked_for() {
    let reads = Arc::new(AtomicU64::new(0));
    let len = 12_300_001;
    let mut guest = guest(FwCfg::builder().file("etc/boot/kernel", Pattern(len, reads.clone())));
    assert_eq!(reads.load(Ordering::Relaxed), 0, "nothing is read to build the device");
    assert!(guest.by_dma(0x20, len as u32) == pattern(len));
    let before = reads.load(Ordering::Relaxed);
    assert!(guest.by_port(0x20, 10_000) == pattern(10_000));
    assert_eq!(reads.load(Ordering::Relaxed) - before, 3, "byte reads are buffered");
}

#[test]
fn reading_goes_on_where_it_stopped_and_skips() {
    let mut guest = guest(FwCfg::builder().file("f", pattern(100)));
    guest.device.write(0, &0x20_u16.to_le_bytes());
    let mut byte = [0];
    guest.device.read(1, &mut byte);
    assert_eq!(guest.dma(0x4, 9, 0), 0);
    guest.device.read(1, &mut byte);
    assert_eq!(byte[0], 10);
    assert_eq!(guest.dma(0x2, 5, TARGET), 0);
    let mut five = [0; 5];
    guest.memory.read_slice(&mut five, GuestAddress(TARGET)).unwrap();
    assert_eq!(five, [11, 12, 13, 14, 15]);
    guest.device.read(1, &mut byte);
    assert_eq!(byte[0], 16);
    for _ in 0..3 {
        assert_eq!(guest.dma(0x4, u32::MAX, 0), 0);
    }
    guest.device.read(1, &mut byte);
    assert_eq!(byte[0], 0);
}

#[test]
fn past_the_end_come_zeros_up_to_a_limit() {
    let mut guest = guest(FwCfg::builder().file("f", pattern(100)));
    guest.memory.write_slice(&[0xee; 300], GuestAddress(TARGET)).unwrap();
    let bytes = guest.by_dma(0x20, 200);
    assert_eq!(bytes[..100], pattern(100));
    assert_eq!(bytes[100..], [0; 100]);
    assert_eq!(guest.memory.read_obj::<u8>(GuestAddress(TARGET + 200)).unwrap(), 0xee);
    let limit = u32::try_from(PADDING_LIMIT).unwrap();
    assert_eq!(guest.dma(0x20_000a, 100 + limit, TARGET), 0);
    assert_eq!(guest.dma(0x20_000a, 101 + limit, TARGET), 1);
    let start = std::time::Instant::now();
    assert_eq!(guest.dma(0x7777_000a, u32::MAX, TARGET), 1, "no item at all");
    assert!(start.elapsed() < std::time::Duration::from_secs(1));
}

#[test]
fn byte_reads_past_the_end_do_not_ask_the_item() {
    let reads = Arc::new(AtomicU64::new(0));
    let mut guest = guest(FwCfg::builder().file("f", Pattern(8, reads.clone())));
    // Select and skip to behind the end: an item asked for nothing there would say that it failed.
    assert_eq!(guest.dma(0x20_000c, 100, 0), 0);
    let mut byte = [0xaa];
    guest.device.read(1, &mut byte);
    assert_eq!((byte, reads.load(Ordering::Relaxed)), ([0], 0));
}

#[test]
fn bad_descriptors_get_the_error_bit() {
    let mut guest = guest(FwCfg::builder().file("f", pattern(0x20_0000)));
    let end = RAM as u64;
    assert_eq!(guest.dma(0x20_000a, 0x100, end - 0x80), 1, "target leaves RAM");
    assert_eq!(guest.dma(0x20_000a, 0x2_0000, u64::MAX - 0x1_0000), 1, "target wraps around");
    assert_eq!(guest.dma(0x20_0018, 4, TARGET), 1, "items are read-only");
    assert_eq!(guest.dma(0x20_0008, u32::MAX, u64::MAX), 0, "select alone moves nothing");
    assert_eq!(guest.dma(0x20_000a, 0, u64::MAX), 0, "nothing to copy");
    // A descriptor outside RAM is not answered at all, and the device lives on.
    guest.device.write(4, &u64::MAX.to_be_bytes());
    guest.device.write(8, &(end as u32 - 8).to_be_bytes());
    assert_eq!(guest.by_port(0, 4), b"QEMU");
}

#[test]
fn each_transfer_names_both_halves_of_the_address() {
    let mut guest = guest(FwCfg::builder());
    guest.device.write(4, &1_u32.to_be_bytes());
    guest.device.write(8, &0_u32.to_be_bytes());
    // Had the high half stuck, this would look above 4 GiB.
    guest.memory.write_slice(&[0xff; 4], GuestAddress(DESCRIPTOR + 4)).unwrap();
    guest.memory.write_slice(&0x10_u32.to_be_bytes(), GuestAddress(DESCRIPTOR)).unwrap();
    guest.device.write(8, &(DESCRIPTOR as u32).to_be_bytes());
    assert_eq!(guest.memory.read_obj::<u32>(GuestAddress(DESCRIPTOR)).map(u32::from_be).unwrap(), 1);
}

#[test]
fn a_transfer_may_overwrite_its_own_descriptor() {
    let mut guest = guest(FwCfg::builder().file("f", pattern(64)));
    assert_eq!(guest.dma(0x20_000a, 64, DESCRIPTOR), 0);
    let mut bytes = [0; 64];
    guest.memory.read_slice(&mut bytes, GuestAddress(DESCRIPTOR)).unwrap();
    assert_eq!(bytes[4..], pattern(64)[4..]);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_not_a_panic() {
    struct Broken;
    impl Content for Broken {
        fn len(&self) -> u64 {
            8
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
    let mut guest = guest(FwCfg::builder().file("f", Broken));
    assert_eq!(guest.dma(0x20_000a, 8, TARGET), 1);
    assert_eq!(guest.by_port(0x20, 4), [0; 4]);
}

#[test]
fn builder_refuses_what_the_directory_cannot_hold() {
    let build = |builder: FwCfgBuilder| {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        builder.build(DeviceMemory::new(Arc::new(ram))).map(|_| ())
    };
    for name in [String::new(), "x".repeat(56), "a b".into(), "n\0l".into(), "\u{e4}".into()] {
        assert_eq!(build(FwCfg::builder().file(name.clone(), vec![])), Err(FwCfgError::Name(name)));
    }
    let twice = FwCfg::builder().file("a", vec![]).file("b", vec![]).file("a", vec![]);
    assert_eq!(build(twice), Err(FwCfgError::Duplicate("a".into())));
    let large = FwCfg::builder().file("a", Pattern(1 << 32, Arc::default()));
    assert_eq!(build(large), Err(FwCfgError::TooLarge { name: "a".into(), len: 1 << 32 }));
    let large = FwCfg::builder().initrd(Pattern(1 << 32, Arc::default()));
    assert_eq!(build(large), Err(FwCfgError::TooLarge { name: "initrd".into(), len: 1 << 32 }));
    assert_eq!(build(FwCfg::builder().cmdline("a\0b")), Err(FwCfgError::NulInCmdline(1)));
    let many = (0..0x3fff - 0x20 + 2).fold(FwCfg::builder(), |b, i| b.file(format!("f{i}"), vec![]));
    assert_eq!(build(many), Err(FwCfgError::TooManyFiles(0x3fe1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn files_survive_the_way_through_the_device(
        files in proptest::collection::btree_map("[!-~]{1,55}", proptest::collection::vec(any::<u8>(), 0..5000), 0..8)
    ) {
        let builder = files.iter().rev().fold(FwCfg::builder(), |b, (name, bytes)| b.file(name, bytes.clone()));
        let mut guest = guest(builder);
        let mut seen = BTreeMap::new();
        for (name, key, size) in guest.files() {
            let bytes = guest.by_dma(key, size);
            prop_assert_eq!(&guest.by_port(key, size as usize), &bytes);
            seen.insert(name, bytes);
        }
        prop_assert_eq!(seen, files);
    }

    #[test]
    fn any_port_access_and_descriptor_is_harmless(
        descriptor in proptest::collection::vec(any::<u8>(), 16),
        ops in proptest::collection::vec(
            (any::<bool>(), 0_u64..12, proptest::collection::vec(any::<u8>(), 0..9)), 0..60),
        transfers in proptest::collection::vec(
            (0_u32..0x30, 0_u32..32, prop_oneof![0_u32..0x1_0000, any::<u32>()],
             prop_oneof![0_u64..RAM as u64 + 0x1000, any::<u64>()]), 0..10),
    ) {
        let mut guest = guest(FwCfg::builder().vcpus(2).file("f", pattern(70_000)));
        guest.memory.write_slice(&descriptor, GuestAddress(0)).unwrap();
        for (write, offset, mut data) in ops {
            if write { guest.device.write(offset, &data) } else { guest.device.read(offset, &mut data) }
        }
        for (key, control, length, address) in transfers {
            guest.dma(key << 16 | control, length, address);
        }
        prop_assert_eq!(guest.by_port(0, 4), b"QEMU");
        prop_assert_eq!(guest.by_port(0x20, 100), pattern(100));
    }
}

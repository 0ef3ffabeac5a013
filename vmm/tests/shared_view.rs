// SPDX-License-Identifier: Apache-2.0
//! Conversions while devices access the pages: when all accesses are over, no private page is resident in the
//! shared view.
#![expect(clippy::unwrap_used, reason = "a test helper that fails shall say where")]
#![expect(unsafe_code, reason = "maps memory and asks the kernel which of its pages are resident")]

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cvmm_devices::memory::{DeviceMemory, SharedPages};
use cvmm_devices::virtio::block::{Block, BlockConfig, CacheMode, EngineKind, ImageFormat};
use cvmm_devices::virtio::{Activation, ActiveQueue, VirtioDevice, VirtioInterrupt};
use cvmm_kvm_snp::convert::{PageState, Request};
use cvmm_kvm_snp::memory::MemoryError;
use cvmm_kvm_snp::shared_view::{Backing, Mapping, SharedView};
use cvmm_kvm_snp::states::Change;
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const PAGE: u64 = 4096;
const RAM: u64 = 32 << 20;
/// Rings, headers and statuses lie below, and stay shared.
const BUFFERS: u64 = 1 << 20;
const DISK: u64 = 8 << 20;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x3000;
const USED: u64 = 0x4000;
const HEADERS: u64 = 0x8000;
const STATUSES: u64 = 0x1_0000;
const QUEUE_SIZE: u16 = 256;
const WRITE: u16 = 2;
const NEXT: u16 = 1;
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest that sees what its host says.
struct NoKvm;

impl Backing for NoKvm {
    fn set(&self, _: Change, _: PageState) -> Result<(), MemoryError> {
        Ok(())
    }

    fn release(&self, _: Change) {}
}

#[derive(Debug)]
struct Pages(Arc<SharedView>);

impl SharedPages for Pages {
    fn is_shared(&self, gpa: u64, len: u64) -> bool {
        self.0.is_shared(gpa, len)
    }

    fn shared_run(&self, gpa: u64) -> Option<Range<u64>> {
        self.0.shared_run(gpa)
    }

    fn withdrawals(&self) -> u64 {
        self.0.withdrawals()
    }

    fn settle(&self, gpa: u64, len: u64) {
        self.0.settle(gpa, len);
    }
}

struct Silent;

impl VirtioInterrupt for Silent {
    fn signal_queue(&self, _: u16) {}
    fn signal_config(&self) {}
    fn needs_reset(&self) {}
}

struct World {
    ram: Arc<GuestMemoryMmap<()>>,
    view: Arc<SharedView>,
    start: *mut u8,
}

impl World {
    fn new() -> Self {
        let ram = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), RAM as usize)]).unwrap());
        let start = ram.iter().next().unwrap().as_ptr();
        // SAFETY: the mapping is anonymous, private, guest memory only, and lives as long as `ram`.
        unsafe { libc::madvise(start.cast(), RAM as usize, libc::MADV_NOHUGEPAGE) };
        // SAFETY: as above; `World` keeps both, and drops the view first.
        let view = unsafe { SharedView::new(vec![Mapping { gpa: 0, len: RAM, start }]) }.unwrap();
        let world = Self { ram, view: Arc::new(view), start };
        world.convert(0, BUFFERS / PAGE, PageState::Shared);
        world
    }

    fn convert(&self, page: u64, pages: u64, to: PageState) {
        let request = Request { gpa: page * PAGE, len: pages * PAGE, to };
        self.view.convert(&NoKvm, request).unwrap();
    }

    fn devices(&self) -> DeviceMemory {
        DeviceMemory::guarded(self.ram.clone(), Arc::new(Pages(self.view.clone())))
    }

    /// Private pages that are resident in the shared view.
    fn resident_private(&self) -> Vec<u64> {
        let pages = RAM / PAGE;
        let mut resident = vec![0_u8; pages as usize];
        // SAFETY: the kernel writes one byte for each page of a live mapping.
        let result = unsafe { libc::mincore(self.start.cast(), RAM as usize, resident.as_mut_ptr()) };
        assert_eq!(result, 0);
        (0..pages)
            .filter(|page| resident[*page as usize] & 1 == 1 && self.view.is_private(page * PAGE, PAGE))
            .collect()
    }
}

/// A driver that has up to 64 requests under way, each of a header, one buffer and a status.
struct Driver {
    ram: Arc<GuestMemoryMmap<()>>,
    kick: Arc<EventFd>,
    next: u16,
}

impl Driver {
    fn put<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        self.ram.write_obj(value, GuestAddress(at)).unwrap();
    }

    fn ask(&mut self, write: bool, sector: u64, page: u64, pages: u64) {
        let slot = u64::from(self.next % 64);
        let (header, status, first) = (HEADERS + slot * 16, STATUSES + slot, slot * 4);
        self.put(header, u64::from(write));
        self.put(header + 8, sector);
        self.put(status, 0xff_u8);
        let direction = if write { 0 } else { WRITE };
        let chain = [
            (header, 16_u32, NEXT),
            (page * PAGE, (pages * PAGE) as u32, direction | NEXT),
            (status, 1, WRITE),
        ];
        for (index, (address, len, flags)) in (first..).zip(chain) {
            let at = DESC + index * 16;
            self.put(at, address);
            self.put(at + 8, len);
            self.put(at + 12, flags);
            self.put(at + 14, index as u16 + 1);
        }
        self.put(AVAIL + 4 + 2 * u64::from(self.next % QUEUE_SIZE), first as u16);
        self.next = self.next.wrapping_add(1);
        self.ram.store(self.next, GuestAddress(AVAIL + 2), std::sync::atomic::Ordering::Release).unwrap();
        self.kick.write(1).unwrap();
    }

    fn wait(&self) {
        let start = Instant::now();
        loop {
            let used: u16 =
                self.ram.load(GuestAddress(USED + 2), std::sync::atomic::Ordering::Acquire).unwrap();
            if used == self.next {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{used} of {} requests are answered", self.next);
            std::thread::yield_now();
        }
    }

    fn succeeded(&self) -> usize {
        (0..64_u64.min(self.next.into()))
            .filter(|slot| self.ram.read_obj::<u8>(GuestAddress(STATUSES + slot)).unwrap() == 0)
            .count()
    }
}

fn start(world: &World, path: &std::path::Path, kind: EngineKind) -> (Block, Driver) {
    let config = BlockConfig {
        path: path.to_owned(),
        read_only: false,
        serial: String::new(),
        cache: CacheMode::Writeback,
        format: ImageFormat::Raw,
        queues: 1,
    };
    let mut block = Block::open_with(config, kind).unwrap();
    let mut queue = Queue::new(QUEUE_SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(DESC)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(AVAIL)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    queue.set_ready(true);
    let kick = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let queues = vec![ActiveQueue { index: 0, queue, kick: kick.clone(), metrics: Arc::default() }];
    let features = block.features();
    let memory = world.devices();
    block.activate(Activation { memory, queues, interrupt: Arc::new(Silent), features }).unwrap();
    (block, Driver { ram: world.ram.clone(), kick, next: 0 })
}

#[derive(Clone, Debug)]
struct Step {
    write: bool,
    page: u64,
    pages: u64,
    /// Between the request and the conversion of its pages, or of some of them.
    microseconds: u64,
    converted: u64,
    back: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let first = BUFFERS / PAGE;
    let step = (any::<bool>(), first..RAM / PAGE, 1_u64..1024, 0_u64..400, 1_u64..1024, any::<bool>());
    let step = step.prop_map(|(write, page, pages, microseconds, converted, back)| {
        let pages = pages.min(RAM / PAGE - page);
        Step { write, page, pages, microseconds, converted: converted.min(pages), back }
    });
    proptest::collection::vec(step, 1..60)
}

fn run(steps: &[Step], kind: EngineKind, path: &std::path::Path) -> (Vec<u64>, usize) {
    let world = World::new();
    let (mut block, mut driver) = start(&world, path, kind);
    for (number, step) in (0_u64..).zip(steps) {
        world.convert(step.page, step.pages, PageState::Shared);
        driver.ask(step.write, number % 1024, step.page, step.pages);
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(step.microseconds) {
            std::hint::spin_loop();
        }
        world.convert(step.page, step.converted, PageState::Private);
        if step.back {
            world.convert(step.page, step.converted.div_ceil(2), PageState::Shared);
        }
    }
    driver.wait();
    let succeeded = driver.succeeded();
    // Waits for what is in flight; the last answer may be there before the last operation is put away.
    block.reset();
    (world.resident_private(), succeeded)
}

fn disk() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), vec![7; DISK as usize]).unwrap();
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn when_all_is_quiet_no_private_page_is_resident(steps in steps()) {
        let file = disk();
        for kind in [EngineKind::detect(), EngineKind::Threads] {
            let (resident, _) = run(&steps, kind, file.path());
            prop_assert!(resident.is_empty(), "{kind:?}: {} pages: {resident:?}", resident.len());
        }
    }
}

/// A read of 4 MiB after another, converted at ever later moments, so that some conversions come while the
/// kernel copies.
#[test]
fn a_read_in_flight_leaves_nothing_in_pages_that_became_private() {
    let file = disk();
    let mut succeeded = 0;
    let steps: Vec<_> = (0..60)
        .map(|number| Step {
            write: false,
            page: BUFFERS / PAGE + number % 4 * 1024,
            pages: 1024,
            microseconds: number * 20,
            converted: 1024,
            back: false,
        })
        .collect();
    for kind in [EngineKind::detect(), EngineKind::Threads] {
        let (resident, good) = run(&steps, kind, file.path());
        assert!(resident.is_empty(), "{kind:?}: {} private pages are resident", resident.len());
        succeeded += good;
    }
    assert!(succeeded > 0, "no read got as far as its buffers");
}

#[test]
fn a_page_that_is_shared_again_keeps_what_is_written_to_it() {
    let world = World::new();
    let page = BUFFERS / PAGE;
    world.convert(page, 2, PageState::Shared);
    let access = {
        let mut access = world.devices().access();
        access.add(GuestAddress(BUFFERS), 2 * PAGE as usize);
        access
    };
    world.convert(page, 2, PageState::Private);
    // The kernel finishes an operation that it had begun.
    world.ram.write_obj(1_u64, GuestAddress(BUFFERS)).unwrap();
    world.ram.write_obj(1_u64, GuestAddress(BUFFERS + PAGE)).unwrap();
    assert_eq!(world.resident_private(), [page, page + 1]);
    world.convert(page, 1, PageState::Shared);
    world.devices().write_obj(2_u64, GuestAddress(BUFFERS + 8)).unwrap();
    drop(access);
    assert_eq!(world.resident_private(), [0_u64; 0]);
    assert_eq!(world.devices().read_obj::<u64>(GuestAddress(BUFFERS + 8)).unwrap(), 2);
}

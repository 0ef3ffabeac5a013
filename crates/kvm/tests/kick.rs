// SPDX-License-Identifier: Apache-2.0
//! One kick takes a vCPU out of the guest, whatever its thread is doing at that moment. Needs `/dev/kvm`; the
//! guests are a few bytes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use cvmm_kvm::cpuid::{CpuidBase, CpuidOptions};
use cvmm_kvm::exits::{ExitCounters, ExitCounts};
use cvmm_kvm::host;
use cvmm_kvm::memory::{MachineMemory, Purpose};
use cvmm_kvm::vcpu::{AccessHandler, Permit, RunnableVcpu, Vcpu};
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{PageSink, VcpuStart};
use kvm_ioctls::{Kvm, VmFd};

/// After this time a kick is taken for lost. A machine with much else to do may take a while.
const PATIENCE: Duration = Duration::from_secs(20);

const RESET_VECTOR: u64 = 0xffff_fff0;
/// `jmp .`
const SPIN: &[u8] = &[0xeb, 0xfe];
/// `out %al, $0x80; jmp` to it: an exit to this process each time.
const EXITS: &[u8] = &[0xe6, 0x80, 0xeb, 0xfc];
/// `hlt; jmp` to it: sleeps in the kernel.
const HALT: &[u8] = &[0xf4, 0xeb, 0xfd];

/// No devices.
struct Nothing;

impl AccessHandler for Nothing {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn port_read_string(&self, _: u16, _: usize, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write_string(&self, _: u16, _: usize, _: &[u8]) {}
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {}
}

/// Fields are dropped in order: the VM before its memory.
struct Guest {
    vcpu: RunnableVcpu,
    _vm: VmFd,
    _memory: MachineMemory,
}

fn kvm() -> Option<Kvm> {
    let kvm = host::open(1).ok();
    if kvm.is_none() {
        println!("skipped: no usable /dev/kvm");
    }
    kvm
}

/// A guest that runs `code` from its reset vector.
fn guest(kvm: &Kvm, code: &[u8]) -> Guest {
    let vm = kvm.create_vm().unwrap();
    vm.set_tss_address(0xfeff_d000).unwrap();
    vm.set_identity_map_address(0xfeff_c000).unwrap();
    vm.create_irq_chip().unwrap();
    let layout = MemoryLayout { low: 1 << 20, high: 0 };
    let memory = MachineMemory::allocate(layout, 4096, Purpose::Everything).unwrap();
    memory.register(&vm).unwrap();
    memory.sink().write(RESET_VECTOR, code).unwrap();
    let cpuid = CpuidBase::new(kvm, CpuidOptions { vcpus: 1, mtrr: true, snp: false }).unwrap();
    let start = VcpuStart::Reset { eip: RESET_VECTOR as u32 };
    let vcpu = Vcpu::new(&vm, 0, &cpuid, Some(start), None).unwrap();
    let vcpu = vcpu.permit(Permit::NotIsolated).unwrap();
    Guest { vcpu, _vm: vm, _memory: memory }
}

/// Runs `guest` while this thread calls `control`, which has to make `stop` true and to kick. Returns the
/// exits.
fn run(
    mut guest: Guest,
    stop: impl Fn() -> bool + Send + 'static,
    control: impl FnOnce(&cvmm_kvm::kick::Kicker),
    what: &str,
) -> ExitCounts {
    let kicker = guest.vcpu.kicker();
    let (ended, has_ended) = channel();
    let thread = thread::spawn(move || {
        let counters = ExitCounters::new(false);
        let end = guest.vcpu.run(&Nothing, &counters, &stop);
        ended.send((end, counters.snapshot())).unwrap();
    });
    control(&kicker);
    let Ok((end, counts)) = has_ended.recv_timeout(PATIENCE) else { panic!("a kick was lost: {what}") };
    thread.join().unwrap();
    assert_eq!(end, None, "{what}");
    counts
}

#[test]
fn a_kick_between_the_stop_condition_and_the_guest_is_not_lost() {
    let Some(kvm) = kvm() else { return };
    for code in [SPIN, HALT] {
        let stopping = Arc::new(AtomicBool::new(false));
        let (window, in_window) = channel();
        let (kicked, is_kicked) = channel::<()>();
        let (flag, first) = (Arc::clone(&stopping), Cell::new(true));
        let stop = move || {
            let stopping = flag.load(Ordering::Acquire);
            if first.replace(false) {
                // The thread has found that it may enter the guest. The kick comes now.
                window.send(()).unwrap();
                is_kicked.recv().unwrap();
            }
            stopping
        };
        let counts = run(
            guest(&kvm, code),
            stop,
            |kicker| {
                in_window.recv().unwrap();
                stopping.store(true, Ordering::Release);
                kicker.kick();
                kicked.send(()).unwrap();
            },
            "in the window",
        );
        assert_eq!((counts.interrupted, counts.io_out), (1, 0));
    }
}

#[test]
fn vms_stop_at_random_moments() {
    const VMS: u32 = 600;
    let Some(kvm) = kvm() else { return };
    let mut random = RandomState::new().build_hasher().finish() | 1;
    let began = Instant::now();
    for number in 0..VMS {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let code = [SPIN, EXITS, HALT][(number % 3) as usize];
        let delay = Duration::from_nanos(random % 400_000);
        let stopping = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopping);
        let what = format!("VM {number}, code {code:02x?}, {delay:?} after its start");
        run(
            guest(&kvm, code),
            move || flag.load(Ordering::Acquire),
            |kicker| {
                let start = Instant::now();
                while start.elapsed() < delay {
                    std::hint::spin_loop();
                }
                stopping.store(true, Ordering::Release);
                kicker.kick();
            },
            &what,
        );
    }
    println!("{VMS} VMs in {:?}", began.elapsed());
}

#[test]
fn a_stray_signal_does_not_keep_a_vcpu_out_of_the_guest() {
    let Some(kvm) = kvm() else { return };
    let stopping = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopping);
    let (first_exit, has_exited) = channel();
    let asked = Cell::new(0_u32);
    let counts = run(
        guest(&kvm, EXITS),
        move || {
            asked.set(asked.get() + 1);
            if asked.get() == 1000 {
                first_exit.send(()).unwrap();
            }
            flag.load(Ordering::Acquire)
        },
        |kicker| {
            // Without a stop: the guest goes on.
            for _ in 0..50 {
                kicker.kick();
                thread::sleep(Duration::from_micros(100));
            }
            has_exited.recv_timeout(PATIENCE).unwrap();
            stopping.store(true, Ordering::Release);
            kicker.kick();
        },
        "after stray signals",
    );
    assert!(counts.interrupted <= 51 && counts.io_out >= 900, "{counts:?}");
}

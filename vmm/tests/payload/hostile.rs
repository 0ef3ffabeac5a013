// SPDX-License-Identifier: Apache-2.0
//! Guests that touch everything. None of it may end the VM, hang it, or make it grow.

use std::time::Duration;

use cvmm_test_support::suite;

use crate::common::{Ended, status_field};
use crate::script::Script;
use crate::{lab, run};

/// Back to a console that prints, whatever was written to it before, then "survived".
fn survived(script: Script) -> Script {
    script.out8(0x3fb, 0x03).out8(0x3f9, 0).out8(0x3fc, 0).text("survived\n")
}

#[track_caller]
fn check(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.ends_with("survived\n"), "{:?}", ended.stdout);
    // Whatever a guest does must not fill the log.
    assert!(ended.stderr.len() < 16 << 10, "{} bytes of log: {:.2000}", ended.stderr.len(), ended.stderr);
}

pub fn every_port_by_bytes() -> suite::Result {
    let ended = run(survived(Script::new().sweep_ports(1, 0xff)))?;
    check(&ended);
    Ok(())
}

pub fn every_port_by_words() -> suite::Result {
    let ended = run(survived(Script::new().sweep_ports(2, 0xffff_ffff)))?;
    check(&ended);
    Ok(())
}

pub fn every_port_by_doublewords() -> suite::Result {
    let ended = run(survived(Script::new().sweep_ports(4, 0xffff_ffff)))?;
    check(&ended);
    Ok(())
}

/// No I/O APIC and local APIC among them: those are the kernel's.
pub fn unclaimed_memory() -> suite::Result {
    let script = Script::new()
        // Between RAM and the PCI window, its borders included.
        .sweep_memory(0x0600_0000, 0x0100_0000, 100)
        .sweep_memory(0x7fff_fffe, 1, 4)
        // The PCI window.
        .sweep_memory(0x8000_0000, 0x0100_0000, 90)
        .sweep_memory(0xdfff_fffc, 1, 8)
        // ECAM: every function of bus 0, then one of each bus, then the end.
        .sweep_memory(0xe000_0000, 0x1000, 256)
        .sweep_memory(0xe000_0ffc, 0x8000, 32)
        .sweep_memory(0xe000_0000, 0x0010_0000, 256)
        .sweep_memory(0xefff_fffc, 1, 8)
        // HPET, TPM, and what is below the firmware.
        .sweep_memory(0xfed0_0000, 0x400, 256)
        .sweep_memory(0xff00_0000, 0x1_0000, 128)
        .read32(0xfed4_0000)
        .print();
    let ended = run(survived(script))?;
    check(&ended);
    assert_eq!(ended.stdout, "ffffffff\nsurvived\n");
    Ok(())
}

pub fn random_pci_configuration() -> suite::Result {
    // Where RAM, the APICs, ECAM and the firmware are; inside the window; across its end.
    let places =
        [0, 0xfee0_0000, 0xe000_0000, 0xffff_0000, 0x8000_0000, 0xdfff_f000, 0x9000_0000, 0x8000_4000_u32];
    let table: Vec<u8> = places.iter().flat_map(|address| address.to_le_bytes()).collect();
    for seed in [1, 0xdead_beef, 0x1234_5678] {
        let script = Script::new().copy(0x10_0000, &table).fuzz_pci(6000, seed, 0x10_0000);
        let lab = lab(survived(script))?;
        // More functions to confuse.
        let lab = lab.vcpus(2).table("[console]\ndevice = \"serial\"\n");
        let ended = lab.start().finish();
        check(&ended);
    }
    Ok(())
}

const DESCRIPTOR: u32 = 0x10_0000;
const TARGET: u32 = 0x20_0000;
const READ: u32 = 2;
const SKIP: u32 = 4;
const SELECT: u32 = 8;
const WRITE: u32 = 16;

/// Runs one fw_cfg DMA descriptor that lies at `at`.
fn dma(script: Script, at: u32, control: u32, len: u32, address: u64) -> Script {
    let mut bytes = control.to_be_bytes().to_vec();
    bytes.extend(len.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    script.copy(at, &bytes).out32(0x514, 0).out32(0x518, at.to_be())
}

pub fn fw_cfg_transfers_from_and_to_anywhere() -> suite::Result {
    // What works: the signature, item 0.
    let mut script = dma(Script::new(), DESCRIPTOR, SELECT | READ, 4, TARGET.into())
        .flood(TARGET, 4, 1)
        .text("\n")
        .read32(DESCRIPTOR)
        .print();
    let mut expected = "QEMU\n00000000\n".to_owned();

    // What is refused, by the error bit in the big-endian control word, and as a whole: the mark far behind
    // the end of the item stays. Item 0x19 is the directory.
    const MARK: u32 = TARGET + 0x10_0000;
    script = script.write32(MARK, 0x1234_5678);
    let select = SELECT | 0x19 << 16;
    for (control, len, address) in [
        (select | READ, 4, 0x0600_0000_u64),
        (select | READ, 0x2000, 0x05ff_f000),
        (select | READ, 4, 0xffff_0000),
        (select | READ, 4, u64::MAX - 1),
        (select | READ, 4, 1 << 52),
        (select | READ, u32::MAX, TARGET.into()),
        (select | WRITE, 4, TARGET.into()),
        (select | WRITE, u32::MAX, TARGET.into()),
    ] {
        script = dma(script, DESCRIPTOR, control, len, address).read32(DESCRIPTOR).print();
        expected.push_str("01000000\n");
    }

    script = script.read32(MARK).print();
    expected.push_str("12345678\n");

    // What has no effect that can be seen: keys without an item, all skips, the descriptor itself as the
    // target.
    script = dma(script, DESCRIPTOR, SELECT | 0xffff << 16 | SKIP, u32::MAX, 0);
    for _ in 0..100 {
        script = dma(script, DESCRIPTOR, SKIP, u32::MAX, 0);
    }
    script = dma(script, DESCRIPTOR, READ, 64, DESCRIPTOR.into()).read32(DESCRIPTOR).print();
    expected.push_str("00000000\n");

    // Descriptors that are not in RAM, or only half.
    for at in [0x0600_0000_u32, 0xfed4_0000, 0xffff_fff8, 0x05ff_fff8, 0xfee0_0000] {
        script = script.out32(0x514, 0).out32(0x518, at.to_be());
        script = script.out32(0x514, 0xffff_ffff).out32(0x518, at.to_be());
    }
    let ended = run(survived(script))?;
    check(&ended);
    assert_eq!(ended.stdout, expected + "survived\n");
    assert!(ended.took < Duration::from_secs(10), "took {:?}", ended.took);
    Ok(())
}

/// The longest transfers that are allowed, again and again: each is bounded, so a signal still gets through
/// at once.
pub fn long_fw_cfg_transfers_do_not_hold_up_a_stop() -> suite::Result {
    let mut script = Script::new().text("up\n");
    for _ in 0..200 {
        script = dma(script, DESCRIPTOR, SELECT | 0x19 << 16 | READ, 16 << 20, TARGET.into());
    }
    let lab = lab(script.halt())?;
    let mut vm = lab.argument("--grace=0").start();
    vm.wait_for_text("up\n");
    let resident = status_field(vm.pid(), "VmRSS:").unwrap();
    assert!(resident < 64 << 10, "{resident} KiB are resident");
    let asked = std::time::Instant::now();
    vm.signal(libc::SIGTERM);
    assert_eq!(vm.finish().code, Some(12));
    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
    Ok(())
}

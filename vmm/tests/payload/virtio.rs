// SPDX-License-Identifier: Apache-2.0
//! A driver that breaks the rules of virtio's rings. The device must stop the queue and say so
//! (DEVICE_NEEDS_RESET, virtio 1.2, 2.1.2) or fail the request, and must serve again after a reset.

use std::time::Duration;

use cvmm_test_support::suite;

use crate::common::DISK_START;
use crate::lab;
use crate::script::Script;

/// The disk is the first virtio function.
const SLOT: u32 = 1;
const BAR: u32 = 0x8000_0000;
const STATUS: u32 = BAR + 0x14;
const DOORBELL: u32 = BAR + 0x3000;

/// Rings of eight descriptors, and buffers.
const SIZE: u16 = 8;
const DESCRIPTORS: u32 = 0x10_0000;
const AVAILABLE: u32 = 0x10_1000;
const USED: u32 = 0x10_2000;
const HEADER: u32 = 0x10_3000;
const DATA: u32 = 0x10_4000;
const ANSWER: u32 = 0x10_5000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const NEEDS_RESET: u8 = 0x40;
const RUNNING: u8 = 0xf;

fn config(script: Script, register: u32, value: u32) -> Script {
    script.out32(0xcf8, 0x8000_0000 | SLOT << 11 | register).out32(0xcfc, value)
}

/// Places the BAR.
fn place() -> Script {
    config(config(config(Script::new(), 0x10, BAR), 0x14, 0), 0x04, 6)
}

/// Resets the device and starts it with queue 0; the rings are empty.
fn start(script: Script) -> Script {
    script
        .copy(DESCRIPTORS, &[0; 128])
        .copy(AVAILABLE, &[0; 32])
        .copy(USED, &[0; 128])
        .write8(STATUS, 0)
        .write8(STATUS, 1)
        .write8(STATUS, 3)
        // VERSION_1 and ACCESS_PLATFORM, and INDIRECT_DESC.
        .write32(BAR + 0x08, 1)
        .write32(BAR + 0x0c, 3)
        .write32(BAR + 0x08, 0)
        .write32(BAR + 0x0c, 1 << 28)
        .write8(STATUS, 0xb)
        .write16(BAR + 0x16, 0)
        .write16(BAR + 0x18, SIZE)
        .write32(BAR + 0x20, DESCRIPTORS)
        .write32(BAR + 0x24, 0)
        .write32(BAR + 0x28, AVAILABLE)
        .write32(BAR + 0x2c, 0)
        .write32(BAR + 0x30, USED)
        .write32(BAR + 0x34, 0)
        .write16(BAR + 0x1c, 1)
        .write8(STATUS, RUNNING)
}

fn descriptor(script: Script, index: u32, address: u64, len: u32, flags: u16, next: u16) -> Script {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    script.copy(DESCRIPTORS + index * 16, &bytes)
}

/// Makes the chain at `head` available and rings the doorbell.
fn kick(script: Script, head: u16, index: u16) -> Script {
    let slot = AVAILABLE + 4 + u32::from(index - 1) % u32::from(SIZE) * 2;
    script.write16(slot, head).write16(AVAILABLE + 2, index).write16(DOORBELL, 0)
}

/// A correct read of the first sector, whose answer is checked.
fn correct_read(script: Script) -> Script {
    let script = script.copy(HEADER, &[0; 16]).write8(ANSWER, 0xee);
    let script = descriptor(script, 0, HEADER.into(), 16, NEXT, 1);
    let script = descriptor(script, 1, DATA.into(), 512, NEXT | WRITE, 2);
    let script = descriptor(script, 2, ANSWER.into(), 1, WRITE, 0);
    kick(script, 0, 1)
        // Flags too: the device asks for the doorbell again after it has shown what it has done.
        .wait32(USED, 0xffff_ffff, 0x1_0000)
        .print()
        .flood(DATA, DISK_START.len() as u32, 1)
        .read8(ANSWER)
        .print()
}

/// What [`correct_read`] prints.
fn correct_answer() -> String {
    format!("00010000\n{}00000000\n", String::from_utf8_lossy(DISK_START))
}

pub fn a_correct_request_is_served() -> suite::Result {
    let identity = place().out32(0xcf8, 0x8000_0000 | SLOT << 11).in32(0xcfc).print();
    let lab = lab(correct_read(start(identity)).read8(STATUS).print())?;
    let ended = lab.start().finish();
    let expected = format!("10421af4\n{}0000000f\n", correct_answer());
    assert_eq!((ended.code, ended.stdout), (Some(0), expected), "{}", ended.stderr);
    Ok(())
}

/// Runs `attack` on a fresh device, waits until `sign` shows, then shows that a reset makes the device serve
/// again.
fn attack(
    name: &str,
    attack: impl Fn(Script) -> Script,
    sign: impl Fn(Script) -> Script,
    expected: &str,
) -> suite::Result {
    let script = sign(attack(start(place())));
    let lab = lab(correct_read(start(script)))?;
    let ended = lab.start().finish();
    let expected = format!("{expected}\n{}", correct_answer());
    assert_eq!((ended.code, ended.stdout), (Some(0), expected), "{name}: {}", ended.stderr);
    assert!(ended.took < Duration::from_secs(10), "{name}: took {:?}", ended.took);
    Ok(())
}

fn gives_up(script: Script) -> Script {
    script.wait8(STATUS, NEEDS_RESET, NEEDS_RESET).print()
}

pub fn broken_rings_stop_the_queue() -> suite::Result {
    let header = |script: Script| script.copy(HEADER, &[0; 16]);
    let cases: &[(&str, &dyn Fn(Script) -> Script)] = &[
        ("a chain that is a circle", &|s| kick(descriptor(header(s), 0, HEADER.into(), 16, NEXT, 0), 0, 1)),
        ("a circle of two", &|s| {
            let s = descriptor(header(s), 0, HEADER.into(), 16, NEXT, 1);
            kick(descriptor(s, 1, DATA.into(), 512, NEXT, 0), 0, 1)
        }),
        ("a head outside the table", &|s| kick(s, 999, 1)),
        ("a next outside the table", &|s| kick(descriptor(header(s), 0, HEADER.into(), 16, NEXT, 8), 0, 1)),
        ("an available index far ahead", &|s| s.write16(AVAILABLE + 2, 0x7fff).write16(DOORBELL, 0)),
        ("an available index one too far", &|s| s.write16(AVAILABLE + 2, SIZE + 1).write16(DOORBELL, 0)),
        ("readable behind writable", &|s| {
            let s = descriptor(header(s), 0, DATA.into(), 512, NEXT | WRITE, 1);
            kick(descriptor(s, 1, HEADER.into(), 16, 0, 0), 0, 1)
        }),
        ("an indirect table outside memory", &|s| {
            kick(descriptor(s, 0, 0xfff_ffff_f000, 64, INDIRECT, 0), 0, 1)
        }),
        ("an indirect table of 4 GiB", &|s| {
            kick(descriptor(s, 0, DESCRIPTORS.into(), 0xffff_fff0, INDIRECT, 0), 0, 1)
        }),
        ("an indirect table that names itself", &|s| {
            kick(descriptor(s, 0, DESCRIPTORS.into(), 16, INDIRECT, 0), 0, 1)
        }),
        ("an answer that cannot be written", &|s| {
            let s = descriptor(header(s), 0, HEADER.into(), 16, NEXT, 1);
            let s = descriptor(s, 1, DATA.into(), 512, NEXT | WRITE, 2);
            kick(descriptor(s, 2, 0xfed4_0000, 1, WRITE, 0), 0, 1)
        }),
    ];
    for (name, case) in cases {
        attack(name, case, gives_up, "0000004f")?;
    }
    Ok(())
}

pub fn requests_for_memory_that_is_not_there_fail() -> suite::Result {
    let answered = |script: Script| script.wait32(USED, 0xffff_0000, 0x1_0000).read8(ANSWER).print();
    for (name, address, len) in [
        ("the hole above RAM", 0x0600_0000_u64, 512_u32),
        ("the end of RAM and more", 0x05ff_ff00, 512),
        ("the firmware", 0xffff_0000, 512),
        ("a BAR", BAR.into(), 512),
        ("the end of the address space", u64::MAX - 511, 512),
        ("4 GiB of data", DATA.into(), 0xffff_fe00),
    ] {
        let request = |script: Script| {
            let s = script.copy(HEADER, &[0; 16]).write8(ANSWER, 0xee);
            let s = descriptor(s, 0, HEADER.into(), 16, NEXT, 1);
            let s = descriptor(s, 1, address, len, NEXT | WRITE, 2);
            kick(descriptor(s, 2, ANSWER.into(), 1, WRITE, 0), 0, 1)
        };
        attack(name, request, answered, "00000001")?;
    }
    Ok(())
}

/// Queues in places where none can be stay off; starting the device then serves nothing.
pub fn rings_outside_memory_are_not_enabled() -> suite::Result {
    let mut script = place().write8(STATUS, 0).write8(STATUS, 1).write8(STATUS, 3);
    script = script.write32(BAR + 0x08, 1).write32(BAR + 0x0c, 3).write8(STATUS, 0xb);
    for address in [0x0600_0000, 0xffff_f000, 0xe000_0000, 0x10_0001, 0x05ff_fff0] {
        for register in [0x20, 0x28, 0x30] {
            script = script.write32(BAR + 0x20, DESCRIPTORS).write32(BAR + 0x28, AVAILABLE);
            script = script.write32(BAR + 0x30, USED).write32(BAR + register, address).write16(BAR + 0x1c, 1);
        }
    }
    let script = script.read16(BAR + 0x1c).print().write8(STATUS, RUNNING).write16(DOORBELL, 0);
    let lab = lab(correct_read(start(script)))?;
    let ended = lab.start().finish();
    // The last one is refused for the available ring (0x05fffff0 holds 8 entries less than it needs) and not
    // for the others.
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.ends_with(&correct_answer()), "{}: {}", ended.stdout, ended.stderr);
    assert!(ended.stdout.starts_with("00000000\n"), "{}", ended.stdout);
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0
//! The TPM as a guest of a few instructions sees it: registers, both buffers, writes that KVM collects, and
//! processors that write to a command while it starts.

use std::io::Write;
use std::time::Duration;

use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;

use crate::common::{Ended, Lab};
use crate::lab;
use crate::script::Script;

const BASE: u32 = 0xfed4_0000;
const LOC_STATE: u32 = BASE;
const LOC_CTRL: u32 = BASE + 0x08;
const INTF_ID: u32 = BASE + 0x30;
const CTRL_REQ: u32 = BASE + 0x40;
const CTRL_STS: u32 = BASE + 0x44;
const CTRL_START: u32 = BASE + 0x4c;
const CMD_ADDR: u32 = BASE + 0x5c;
const WINDOW: u32 = BASE + 0x80;
const PAGE: u32 = BASE + 0x1000;

const STARTUP: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
/// GetCapability(TPM_CAP_TPM_PROPERTIES, TPM_PT_FAMILY_INDICATOR, 1): "2.0" and a NUL.
const FAMILY: [u8; 22] = [0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0, 1];
/// Offset of the value in its response.
const VALUE: u32 = 23;
/// SelfTest(fullTest = yes): longer than a START waits for.
const SELF_TEST: [u8; 11] = [0x80, 1, 0, 0, 0, 11, 0, 0, 1, 0x43, 1];
/// GetCapability(TPM_CAP_PCRS), and where its response has the bank of index N and the first byte of its
/// PCRs.
const BANKS: [u8; 22] = [0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1];
const FIRST_BANK: u32 = 19;
/// GetRandom(32).
const RANDOM: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 32];

/// How a guest gets its command across.
#[derive(Clone, Copy, Debug)]
enum Way {
    Bytes,
    Words,
    Page,
}

fn put(mut script: Script, way: Way, command: &[u8]) -> Script {
    match way {
        Way::Page => script = script.copy(PAGE, command),
        Way::Bytes => {
            for (at, byte) in (WINDOW..).zip(command) {
                script = script.write8(at, *byte);
            }
        }
        Way::Words => {
            for (at, word) in (WINDOW..).step_by(4).zip(command.chunks(4)) {
                let mut bytes = [0; 4];
                bytes[..word.len()].copy_from_slice(word);
                script = script.write32(at, u32::from_le_bytes(bytes));
            }
        }
    }
    script
}

/// A command by the book; prints the response code in the order of its bytes.
fn command(script: Script, way: Way, command: &[u8]) -> Script {
    let at = if matches!(way, Way::Page) { PAGE } else { WINDOW };
    put(script.write32(CTRL_REQ, 1), way, command)
        .write32(CTRL_START, 1)
        .wait32(CTRL_START, 1, 0)
        .read32(at + 6)
        .print()
}

fn with_tpm(script: Script, keys: &str) -> Result<Lab, Missing> {
    lab(script).map(|lab| lab.table(&format!("[vtpm]\nmode = \"in-process\"\n{keys}")))
}

fn request(script: Script) -> Script {
    script.write32(LOC_CTRL, 1)
}

#[track_caller]
fn check(ended: &Ended, expected: &str) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), expected), "{}", ended.stderr);
}

pub fn answers_on_every_way() -> suite::Result {
    for (keys, page, ways) in [
        ("", true, &[Way::Bytes, Way::Words, Way::Page][..]),
        ("coalesced_mmio = false\n", true, &[Way::Bytes, Way::Page]),
        ("shared_buffer = false\n", false, &[Way::Bytes, Way::Words]),
        ("sandbox = \"process\"\n", true, &[Way::Bytes, Way::Page]),
    ] {
        let mut script =
            Script::new().read32(LOC_STATE).print().read32(INTF_ID).print().read32(CMD_ADDR).print();
        script = command(request(script), Way::Bytes, &STARTUP);
        let mut expected =
            format!("00000081\n00025a11\n{}\n00000000\n", if page { "fed41000" } else { "fed40080" });
        for way in ways {
            script = command(script, *way, &FAMILY).read32(WINDOW + VALUE).print();
            expected.push_str("00000000\n00302e32\n");
            script = command(script, *way, &SELF_TEST);
            expected.push_str("00000000\n");
        }
        // The banks that vm.toml wants: sha256 and sha384 of the four (algorithm, length, then the first byte
        // of the PCRs).
        script = command(script, Way::Bytes, &BANKS);
        expected.push_str("00000000\n");
        for (bank, text) in (0..).zip(["00030400", "ff030b00", "ff030c00", "00030d00"]) {
            script = script.read32(WINDOW + FIRST_BANK + 6 * bank).print();
            expected.push_str(text);
            expected.push('\n');
        }
        script = script.read32(CTRL_STS).print().read8(PAGE + 0xfff).print();
        expected.push_str(if page { "00000000\n00000000\n" } else { "00000000\n000000ff\n" });
        let lab = with_tpm(script, keys)?;
        let ended = lab.start().finish();
        check(&ended, &expected);
        assert!(ended.stderr.contains("host's side of the boundary"), "{}", ended.stderr);
    }
    Ok(())
}

pub fn collects_writes_and_plays_them_in_order() -> suite::Result {
    // More than the ring has room for, before anything reads: the rest exits.
    let mut script = request(Script::new()).write32(CTRL_REQ, 1);
    for round in 0..3 {
        for at in 0..400_u32 {
            script = script.write8(WINDOW + at, (at + round) as u8);
        }
    }
    for at in [0_u32, 169, 170, 399] {
        script = script.read8(WINDOW + at).print();
    }
    let lab = with_tpm(script, "")?;
    check(&lab.start().finish(), "00000002\n000000ab\n000000ac\n00000091\n");
    Ok(())
}

pub fn starts_again_with_every_reset() -> suite::Result {
    // A reset by the chipset's register; the second run finds RAM of a new machine, so there is no way to
    // count: the harness ends the VM at the reset.
    let script =
        command(command(request(Script::new()), Way::Bytes, &STARTUP), Way::Page, &STARTUP).out8(0xcf9, 6);
    let lab = with_tpm(script, "")?;
    let ended = lab.argument("--exit-on-reset").start().finish();
    // TPM_RC_INITIALIZE the second time.
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(13), "00000000\n00010000\n"), "{}", ended.stderr);
    Ok(())
}

pub fn a_guest_without_one_finds_nothing() -> suite::Result {
    let script = Script::new().read32(LOC_STATE).print().read32(PAGE).print();
    let lab = lab(script)?;
    check(&lab.start().finish(), "ffffffff\nffffffff\n");
    Ok(())
}

pub fn anything_to_any_register() -> suite::Result {
    for keys in ["", "coalesced_mmio = false\nshared_buffer = false\n"] {
        let script = request(Script::new())
            .write32(CTRL_REQ, 1)
            .sweep_memory(BASE, 1, 0x200)
            .sweep_memory(BASE + 0xf00, 1, 0xff)
            .text("survived\n");
        let lab = with_tpm(script, keys)?;
        check(&lab.start().finish(), "survived\n");
    }
    Ok(())
}

/// The guest is told, by the response code and by the error bit, and goes on; a reset brings the TPM back.
pub fn a_tpm_whose_process_is_killed() -> suite::Result {
    let script = command(request(Script::new()), Way::Bytes, &STARTUP).text("up\n").echo(1);
    let script = command(script, Way::Page, &RANDOM).read32(CTRL_STS).print();
    let script = command(script, Way::Bytes, &STARTUP).text("on\n").echo(1).out8(0xcf9, 6);
    let lab = with_tpm(script, "sandbox = \"process\"\n")?;
    let mut vm = lab.start_with_input();
    let mut input = vm.input();
    for boot in 1..=2 {
        vm.wait_for("the guest to be up", |vm| vm.stdout().matches("up\n").count() == boot);
        let [child] = vm.children()[..] else { panic!("{:?} are not the tpm's process", vm.children()) };
        vm.kill_child(child);
        input.write_all(b"x").unwrap();
        vm.wait_for("the guest to go on", |vm| vm.stdout().matches("on\n").count() == boot);
        if boot == 1 {
            // To the reset.
            input.write_all(b"x").unwrap();
        }
    }
    vm.signal(libc::SIGQUIT);
    let ended = vm.finish();
    let once = "00000000\nup\nx01010000\n00000001\n01010000\non\n";
    assert_eq!((ended.code, ended.stdout), (Some(12), format!("{once}x{once}")), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("tpm has failed").count(), 2, "{}", ended.stderr);
    Ok(())
}

/// Other processors write to the buffer all the time while commands start from it. Whatever the TPM makes of
/// that, the VM lives, and the TPM works when they have something better to do.
pub fn a_buffer_that_changes_while_commands_start() -> suite::Result {
    for (keys, target, way) in [
        ("", WINDOW, Way::Bytes),
        ("coalesced_mmio = false\n", WINDOW, Way::Bytes),
        ("", PAGE, Way::Page),
        ("sandbox = \"process\"\n", PAGE, Way::Page),
    ] {
        let mut script = command(request(Script::new()), way, &STARTUP);
        // The size field and the command's code among what changes.
        script = script.hammer(target, 12);
        for _ in 0..60 {
            script = put(script.write32(CTRL_REQ, 1), way, &RANDOM)
                .write32(CTRL_START, 1)
                .wait32(CTRL_START, 1, 0);
        }
        script = script.read32(CTRL_STS).print().text("survived\n");
        let lab = with_tpm(script, keys)?;
        let ended = lab.vcpus(2).start().finish();
        check(&ended, "00000000\n00000000\nsurvived\n");
        assert!(ended.took < Duration::from_secs(20), "took {:?}", ended.took);
    }
    Ok(())
}

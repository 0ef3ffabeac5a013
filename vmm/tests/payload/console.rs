// SPDX-License-Identifier: Apache-2.0
//! The host's end of the serial console: pipes that are slow, stuck or closed, files, pseudo-terminals.

use std::fs::OpenOptions;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::Stdio;
use std::time::Duration;

use cvmm_test_support::suite;

use crate::common::{Vm, proc_count};
use crate::lab;
use crate::script::Script;

/// RAM with the text of a flood.
const TEXT: u32 = 0x10_0000;
const LINE: &[u8; 64] = b"a line of sixty-four characters, the last of which ends it.....\n";

/// Prints `kib` KiB; each character may be an exit.
fn flood(kib: u32) -> Script {
    Script::new().text("up\n").copy(TEXT, &LINE.repeat(16)).flood(TEXT, 1024, kib).text("end\n")
}

/// More than a console's buffer (64 KiB) and the writer's batch hold.
const TOO_MUCH: u32 = 72;

/// A pipe that is full already.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The capacity of a pipe unless changed, see pipe(7).
    writer.write_all(&[b'.'; 65536]).unwrap();
    (reader, writer)
}

pub fn much_output_arrives_complete() -> suite::Result {
    let lab = lab(flood(80))?;
    let ended = lab.start().finish();
    let expected = format!("up\n{}end\n", String::from_utf8_lossy(&LINE.repeat(80 * 16)));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout == expected, "{} bytes instead of {}", ended.stdout.len(), expected.len());
    Ok(())
}

pub fn a_closed_pipe_does_not_stop_the_guest() -> suite::Result {
    let lab = lab(flood(8))?;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = lab.command();
    command.stdin(Stdio::null()).stdout(writer);
    let vm = Vm::spawn(command, lab);
    drop(reader);
    let ended = vm.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    Ok(())
}

pub fn an_unread_pipe_costs_output_and_little_time() -> suite::Result {
    let lab = lab(flood(TOO_MUCH))?;
    let (reader, writer) = full_pipe();
    let mut command = lab.command();
    command.stdin(Stdio::null()).stdout(writer);
    let ended = Vm::spawn(command, lab).finish();
    drop(reader);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.took < Duration::from_secs(10), "took {:?}", ended.took);
    assert!(ended.stderr.contains("console output"), "the loss is told: {}", ended.stderr);
    Ok(())
}

pub fn input_reaches_the_guest_however_late_it_reads() -> suite::Result {
    let lab = lab(Script::new().text("up\n").delay(300_000).echo(5000))?;
    let mut vm = lab.start_with_input();
    vm.wait_for_text("up\n");
    let sent: Vec<u8> = (0..5000_u32).map(|i| b"abcdefghijklmnopqrstuvwxyz\n"[i as usize % 27]).collect();
    let mut input = vm.input();
    // More than the receive FIFO holds, and a Ctrl-A, which is a command only on a terminal.
    let mut all = sent.clone();
    all[100] = 1;
    all[101] = b'x';
    input.write_all(&all).unwrap();
    let ended = vm.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.as_bytes()[3..] == all, "{:?}", ended.stdout);
    Ok(())
}

pub fn the_end_of_input_is_not_the_end_of_the_guest() -> suite::Result {
    let lab = lab(Script::new().echo(3).delay(20_000).text("done\n"))?;
    let mut vm = lab.start_with_input();
    let mut input = vm.input();
    input.write_all(b"abc").unwrap();
    drop(input);
    let ended = vm.finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "abcdone\n"), "{}", ended.stderr);
    Ok(())
}

pub fn a_file_gets_the_output_appended() -> suite::Result {
    let lab = lab(Script::new().text("new\n"))?;
    let lab = lab.table("[console]\nmode = \"file\"\npath = \"console.log\"\n");
    let log = lab.path("console.log");
    // As an earlier run of cvmm leaves it; any other file with content is refused.
    std::fs::write(&log, "old\n").unwrap();
    let mark = "--- cvmm: older console output; the file without .1 has what follows ---\n";
    std::fs::write(lab.path("console.log.1"), mark).unwrap();
    let mut vm = lab.start();
    vm.wait_for("the file", |_| std::fs::read(&log).is_ok_and(|text| text.ends_with(b"new\n")));
    let text = std::fs::read_to_string(&log).unwrap();
    let ended = vm.finish();
    assert_eq!((ended.code, ended.stdout.as_str(), text.as_str()), (Some(0), "", "old\nnew\n"));
    Ok(())
}

pub fn no_console_takes_everything() -> suite::Result {
    let lab = lab(flood(8))?;
    let ended = lab.table("[console]\nmode = \"none\"\n").start().finish();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{}", ended.stderr);
    Ok(())
}

pub fn a_pseudo_terminal_is_named_and_works_both_ways() -> suite::Result {
    let lab = lab(Script::new().echo(4).text("done").echo(1))?;
    let mut vm = lab.table("[console]\nmode = \"pty\"\n").start();
    vm.wait_for("the name", |vm| vm.stderr().contains("/dev/pts/"));
    let text = vm.stderr();
    let at = text.find("/dev/pts/").unwrap();
    let path: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '/').collect();
    let mut terminal = OpenOptions::new().read(true).write(true).open(path).unwrap();
    terminal.write_all(b"\x01x\n\r").unwrap();
    let mut answer = [0; 8];
    terminal.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x01x\n\rdone");
    // The end of the program hangs up the terminal, and what was not read by then is lost: so the guest
    // waits.
    terminal.write_all(b"q").unwrap();
    assert_eq!(vm.finish().code, Some(0));
    Ok(())
}

/// A device's output thread ends with the machine it belongs to, also when its terminal is stuck.
pub fn a_stuck_terminal_does_not_gather_threads_over_resets() -> suite::Result {
    let script = Script::new().text("boot").out8(0xcf9, 6);
    let lab = lab(script)?;
    let (reader, writer) = full_pipe();
    let lab = lab.argument("--grace=0");
    let mut command = lab.command();
    command.stdin(Stdio::null()).stdout(writer);
    let mut vm = Vm::spawn(command, lab);
    let resets = |vm: &Vm| vm.stderr().matches("building the machine again").count();
    let mut threads_after = |count: usize| {
        vm.wait_for("resets", |vm| resets(vm) >= count);
        proc_count(vm.pid(), "task")
    };
    // More of these lines would not be shown within the minute.
    let (early, late) = (threads_after(2), threads_after(4));
    vm.signal(libc::SIGTERM);
    let ended = vm.finish();
    drop(reader);
    assert_eq!(ended.code, Some(12), "{}", ended.stderr);
    assert!(late <= early + 1, "{early} threads after two resets, {late} after four");
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0
//! The operator's terminal is as it was, however the VM ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;

use cvmm_test_support::suite;

use crate::common::{Ended, Lab, Vm};
use crate::lab;
use crate::script::Script;

/// A pseudo-terminal that stands for the operator's terminal.
struct Terminal {
    /// The operator's side.
    operator: File,
    program: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn new() -> Self {
        let (mut operator, mut program) = (-1, -1);
        // SAFETY: both pointers are to live integers; the other arguments may be null.
        let result = unsafe {
            libc::openpty(
                &mut operator,
                &mut program,
                std::ptr::null_mut(),
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: openpty made both descriptors and gave them to us alone.
        let (operator, program) = unsafe { (File::from_raw_fd(operator), OwnedFd::from_raw_fd(program)) };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut source, theirs) = (operator.try_clone().unwrap(), Arc::clone(&seen));
        // Ends with an error when the last descriptor of the program's end is closed.
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = source.read(&mut piece) {
                theirs.lock().unwrap().extend_from_slice(&piece[..len]);
            }
        });
        Self { operator, program, seen }
    }

    /// Everything that stty(1) would show.
    fn settings(&self) -> (u32, u32, u32, u32, [u8; 32]) {
        // SAFETY: an all-zero termios is a valid value, and the kernel fills it.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and the pointer is to a live value.
        let result = unsafe { libc::tcgetattr(self.program.as_raw_fd(), &mut settings) };
        assert_eq!(result, 0);
        (settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag, settings.c_cc)
    }

    fn is_raw(&self) -> bool {
        self.settings().3 & (libc::ICANON | libc::ECHO | libc::ISIG) == 0
    }

    fn shows(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).contains(text)
    }

    fn start(&self, lab: Lab) -> Vm {
        let end = || Stdio::from(self.program.try_clone().unwrap());
        let mut command = lab.command();
        command.stdin(end()).stdout(end());
        Vm::spawn(command, lab)
    }
}

/// Runs `lab` on a terminal; `act` is called when the guest is up.
fn session(lab: Lab, act: impl FnOnce(&mut Terminal, &Vm)) -> Ended {
    let mut terminal = Terminal::new();
    let before = terminal.settings();
    assert!(!terminal.is_raw());
    let mut vm = terminal.start(lab);
    vm.wait_for("the guest", |_| terminal.shows("up\r\n"));
    assert!(terminal.is_raw(), "keys go to the guest");
    act(&mut terminal, &vm);
    let ended = vm.finish();
    assert_eq!(terminal.settings(), before, "the terminal is as it was: {}", ended.stderr);
    ended
}

fn up() -> Script {
    Script::new().text("up\n")
}

pub fn after_power_off_reset_and_triple_fault() -> suite::Result {
    let ends = [
        (up().echo(1), Some(0)),
        (up().echo(1).out8(0xcf9, 6), Some(13)),
        (up().echo(1).triple_fault(), Some(10)),
    ];
    for (script, code) in ends {
        let lab = lab(script)?;
        let ended = session(lab.argument("--exit-on-reset"), |terminal, _| {
            terminal.operator.write_all(b"q").unwrap();
        });
        assert_eq!(ended.code, code, "{}", ended.stderr);
    }
    Ok(())
}

pub fn after_a_stop_signal() -> suite::Result {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let lab = lab(up().halt())?;
        let ended = session(lab.argument("--grace=0"), |_, vm| vm.signal(signal));
        assert_eq!(ended.code, Some(12), "signal {signal}: {}", ended.stderr);
    }
    Ok(())
}

pub fn after_the_operators_keys() -> suite::Result {
    let stopped = lab(up().halt())?;
    let ended = session(stopped, |terminal, _| terminal.operator.write_all(b"\x01x").unwrap());
    assert_eq!(ended.code, Some(12), "{}", ended.stderr);

    let asked = lab(up().button(9))?;
    let ended = session(asked, |terminal, _| terminal.operator.write_all(b"\x01b").unwrap());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    Ok(())
}

/// Ctrl-C is a key like any other: it goes to the guest, which prints it.
pub fn control_characters_go_to_the_guest() -> suite::Result {
    let lab = lab(up().echo(3).text("end\n"))?;
    let ended = session(lab, |terminal, _| terminal.operator.write_all(b"\x03\x1a\x1c").unwrap());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    Ok(())
}

/// The console is set up before the devices, so an error of these comes while the terminal is raw.
pub fn after_an_error() -> suite::Result {
    let first = lab(up().halt())?;
    let disk = first.path("disk.img");
    let mut holder = first.argument("--grace=0").start();
    holder.wait_for_text("up\n");

    let mut second = lab(up())?;
    second.tables = second.tables.replace("disk.img", &disk.display().to_string());
    let terminal = Terminal::new();
    let before = terminal.settings();
    let ended = terminal.start(second).finish();
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    assert!(ended.stderr.contains("in use"), "{}", ended.stderr);
    assert_eq!(terminal.settings(), before);

    holder.signal(libc::SIGTERM);
    assert_eq!(holder.finish().code, Some(12));
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0
//! The operator's terminal in raw mode while the guest has it, and back again in every case.
//!
//! Raw mode is left when the guard is dropped and, because a release build aborts on panic without unwinding,
//! by a panic hook too. The stop signals are read as events and end in the normal path.

#![expect(unsafe_code, reason = "termios has no safe interface in std")]

use std::io::{self, IsTerminal};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, Once, PoisonError};

static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Standard input is in raw mode while this lives.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts standard input into raw mode; `None` if it is not a terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        // SAFETY: an all-zero termios is a valid value, and the kernel fills it.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and the pointer is to a live value.
        if unsafe { libc::tcgetattr(stdin.as_raw_fd(), &mut settings) } != 0 {
            return Err(io::Error::last_os_error());
        }
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                next(info);
            }));
        });
        let mut raw = settings;
        // SAFETY: both pointers are to live values.
        unsafe { libc::cfmakeraw(&mut raw) };
        // Output processing stays on: messages of the VMM end in a bare newline.
        raw.c_oflag |= libc::OPOST;
        // SAFETY: as above.
        if unsafe { libc::tcsetattr(stdin.as_raw_fd(), libc::TCSANOW, &raw) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(settings) = saved {
        // SAFETY: the descriptor is standard input and the pointer is to a live value.
        let _ = unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSANOW, &settings) };
    }
}

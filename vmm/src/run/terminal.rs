// SPDX-License-Identifier: Apache-2.0
//! The operator's terminal, in raw mode while the guest uses it.
//!
//! Raw mode is left when the guard is dropped and, because a release build aborts on panic without unwinding,
//! by a panic hook too. The stop signals are read as events and end in the normal path.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
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
        let settings = tcgetattr(&stdin)?;
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings.clone());
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                next(info);
            }));
        });
        let mut raw = settings;
        raw.make_raw();
        // Output processing stays on: messages of the VMM end in a bare newline.
        raw.output_modes |= OutputModes::OPOST;
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
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
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
}

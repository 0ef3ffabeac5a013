// SPDX-License-Identifier: Apache-2.0
//! The host's end of the guest's console: standard input and output, a file, a pseudo-terminal, or nothing.
//!
//! It is opened once and outlives the machine, so that a guest reset does not cut the operator off.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use thiserror::Error;

use super::terminal::RawMode;
use crate::config::{Console, ConsoleMode, DEFAULT_CONSOLE_SIZE};
use crate::console_file::ConsoleFile;
use crate::machine::console_sink::{ConsoleSink, OnText};

/// Why the console could not be opened.
#[derive(Debug, Error)]
pub enum ConsoleError {
    /// The output file.
    #[error("cannot open console file {path}: {source}")]
    File {
        /// As configured.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The pseudo-terminal.
    #[error("cannot make a pseudo-terminal for the console: {0}")]
    Pty(#[source] io::Error),
    /// The terminal or the writer thread.
    #[error("cannot set up the console: {0}")]
    Setup(#[source] io::Error),
    /// The file mode came without a path; configuration checks refuse that.
    #[error("console.mode = \"file\" needs console.path")]
    NoPath,
}

/// The opened console.
#[derive(Debug)]
pub struct ConsoleEnds {
    /// Where the device writes.
    pub sink: ConsoleSink,
    /// Where the operator's input comes from.
    pub input: Option<ConsoleInput>,
    /// Leaves raw mode when it is dropped.
    _raw: Option<RawMode>,
}

impl ConsoleEnds {
    /// Opens what `console` asks for; `watch` is text to look for in the guest's output.
    pub fn open(console: &Console, watch: Option<(String, OnText)>) -> Result<Self, ConsoleError> {
        let (sink, input, raw): (Box<dyn Write + Send>, _, _) = match console.mode {
            ConsoleMode::Stdio => {
                let raw = RawMode::enter().map_err(ConsoleError::Setup)?;
                let input = ConsoleInput { source: Source::Stdin, escapes: raw.is_some(), escaped: false };
                (Box::new(io::stdout()), Some(input), raw)
            }
            ConsoleMode::File => {
                let path = console.path.clone().ok_or(ConsoleError::NoPath)?;
                let max_size = console.max_size.unwrap_or(DEFAULT_CONSOLE_SIZE);
                let file = ConsoleFile::open(&path, max_size)
                    .map_err(|(path, source)| ConsoleError::File { path, source })?;
                (Box::new(file), None, None)
            }
            ConsoleMode::Pty => {
                let pty = Pty::open().map_err(ConsoleError::Pty)?;
                cvmm_log_limit::info!(path = %pty.path.display(), "console is a pseudo-terminal");
                let writer = pty.master.try_clone().map_err(ConsoleError::Pty)?;
                let input = ConsoleInput { source: Source::Pty(pty), escapes: false, escaped: false };
                (Box::new(writer), Some(input), None)
            }
            ConsoleMode::None => (Box::new(io::sink()), None, None),
        };
        Ok(Self { sink: ConsoleSink::new(sink, watch), input, _raw: raw })
    }
}

/// What the operator typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Key {
    /// Bytes for the guest.
    Guest(u8),
    /// Ctrl-A x: stop the VM now.
    Stop,
    /// Ctrl-A b: press the power button.
    PowerButton,
}

/// The operator's input.
#[derive(Debug)]
pub struct ConsoleInput {
    source: Source,
    /// Ctrl-A starts a command. Only on a terminal: a pipe may carry any byte.
    escapes: bool,
    escaped: bool,
}

#[derive(Debug)]
enum Source {
    Stdin,
    Pty(Pty),
}

const ESCAPE: u8 = 0x01;

impl ConsoleInput {
    /// Reads what is there; `None` at the end of the input. Blocks if nothing is there.
    pub fn read(&mut self) -> Option<Vec<Key>> {
        let mut bytes = [0; 64];
        let result = match &mut self.source {
            // Not through std's buffer: what it holds back would not wake the event loop.
            Source::Stdin => rustix::io::read(io::stdin(), &mut bytes).map_err(io::Error::from),
            Source::Pty(pty) => pty.master.read(&mut bytes),
        };
        match result {
            Ok(0) => None,
            Ok(len) => Some(bytes[..len].iter().filter_map(|byte| self.decode(*byte)).collect()),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                Some(Vec::new())
            }
            Err(_) => None,
        }
    }

    /// The pseudo-terminal that it comes from, if it does.
    #[cfg(test)]
    pub(super) fn pty_path(&self) -> Option<&std::path::Path> {
        match &self.source {
            Source::Stdin => None,
            Source::Pty(pty) => Some(&pty.path),
        }
    }

    fn decode(&mut self, byte: u8) -> Option<Key> {
        if !self.escapes {
            return Some(Key::Guest(byte));
        }
        if std::mem::take(&mut self.escaped) {
            return match byte {
                b'x' => Some(Key::Stop),
                b'b' => Some(Key::PowerButton),
                other => Some(Key::Guest(other)),
            };
        }
        if byte == ESCAPE {
            self.escaped = true;
            return None;
        }
        Some(Key::Guest(byte))
    }
}

impl AsRawFd for ConsoleInput {
    fn as_raw_fd(&self) -> RawFd {
        match &self.source {
            Source::Stdin => libc::STDIN_FILENO,
            Source::Pty(pty) => pty.master.as_raw_fd(),
        }
    }
}

#[derive(Debug)]
struct Pty {
    master: File,
    /// Held open so that the master does not report a hang-up while the other end is not open.
    _slave: OwnedFd,
    path: PathBuf,
}

impl Pty {
    fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let mut settings = tcgetattr(&slave)?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        let path = PathBuf::from(OsStr::from_bytes(name.as_bytes()));
        Ok(Self { master: master.into(), _slave: slave, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConsoleDevice;

    #[test]
    fn escapes_only_on_a_terminal() {
        let mut keys = ConsoleInput { source: Source::Stdin, escapes: true, escaped: false };
        let typed: Vec<_> = b"a\x01b\x01\x01\x01xz".iter().filter_map(|byte| keys.decode(*byte)).collect();
        assert_eq!(
            typed,
            [Key::Guest(b'a'), Key::PowerButton, Key::Guest(ESCAPE), Key::Stop, Key::Guest(b'z')]
        );
        keys.escapes = false;
        assert_eq!(keys.decode(ESCAPE), Some(Key::Guest(ESCAPE)));
        assert_eq!(keys.decode(b'x'), Some(Key::Guest(b'x')));
    }

    #[test]
    fn a_pty_carries_bytes_both_ways() {
        let console =
            Console { device: ConsoleDevice::Serial, mode: ConsoleMode::Pty, path: None, max_size: None };
        let mut ends = ConsoleEnds::open(&console, None).unwrap();
        let mut input = ends.input.take().unwrap();
        let Source::Pty(pty) = &input.source else { panic!("not a pty") };
        let mut other = File::options().read(true).write(true).open(&pty.path).unwrap();
        other.write_all(b"\x01x").unwrap();
        assert_eq!(input.read(), Some(vec![Key::Guest(1), Key::Guest(b'x')]));
        ends.sink.write_all(b"login: ").unwrap();
        let mut text = [0; 7];
        other.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"login: ");
    }
}

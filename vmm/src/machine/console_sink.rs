// SPDX-License-Identifier: Apache-2.0
//! Where the console device's bytes go on the host, and the watch for a text among them.
//!
//! The sink outlives the machine: after a guest reset the new console device gets a clone. Devices put a
//! bounded buffer and a thread in front of it (`cvmm_devices::chipset::console_out`), so a write here may
//! block. A device that goes while its thread is stuck in a write abandons it. The next device's thread must
//! not queue up behind that one, or every reset would leave another: its write fails with `WouldBlock`
//! instead, so that it can be ended in order.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

/// Called when the watched text goes by.
pub type OnText = Box<dyn Fn() + Send + Sync>;

/// A clonable handle to the host's end of the console.
#[derive(Clone)]
pub struct ConsoleSink {
    sink: Arc<Mutex<Sink>>,
    /// Bytes that came from the guest.
    shown: Arc<AtomicU64>,
}

struct Sink {
    inner: Box<dyn Write + Send>,
    watch: Option<Watch>,
}

struct Watch {
    text: Vec<u8>,
    /// How many bytes of the text have just gone by.
    matched: usize,
    seen: OnText,
}

impl std::fmt::Debug for ConsoleSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleSink").finish_non_exhaustive()
    }
}

impl ConsoleSink {
    /// Writes to `inner`. With `watch`, its function is called each time the text goes by.
    pub fn new(inner: Box<dyn Write + Send>, watch: Option<(String, OnText)>) -> Self {
        let watch = watch.filter(|(text, _)| !text.is_empty()).map(|(text, seen)| Watch {
            text: text.into_bytes(),
            matched: 0,
            seen,
        });
        Self { sink: Arc::new(Mutex::new(Sink { inner, watch })), shown: Arc::default() }
    }

    /// A number that grows with what the guest writes, also when the host does not take it.
    pub fn shown(&self) -> u64 {
        self.shown.load(Ordering::Relaxed)
    }

    /// Exclusive use of the sink, or [`io::ErrorKind::WouldBlock`] while another thread writes.
    fn sink(&self) -> io::Result<MutexGuard<'_, Sink>> {
        match self.sink.try_lock() {
            Ok(sink) => Ok(sink),
            Err(TryLockError::Poisoned(sink)) => Ok(sink.into_inner()),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for ConsoleSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shown.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let mut sink = self.sink()?;
        let written = sink.inner.write(bytes)?;
        if let Some(watch) = &mut sink.watch {
            for byte in &bytes[..written.min(bytes.len())] {
                watch.matched = advance(&watch.text, watch.matched, *byte);
                if watch.matched == watch.text.len() {
                    watch.matched = 0;
                    (watch.seen)();
                }
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.sink() {
            Ok(mut sink) => sink.inner.flush(),
            // The thread that writes flushes too, and what both wrote is in one buffer.
            Err(_) => Ok(()),
        }
    }
}

/// How much of `text` matches after one more byte, given that `matched` bytes did.
fn advance(text: &[u8], mut matched: usize, byte: u8) -> usize {
    loop {
        if text[matched] == byte {
            return matched + 1;
        }
        if matched == 0 {
            return 0;
        }
        // The longest shorter prefix that is also a suffix of what has matched.
        matched = (0..matched).rev().find(|&len| text[..len] == text[matched - len..matched]).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn finds_the_text_across_writes() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let watch: OnText = Box::new(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        let mut sink = ConsoleSink::new(Box::new(io::sink()), Some(("aab: up".to_owned(), watch)));
        for piece in ["boot aa", "ab: ", "up\r\n", "aab: uaab: up"] {
            sink.write_all(piece.as_bytes()).unwrap();
        }
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn clones_write_to_the_same_place() {
        struct Count(Arc<AtomicUsize>);
        impl Write for Count {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.fetch_add(bytes.len(), Ordering::Relaxed);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let total = Arc::new(AtomicUsize::new(0));
        let mut first = ConsoleSink::new(Box::new(Count(Arc::clone(&total))), None);
        let mut second = first.clone();
        first.write_all(b"before").unwrap();
        second.write_all(b"after reset").unwrap();
        assert_eq!(total.load(Ordering::Relaxed), 17);
        assert_eq!((first.shown(), second.shown()), (17, 17));
    }

    #[test]
    fn a_stuck_writer_does_not_hold_up_the_next_one() {
        struct Stuck(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(()).map_err(io::Error::other)?;
                self.1.recv().map_err(io::Error::other)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel();
        let mut old = ConsoleSink::new(Box::new(Stuck(entered, may_go_on)), None);
        let mut new = old.clone();
        let writer = std::thread::spawn(move || old.write(b"old"));
        has_entered.recv().unwrap();
        let shown = new.shown();
        assert_eq!(new.write(b"new").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(new.shown(), shown + 3, "what the host does not take is still the guest's");
        go_on.send(()).unwrap();
        assert_eq!(writer.join().unwrap().unwrap(), 3);
        go_on.send(()).unwrap();
        assert_eq!(new.write(b"new").unwrap(), 3);
    }
}

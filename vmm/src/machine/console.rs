// SPDX-License-Identifier: Apache-2.0
//! The guest's console device and the way the operator's input takes into it.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use cvmm_devices::chipset::Serial;
use cvmm_devices::chipset::console_out::ConsoleControl;

/// Where console input goes.
#[derive(Debug)]
pub enum ConsolePort {
    /// The receive FIFO of the serial port, and the switch that keeps its output from waiting.
    Serial(Arc<Mutex<Serial>>, ConsoleControl),
    /// A pipe whose other end the virtio console reads when the guest has a buffer for it.
    Virtio(File),
}

impl ConsolePort {
    /// From now on output never makes a vCPU wait: called when the vCPUs are to stop.
    pub fn release(&self) {
        if let Self::Serial(_, control) = self {
            control.release();
        }
    }

    /// Offers `bytes`; returns how many were taken.
    pub fn push(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Serial(serial, _) => serial.lock().unwrap_or_else(PoisonError::into_inner).enqueue(bytes),
            // The pipe does not block; when it is full, nothing is taken.
            Self::Virtio(pipe) => (&*pipe).write(bytes).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::pipe::input_pipe;

    #[test]
    fn a_full_pipe_takes_nothing_and_does_not_block() {
        let (reader, writer) = input_pipe().unwrap();
        let port = ConsolePort::Virtio(writer);
        let mut total = 0;
        loop {
            match port.push(&[b'x'; 4096]) {
                0 => break,
                taken => total += taken,
            }
            assert!(total <= 1 << 20, "a pipe is bounded");
        }
        let mut reader = File::from(reader);
        let mut first = [0; 3];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"xxx");
    }
}

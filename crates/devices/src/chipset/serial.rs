// SPDX-License-Identifier: Apache-2.0
//! A 16550A UART (National Semiconductor PC16550D), COM1: `vm-superio`'s register model on our bus.
//!
//! Output never blocks a vCPU on the terminal, see [`super::console_out`]. Input goes through the UART's
//! receive FIFO of 64 bytes: [`Serial::enqueue`] takes what fits, and the `input_ready` event says when there
//! is room again, so the machine keeps unread what the guest has not asked for. Interrupts are edges on an
//! eventfd.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use cvmm_metrics::{Inspect, View};
use thiserror::Error;
use vm_superio::Trigger;
use vm_superio::serial::{Error as UartError, Serial as Uart, SerialEvents};
use vmm_sys_util::eventfd::EventFd;

use super::console_out::{ConsoleControl, ConsoleOut};
use super::metrics::{ConsoleOutMetrics, SerialMetrics};
use crate::bus::BusDevice;

/// Transmitter holding register, while the divisor latch is not shown.
const THR: u64 = 0;
/// Line control register; its bit 7 shows the divisor latch.
const LCR: u64 = 3;
const LCR_DLAB: u8 = 1 << 7;
/// Number of registers.
pub(super) const LEN: u64 = 8;
/// Modem control register; its bit 4 is the loopback mode.
const MCR: u64 = 4;

/// Failures of the host's side of the UART.
#[derive(Debug, Error)]
pub enum SerialError {
    /// The output thread cannot be started.
    #[error("cannot start the serial output thread: {0}")]
    Thread(#[source] io::Error),
}

/// The interrupt line: an eventfd that the machine connects to the interrupt controller.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the machine that there is room for input.
struct Room(Option<EventFd>);

impl Room {
    fn signal(&self) {
        if let Some(event) = &self.0 {
            // Only a saturated counter can fail this, and then the event is pending anyway.
            let _ = event.write(1);
        }
    }
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.signal();
    }
}

/// What the port and the buffer behind it have done.
struct PortMetrics {
    port: Arc<SerialMetrics>,
    output: Arc<ConsoleOutMetrics>,
}

impl Inspect for PortMetrics {
    fn inspect(&self, view: &mut View) {
        self.port.inspect(view);
        view.part("output", &*self.output);
    }
}

/// The UART.
pub struct Serial {
    uart: Uart<Line, Room, ConsoleOut>,
    metrics: Arc<SerialMetrics>,
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial").field("input_capacity", &self.input_capacity()).finish_non_exhaustive()
    }
}

impl Serial {
    /// A UART that writes to `terminal` and raises `interrupt`. `input_ready`, if any, is signalled whenever
    /// the guest has emptied the receive FIFO or left loopback mode. Both eventfds should be non-blocking.
    pub fn new(
        interrupt: EventFd,
        input_ready: Option<EventFd>,
        terminal: Box<dyn Write + Send>,
    ) -> Result<Self, SerialError> {
        let out = ConsoleOut::new("serial-out", terminal).map_err(SerialError::Thread)?;
        Ok(Self { uart: Uart::with_events(Line(interrupt), Room(input_ready), out), metrics: Arc::default() })
    }

    /// Bytes that [`Serial::enqueue`] would take, outside of loopback mode.
    pub fn input_capacity(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives `input` to the guest and returns how many bytes it took; 0 when the FIFO is full or the guest
    /// has switched on loopback. Keep the rest for when `input_ready` is signalled.
    pub fn enqueue(&mut self, input: &[u8]) -> usize {
        let capacity = self.uart.fifo_capacity();
        let taken = match self.uart.enqueue_raw_bytes(input) {
            Ok(count) => count,
            Err(UartError::FullFifo) => 0,
            // The bytes are in the FIFO; only their interrupt got lost.
            Err(error) => {
                self.metrics.errors.increment();
                cvmm_log_limit::warn!(%error, "serial input interrupt lost");
                capacity - self.uart.fifo_capacity()
            }
        };
        self.metrics.bytes_in.add(taken as u64);
        taken
    }

    /// A handle that stops vCPUs from waiting for the terminal, for the end of the machine.
    pub fn output_control(&self) -> ConsoleControl {
        self.uart.writer().control()
    }

    /// Characters lost because the terminal did not take them.
    pub fn dropped(&self) -> u64 {
        self.uart.writer().dropped()
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (i, byte) in (0..).zip(data) {
            *byte = match u8::try_from(offset.saturating_add(i)) {
                Ok(register) if u64::from(register) < LEN => self.uart.read(register),
                _ => 0xff,
            };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (i, byte) in (0..).zip(data) {
            let at = offset.saturating_add(i);
            let Some(register) = u8::try_from(at).ok().filter(|_| at < LEN) else {
                return;
            };
            if at == THR && self.uart.read(LCR as u8) & LCR_DLAB == 0 {
                self.metrics.bytes_out.increment();
            }
            if let Err(error) = self.uart.write(register, *byte) {
                self.metrics.errors.increment();
                // A guest could repeat this without end, so it is not for the ordinary log.
                cvmm_log_limit::debug!(%error, "serial write");
            }
            if at == MCR {
                self.uart.events().signal();
            }
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        Arc::new(PortMetrics { port: self.metrics.clone(), output: self.uart.writer().metrics().clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Rig {
        serial: Serial,
        interrupt: EventFd,
        ready: EventFd,
        sink: Sink,
    }

    fn rig() -> Rig {
        let (interrupt, ready) = (EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
        let sink = Sink::default();
        let serial = Serial::new(
            interrupt.try_clone().unwrap(),
            Some(ready.try_clone().unwrap()),
            Box::new(sink.clone()),
        )
        .unwrap();
        Rig { serial, interrupt, ready, sink }
    }

    fn get(serial: &mut Serial, register: u64) -> u8 {
        let mut data = [0];
        serial.read(register, &mut data);
        data[0]
    }

    #[test]
    fn output_reaches_the_terminal() {
        let mut rig = rig();
        assert_eq!(get(&mut rig.serial, 5) & 0x60, 0x60, "transmitter empty");
        for byte in b"hello" {
            rig.serial.write(0, &[*byte]);
        }
        assert!(rig.interrupt.read().is_err(), "interrupts are off");
        rig.serial.write(1, &[0x02]);
        assert!(rig.interrupt.read().is_ok(), "transmitter empty interrupt");
        drop(rig.serial);
        assert_eq!(*rig.sink.0.lock().unwrap(), b"hello");
    }

    #[test]
    fn input_is_limited_by_the_fifo_and_room_is_announced() {
        let mut rig = rig();
        rig.serial.write(1, &[0x01]);
        let input: Vec<u8> = (0..100).collect();
        assert_eq!(rig.serial.enqueue(&input), 64);
        assert_eq!((rig.serial.enqueue(&input), rig.serial.input_capacity()), (0, 0));
        assert!(rig.interrupt.read().is_ok());
        assert!(rig.ready.read().is_err());
        for expected in 0..64 {
            assert_eq!(get(&mut rig.serial, 5) & 1, 1);
            assert_eq!(get(&mut rig.serial, 0), expected);
        }
        assert_eq!(get(&mut rig.serial, 5) & 1, 0);
        assert!(rig.ready.read().is_ok());
        assert_eq!(rig.serial.enqueue(&input[64..]), 36);
        assert_eq!(get(&mut rig.serial, 0), 64);
    }

    #[test]
    fn bytes_are_counted_and_the_divisor_is_none_of_them() {
        let mut rig = rig();
        let metrics = rig.serial.metrics();
        rig.serial.write(LCR, &[0x83]);
        rig.serial.write(0, &[1]);
        rig.serial.write(LCR, &[0x03]);
        for byte in b"hello" {
            rig.serial.write(0, &[*byte]);
        }
        assert_eq!(rig.serial.enqueue(b"typed"), 5);
        let view = View::of(&*metrics);
        let count = |path: &[&str]| view.count(path).unwrap();
        assert_eq!((count(&["bytes_out"]), count(&["bytes_in"]), count(&["errors"])), (5, 5, 0));
        assert_eq!((count(&["output", "bytes"]), count(&["output", "dropped"])), (5, 0));
    }

    #[test]
    fn loopback_returns_to_the_guest_and_keeps_the_terminal_out() {
        let mut rig = rig();
        rig.serial.write(4, &[0x10]);
        rig.ready.read().unwrap();
        rig.serial.write(0, &[0xa5]);
        assert_eq!(get(&mut rig.serial, 0), 0xa5);
        rig.ready.read().unwrap();
        assert_eq!(rig.serial.enqueue(b"typed"), 0);
        rig.serial.write(4, &[0x08]);
        assert!(rig.ready.read().is_ok(), "input held back may come now");
        assert_eq!(rig.serial.enqueue(b"typed"), 5);
        drop(rig.serial);
        assert!(rig.sink.0.lock().unwrap().is_empty());
    }

    #[test]
    fn wide_accesses_are_bytes_of_neighbouring_registers() {
        let mut rig = rig();
        rig.serial.write(3, &[0x1b, 0x0b]);
        let mut data = [0; 4];
        rig.serial.read(3, &mut data);
        assert_eq!(data[..2], [0x1b, 0x0b]);
        rig.serial.read(6, &mut data);
        assert_eq!(data[2..], [0xff; 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_access_sequence_is_harmless(
            ops in proptest::collection::vec((0_u8..3, 0_u64..10, proptest::collection::vec(any::<u8>(), 0..9)), 0..100)
        ) {
            let mut rig = rig();
            let mut sent = 0;
            for (kind, offset, mut data) in ops {
                match kind {
                    0 => rig.serial.read(offset, &mut data),
                    1 => { rig.serial.write(offset, &data); sent += 1; }
                    _ => prop_assert!(rig.serial.enqueue(&data) <= data.len()),
                }
                prop_assert!(rig.serial.input_capacity() <= 64);
            }
            prop_assert_eq!(rig.serial.dropped(), 0);
            drop(rig.serial);
            prop_assert!(rig.sink.0.lock().unwrap().len() <= sent);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Registers that switch the machine off or reset it.
//!
//! Firmware treats 0x604 as PM1a_CNT (ACPI 6.5, 4.8.3.2): it sets SCI_EN and expects to read it back, and
//! enters S5 by setting SLP_EN. A hardware-reduced operating system uses the sleep control register (4.8.3.7)
//! instead, whose bits are those of PM1a_CNT's high byte, so one device serves both at 0x604-0x605. S5 is the
//! only sleep state, its type is not looked at. Reset is a write to 0xcf9 with RST_CPU set (Intel ICH9
//! datasheet, 13.7.5) or the keyboard controller's pulse command. Every device only *asks*, through
//! [`PowerSink`].

use std::fmt;
use std::sync::Arc;

use cvmm_metrics::Inspect;

use super::metrics::{PowerMetrics, SleepStatusMetrics};
use crate::bus::BusDevice;
use crate::host::{PowerEvent, PowerSink};

/// PM1a_CNT bit 0: ACPI mode.
const SCI_EN: u8 = 1 << 0;
/// PM1a_CNT bit 13, seen from the high byte: enter the sleep state.
const SLP_EN: u8 = 1 << 5;
/// Sleep status bit 7: the wake event that ended the last sleep.
const WAK_STS: u8 = 1 << 7;
/// Reset control bit 2: reset the processors.
const RST_CPU: u8 = 1 << 2;
/// Reset control bits that read back: SYS_RST and FULL_RST.
const RESET_KIND: u8 = 1 << 1 | 1 << 3;
/// Keyboard controller command: pulse output line 0, which is wired to reset.
const PULSE_RESET: u8 = 0xfe;

/// Where a register's requests go.
struct Requests {
    sink: Arc<dyn PowerSink>,
    metrics: Arc<PowerMetrics>,
}

impl Requests {
    fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self { sink, metrics: Arc::default() }
    }

    fn request(&self, event: PowerEvent, source: &'static str) {
        self.metrics.requests.increment();
        self.sink.request(event, source);
    }
}

/// Ports 0x604-0x605.
pub struct SleepControl {
    requests: Requests,
    sci_enabled: bool,
}

impl SleepControl {
    /// Reports soft off to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self { requests: Requests::new(sink), sci_enabled: false }
    }
}

impl fmt::Debug for SleepControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SleepControl").field("sci_enabled", &self.sci_enabled).finish_non_exhaustive()
    }
}

impl BusDevice for SleepControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // SLP_EN is write-only and SLP_TYP is not kept.
        let value = [if self.sci_enabled { SCI_EN } else { 0 }, 0];
        for (i, byte) in (0..).zip(data) {
            let at = offset.saturating_add(i);
            *byte = usize::try_from(at).ok().and_then(|at| value.get(at)).copied().unwrap_or(0xff);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (i, byte) in (0..).zip(data) {
            match offset.saturating_add(i) {
                0 => self.sci_enabled = byte & SCI_EN != 0,
                1 if byte & SLP_EN != 0 => {
                    let source = if data.len() == 1 { "port 0x605" } else { "port 0x604" };
                    self.requests.request(PowerEvent::PowerOff, source);
                }
                _ => {}
            }
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.requests.metrics.clone()
    }
}

/// Port 0x601. Reads as "woken up", because software that enters a sleep state waits for it.
#[derive(Debug, Default)]
pub struct SleepStatus {
    metrics: Arc<SleepStatusMetrics>,
}

impl BusDevice for SleepStatus {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Some(status)) = (offset, data.first_mut()) {
            self.metrics.wakes.increment();
            *status = WAK_STS;
        }
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.metrics.clone()
    }
}

/// Port 0xcf9, at offset 0.
pub struct ResetControl {
    requests: Requests,
    kind: u8,
}

impl ResetControl {
    /// Reports resets to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self { requests: Requests::new(sink), kind: 0 }
    }
}

impl fmt::Debug for ResetControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResetControl").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl BusDevice for ResetControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, Some(value)) = (offset, data.first_mut()) {
            *value = self.kind;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Some(value)) = (offset, data.first()) {
            self.kind = value & RESET_KIND;
            if value & RST_CPU != 0 {
                self.requests.request(PowerEvent::Reset, "port 0xcf9");
            }
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.requests.metrics.clone()
    }
}

/// Port 0x64: the keyboard controller's command port, of which only the reset pulse exists. Reads are all
/// ones, by which software sees that there is no controller.
pub struct KeyboardReset {
    requests: Requests,
}

impl KeyboardReset {
    /// Reports resets to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self { requests: Requests::new(sink) }
    }
}

impl fmt::Debug for KeyboardReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyboardReset").finish_non_exhaustive()
    }
}

impl BusDevice for KeyboardReset {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data.first() == Some(&PULSE_RESET) {
            self.requests.request(PowerEvent::Reset, "port 0x64");
        }
    }

    fn metrics(&self) -> Arc<dyn Inspect> {
        self.requests.metrics.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use cvmm_metrics::View;
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(PowerEvent, &'static str)>>);

    impl PowerSink for Log {
        fn request(&self, event: PowerEvent, source: &'static str) {
            self.0.lock().unwrap().push((event, source));
        }
    }

    impl Log {
        fn take(&self) -> Vec<(PowerEvent, &'static str)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    #[test]
    fn firmware_enables_acpi_then_switches_off() {
        let log = Arc::new(Log::default());
        let mut device = SleepControl::new(log.clone());
        let mut word = [0xaa; 2];
        device.read(0, &mut word);
        assert_eq!(word, [0, 0]);
        device.write(0, &1_u16.to_le_bytes());
        device.read(0, &mut word);
        assert_eq!(word, [1, 0]);
        assert!(log.take().is_empty());
        device.write(0, &0x2001_u16.to_le_bytes());
        assert_eq!(log.take(), [(PowerEvent::PowerOff, "port 0x604")]);
    }

    #[test]
    fn acpi_switches_off_by_the_high_byte_alone() {
        let log = Arc::new(Log::default());
        let mut device = SleepControl::new(log.clone());
        device.write(0, &[0x20]);
        device.write(1, &[0x1c]);
        assert!(log.take().is_empty(), "bit 5 of the low byte and a type without SLP_EN");
        device.write(1, &[0x20]);
        assert_eq!(log.take(), [(PowerEvent::PowerOff, "port 0x605")]);
    }

    #[test]
    fn reset_needs_rst_cpu() {
        let log = Arc::new(Log::default());
        let mut device = ResetControl::new(log.clone());
        let mut value = [0];
        device.write(0, &[0x02]);
        device.read(0, &mut value);
        assert_eq!((value[0], log.take().len()), (0x02, 0));
        for command in [0x06, 0x0e] {
            device.write(0, &[command]);
            assert_eq!(log.take(), [(PowerEvent::Reset, "port 0xcf9")]);
        }
        device.read(0, &mut value);
        assert_eq!(value[0], 0x0a, "RST_CPU itself does not stick");
    }

    #[test]
    fn keyboard_controller_knows_one_command() {
        let log = Arc::new(Log::default());
        let mut device = KeyboardReset::new(log.clone());
        for command in 0..=0xff_u8 {
            device.write(0, &[command]);
        }
        assert_eq!(log.take(), [(PowerEvent::Reset, "port 0x64")]);
        let mut status = [0];
        device.read(0, &mut status);
        assert_eq!(status[0], 0xff);
    }

    #[test]
    fn requests_are_counted() {
        let mut device = ResetControl::new(Arc::new(Log::default()));
        let metrics = device.metrics();
        device.write(0, &[0x06]);
        device.write(0, &[0x02]);
        assert_eq!(View::of(&*metrics).count(&["requests"]), Some(1));
    }

    proptest! {
        #[test]
        fn nothing_else_ever_asks_for_a_transition(
            offset in any::<u64>(),
            mut data in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let log = Arc::new(Log::default());
            let mut devices: Vec<Box<dyn BusDevice>> = vec![
                Box::new(SleepControl::new(log.clone())),
                Box::new(SleepStatus::default()),
                Box::new(ResetControl::new(log.clone())),
                Box::new(KeyboardReset::new(log.clone())),
            ];
            for device in &mut devices {
                device.write(offset, &data);
            }
            let high = usize::try_from(1_u64.wrapping_sub(offset)).ok().and_then(|i| data.get(i));
            let off = offset <= 1 && high.is_some_and(|b| b & 0x20 != 0);
            let first = data.first().filter(|_| offset == 0);
            let resets = first.is_some_and(|b| b & 4 != 0) as usize + first.is_some_and(|b| *b == 0xfe) as usize;
            let got = log.take();
            prop_assert_eq!(got.iter().filter(|(e, _)| *e == PowerEvent::PowerOff).count(), usize::from(off));
            prop_assert_eq!(got.iter().filter(|(e, _)| *e == PowerEvent::Reset).count(), resets);
            for device in &mut devices {
                device.read(offset, &mut data);
            }
        }
    }
}

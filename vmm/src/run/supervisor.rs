// SPDX-License-Identifier: Apache-2.0
//! The main thread while a VM runs: signals, the operator's keys, and the end.
//!
//! The first stop signal presses the guest's power button and starts the grace time; a second one, or the end
//! of that time, stops the VM. A guest that never reaches its console may be ended too ([`BootWatch`]).

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use super::boot_watch::{BootWatch, Due};
use super::console::{ConsoleInput, Key};
use super::signals::StopSignals;
use crate::control::{Control, Ending};

/// How often input that the guest has not taken is offered again. Until it is taken, no more is read.
const INPUT_RETRY: Duration = Duration::from_millis(5);

/// What the supervisor may do to the machine.
pub trait Guest {
    /// Presses the power button.
    fn power_button(&self);
    /// Offers console input; returns how many bytes were taken.
    fn console_input(&self, bytes: &[u8]) -> usize;
}

/// How long a guest may take to power off, and since when it has been asked to. Outlives the machine: a guest
/// that answers the power button with a reset has not been given new time by that.
#[derive(Debug)]
pub struct Grace {
    time: Duration,
    deadline: Option<Instant>,
    over: bool,
}

impl Grace {
    /// `time` from the power button to the stop.
    pub fn new(time: Duration) -> Self {
        Self { time, deadline: None, over: false }
    }

    /// Whether the VM is to stop, even if the guest asked for a reset at the same moment and was first.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

/// Waits until the VM ends.
pub fn wait(
    guest: &dyn Guest,
    control: &Arc<Control>,
    signals: &mut StopSignals,
    input: Option<&mut ConsoleInput>,
    grace: &mut Grace,
    boot: &mut BootWatch,
) -> event_manager::Result<()> {
    let mut manager = EventManager::new()?;
    let id = manager.add_subscriber(Supervisor {
        guest,
        control: Arc::clone(control),
        signals,
        input,
        watch: InputWatch::Closed,
        pending: VecDeque::new(),
        grace,
        boot,
    });
    // At least once, so that a guest that resets faster than this thread gets here cannot keep signals out.
    loop {
        let timeout = manager.subscriber_mut(id)?.tick();
        if let Some(input) = manager.subscriber_mut(id)?.resume_input() {
            manager.event_ops(id)?.add(input)?;
        }
        match manager.run_with_timeout(timeout) {
            Ok(_) => {}
            // A signal outside the signalfd (SIGCONT after a stop): look again.
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error),
        }
        if control.is_stopping() {
            return Ok(());
        }
    }
}

/// Whether the operator's input is in the event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputWatch {
    /// It ended, or cannot be watched.
    Closed,
    /// It is read when there is some.
    Open,
    /// Not until the guest has taken what was read: descriptors are level-triggered.
    Paused,
}

struct Supervisor<'a> {
    guest: &'a dyn Guest,
    control: Arc<Control>,
    signals: &'a mut StopSignals,
    input: Option<&'a mut ConsoleInput>,
    watch: InputWatch,
    /// Bytes the guest has not taken yet. Not read further before it is empty, so bounded by one read.
    pending: VecDeque<u8>,
    grace: &'a mut Grace,
    boot: &'a mut BootWatch,
}

impl Supervisor<'_> {
    /// Does what is due and returns the milliseconds until the next thing is, -1 for never.
    fn tick(&mut self) -> i32 {
        self.offer_pending();
        let now = Instant::now();
        if self.grace.deadline.is_some_and(|deadline| deadline <= now) {
            cvmm_log_limit::warn!(grace = ?self.grace.time, "guest did not power off in time, stopping it");
            self.stop();
            return 0;
        }
        let grace = self.grace.deadline.map(|deadline| deadline - now);
        let retry = (!self.pending.is_empty()).then_some(INPUT_RETRY);
        let boot = match self.boot.tick(now) {
            Due::Never => None,
            Due::In(left) => Some(left),
            Due::End(ending) => {
                self.control.end(ending);
                return 0;
            }
        };
        match grace.into_iter().chain(retry).chain(boot).min() {
            None => -1,
            // Rounded up, so that the time is really over at the next tick.
            Some(left) => i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1),
        }
    }

    fn offer_pending(&mut self) {
        while !self.pending.is_empty() {
            let taken = self.guest.console_input(self.pending.make_contiguous());
            if taken == 0 {
                return;
            }
            self.pending.drain(..taken.min(self.pending.len()));
        }
    }

    fn stop(&mut self) {
        self.grace.over = true;
        self.control.end(Ending::Stopped);
    }

    fn ask_to_stop(&mut self, urgent: bool) {
        if urgent || self.grace.deadline.is_some() {
            self.stop();
            return;
        }
        cvmm_log_limit::info!(grace = ?self.grace.time, "pressing the guest's power button");
        self.guest.power_button();
        self.grace.deadline = Some(Instant::now() + self.grace.time);
    }

    fn read_input(&mut self, ops: &mut EventOps<'_>) {
        let Some(input) = &mut self.input else { return };
        let source = Events::empty_raw(input.as_raw_fd());
        let Some(keys) = input.read() else {
            cvmm_log_limit::debug!("console input ended");
            let _ = ops.remove(source);
            self.watch = InputWatch::Closed;
            return;
        };
        let mut stop = false;
        for key in keys {
            match key {
                Key::Guest(byte) => self.pending.push_back(byte),
                Key::Stop => stop = true,
                Key::PowerButton => self.guest.power_button(),
            }
        }
        if stop {
            self.stop();
        }
        self.offer_pending();
        if !self.pending.is_empty() && ops.remove(source).is_ok() {
            self.watch = InputWatch::Paused;
        }
    }

    /// The input, if it has to be watched again.
    fn resume_input(&mut self) -> Option<Events> {
        let input = self.input.as_ref()?;
        if self.watch != InputWatch::Paused || !self.pending.is_empty() {
            return None;
        }
        self.watch = InputWatch::Open;
        Some(Events::new_raw(input.as_raw_fd(), EventSet::IN))
    }
}

impl MutEventSubscriber for Supervisor<'_> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        for fd in [self.signals.as_raw_fd(), self.control.changed().as_raw_fd()] {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                // Without these events the VM could not be stopped.
                cvmm_log_limit::error!(%error, "cannot watch for the end of the vm");
                self.stop();
            }
        }
        if let Some(input) = &self.input {
            match ops.add(Events::new_raw(input.as_raw_fd(), EventSet::IN)) {
                Ok(()) => self.watch = InputWatch::Open,
                // Regular files and /dev/null cannot be watched: the guest then has no input.
                Err(error) => cvmm_log_limit::debug!(%error, "console input is not watched"),
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.signals.as_raw_fd() {
            while let Some(signal) = self.signals.take() {
                cvmm_log_limit::info!(signal, "stop signal");
                self.ask_to_stop(signal == libc::SIGQUIT as u32);
            }
        } else if events.fd() == self.control.changed().as_raw_fd() {
            let _ = self.control.changed().read();
        } else if self.watch == InputWatch::Open {
            self.read_input(ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::Write;
    use std::thread;

    use cvmm_timeline::Timeline;

    use super::*;
    use crate::config::{Console, ConsoleDevice, ConsoleMode};
    use crate::machine::console_sink::ConsoleSink;
    use crate::progress::Milestones;
    use crate::run::boot_watch::BootTimeout;
    use crate::run::console::ConsoleEnds;

    fn boot_watch(timeout: BootTimeout) -> BootWatch {
        let timeline = Arc::new(Timeline::start());
        let milestones = Arc::new(Milestones::new(Arc::clone(&timeline)));
        BootWatch::new(timeout, ConsoleSink::new(Box::new(std::io::sink()), None), milestones, timeline)
    }

    #[derive(Default)]
    struct Pressed(Cell<u32>);
    impl Guest for Pressed {
        fn power_button(&self) {
            self.0.set(self.0.get() + 1);
        }
        fn console_input(&self, bytes: &[u8]) -> usize {
            bytes.len()
        }
    }

    fn supervisor<'a>(
        guest: &'a Pressed,
        control: &Arc<Control>,
        signals: &'a mut StopSignals,
        grace: &'a mut Grace,
        boot: &'a mut BootWatch,
    ) -> Supervisor<'a> {
        Supervisor {
            guest,
            control: Arc::clone(control),
            signals,
            input: None,
            watch: InputWatch::Closed,
            pending: VecDeque::new(),
            grace,
            boot,
        }
    }

    #[test]
    fn returns_when_the_guest_ends() {
        let mut signals = StopSignals::take_over().unwrap();
        let guest = Pressed::default();
        let control = Control::new().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                control.end(Ending::PowerOff);
            });
            let mut grace = Grace::new(Duration::from_secs(5));
            let mut boot = boot_watch(BootTimeout::Report);
            wait(&guest, &control, &mut signals, None, &mut grace, &mut boot).unwrap();
        });
        assert_eq!((control.ending(), guest.0.get()), (Some(Ending::PowerOff), 0));
    }

    /// A guest that takes no input for a while.
    struct Busy {
        until: Instant,
        text: RefCell<Vec<u8>>,
        offers: Cell<u32>,
        control: Arc<Control>,
    }

    impl Guest for Busy {
        fn power_button(&self) {}
        fn console_input(&self, bytes: &[u8]) -> usize {
            self.offers.set(self.offers.get() + 1);
            if Instant::now() < self.until {
                return 0;
            }
            self.text.borrow_mut().extend_from_slice(bytes);
            if self.text.borrow().ends_with(b"!") {
                self.control.end(Ending::PowerOff);
            }
            bytes.len()
        }
    }

    #[test]
    fn input_waits_for_a_busy_guest_without_a_busy_loop() {
        let console =
            Console { device: ConsoleDevice::Serial, mode: ConsoleMode::Pty, path: None, max_size: None };
        let mut ends = ConsoleEnds::open(&console, None).unwrap();
        let mut input = ends.input.take().unwrap();
        let text: Vec<u8> = (0..1000).map(|at| b'a' + (at % 26) as u8).chain(*b"!").collect();
        let mut operator = std::fs::File::options().write(true).open(input.pty_path().unwrap()).unwrap();
        operator.write_all(&text).unwrap();
        let mut signals = StopSignals::take_over().unwrap();
        let control = Control::new().unwrap();
        let began = Instant::now();
        let guest = Busy {
            until: began + Duration::from_millis(500),
            text: RefCell::default(),
            offers: Cell::new(0),
            control: Arc::clone(&control),
        };
        let mut grace = Grace::new(Duration::from_secs(5));
        let mut boot = boot_watch(BootTimeout::Off);
        wait(&guest, &control, &mut signals, Some(&mut input), &mut grace, &mut boot).unwrap();
        assert_eq!(*guest.text.borrow(), text);
        // One for each retry, and for each read of 64 bytes.
        let retries = began.elapsed().as_millis() / INPUT_RETRY.as_millis();
        let limit = retries as u32 + text.len().div_ceil(64) as u32 + 10;
        assert!(guest.offers.get() <= limit, "{} offers, {limit} expected at most", guest.offers.get());
    }

    #[test]
    fn a_guest_that_shows_nothing_is_ended() {
        let mut signals = StopSignals::take_over().unwrap();
        let guest = Pressed::default();
        let control = Control::new().unwrap();
        let mut grace = Grace::new(Duration::from_secs(60));
        let mut boot = boot_watch(BootTimeout::End(Duration::from_millis(50)));
        wait(&guest, &control, &mut signals, None, &mut grace, &mut boot).unwrap();
        assert!(matches!(control.ending(), Some(Ending::Silent(_))));
        assert_eq!(guest.0.get(), 0);
    }

    #[test]
    fn the_second_request_stops() {
        let mut signals = StopSignals::take_over().unwrap();
        let guest = Pressed::default();
        let control = Control::new().unwrap();
        let mut grace = Grace::new(Duration::from_secs(60));
        let mut boot = boot_watch(BootTimeout::Off);
        let mut supervisor = supervisor(&guest, &control, &mut signals, &mut grace, &mut boot);
        supervisor.ask_to_stop(false);
        assert_eq!((guest.0.get(), control.ending()), (1, None));
        assert!((50_000..=60_001).contains(&supervisor.tick()));
        supervisor.ask_to_stop(false);
        assert_eq!((guest.0.get(), control.ending()), (1, Some(Ending::Stopped)));
    }

    #[test]
    fn the_end_of_the_grace_time_stops() {
        let mut signals = StopSignals::take_over().unwrap();
        let guest = Pressed::default();
        let control = Control::new().unwrap();
        let mut grace = Grace::new(Duration::ZERO);
        let mut boot = boot_watch(BootTimeout::Off);
        let mut supervisor = supervisor(&guest, &control, &mut signals, &mut grace, &mut boot);
        supervisor.ask_to_stop(false);
        assert_eq!(supervisor.tick(), 0);
        assert_eq!((guest.0.get(), control.ending()), (1, Some(Ending::Stopped)));
    }

    #[test]
    fn a_stop_that_comes_with_a_reset_is_not_lost() {
        let mut signals = StopSignals::take_over().unwrap();
        let guest = Pressed::default();
        let control = Control::new().unwrap();
        let mut grace = Grace::new(Duration::from_secs(60));
        let mut boot = boot_watch(BootTimeout::Off);
        control.end(Ending::Reset);
        supervisor(&guest, &control, &mut signals, &mut grace, &mut boot).ask_to_stop(false);
        assert!(!grace.is_over(), "this was the power button");
        // The next machine's supervisor, and the guest is first again.
        let control = Control::new().unwrap();
        control.end(Ending::Reset);
        supervisor(&guest, &control, &mut signals, &mut grace, &mut boot).ask_to_stop(false);
        assert_eq!((control.ending(), grace.is_over()), (Some(Ending::Reset), true));
    }
}

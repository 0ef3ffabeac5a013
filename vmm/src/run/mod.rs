// SPDX-License-Identifier: Apache-2.0
//! The life of a VM: from a configuration to an outcome, through as many resets as the guest asks for.
//!
//! A reset is a new machine from the same checked inputs: there is no reset in place (an SNP guest has none
//! either). The console, the signals and the timeline belong to the process and live through it.
//!
//! This is the one place where an admission and a machine meet (`Vm::start`).

pub mod boot_watch;
pub mod check;
pub mod console;
mod error;
mod exit_status;
pub mod signals;
pub mod supervisor;
pub mod terminal;
mod tpm;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cvmm_devices::chipset::console_out::ConsoleOut;
use cvmm_devices::virtio::console::Console;
use cvmm_kvm::exits::ExitCounts;
use cvmm_kvm::host;
use cvmm_kvm_snp::probe::SnpHost;
use cvmm_timeline::{Phase, Timeline};
use kvm_ioctls::Kvm;

use self::boot_watch::{BootTimeout, BootWatch};
use self::console::ConsoleEnds;
use self::signals::StopSignals;
use self::supervisor::{Grace, Guest};
use self::tpm::VmTpm;
use crate::admission::lease::CurrentMachine;
use crate::admission::{AdmissionClient, LaunchRequest, LaunchSession, channel};
use crate::config::{Config, Isolation};
use crate::control::Ending;
use crate::inputs::Inputs;
use crate::launch::LaunchTerms;
use crate::machine::console_sink::{ConsoleSink, OnText};
use crate::machine::interpose::{Interposer, NoInterposer};
use crate::machine::{
    self, LaunchedMachine, Machine, MachineContext, NamedDevice, OutsideDevices, RunningMachine, TpmCounts,
};
use crate::progress::Milestones;

pub use self::error::RunError;

/// What the command line adds to the configuration.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where the phases of the VM's life are noted.
    pub timeline: Arc<Timeline>,
    /// Count exits by port and address too.
    pub exit_stats: bool,
    /// Time between the power button and the stop.
    pub grace: Duration,
    /// What happens to a guest that writes nothing to its console.
    pub boot_timeout: BootTimeout,
    /// A guest reset ends the VM.
    pub exit_on_reset: bool,
    /// An SNP guest may run although no gate has admitted it.
    pub without_gate: bool,
}

/// How a VM ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why. [`Ending::Reset`] only with [`RunOptions::exit_on_reset`].
    pub ending: Ending,
    /// Exits of all vCPUs since the first start.
    pub exits: ExitCounts,
    /// How often the guest was reset.
    pub resets: u32,
    /// What its TPM device has done since the first start, if it has one.
    pub tpm: Option<TpmCounts>,
}

/// Runs the VM of `config` until it ends. Call once per process: it takes over the process's signals.
pub fn run(config: Config, options: RunOptions) -> Result<Outcome, RunError> {
    run_with(&config, &options, &NoInterposer)
}

/// Like [`run`], with `interposer` between guest and machine.
pub fn run_with(
    config: &Config,
    options: &RunOptions,
    interposer: &dyn Interposer,
) -> Result<Outcome, RunError> {
    let gate = gate(config, options)?;
    let mut inputs = Inputs::open(config)?;
    interposer.opened(&mut inputs);
    options.timeline.mark(Phase::Plan);
    let host = Host::open(config)?;
    // Before the first thread: threads inherit the signal mask.
    let mut signals = StopSignals::take_over().map_err(RunError::Events)?;
    let milestones = Arc::new(Milestones::new(Arc::clone(&options.timeline)));
    let vm = Vm { config, options, interposer, gate, inputs, host, milestones };

    let mut request = vm.request()?;
    let current = CurrentMachine::default();
    let tpm = vm.open_tpm(request.as_ref(), &current)?;
    let mut console = ConsoleEnds::open(&config.console, vm.watched_text())?;
    let mut grace = Grace::new(options.grace);
    let mut boot = vm.boot_watch(&console.sink);
    let mut outcome = Outcome {
        ending: Ending::Stopped,
        exits: ExitCounts::default(),
        resets: 0,
        tpm: tpm.is_some().then(TpmCounts::default),
    };
    loop {
        let machine = vm.start(request, tpm.as_ref(), &console.sink, &mut signals, &mut boot)?;
        let control = Arc::clone(machine.control());
        current.set(&control);
        supervisor::wait(&machine, &control, &mut signals, console.input.as_mut(), &mut grace, &mut boot)
            .map_err(|error| RunError::Events(io::Error::other(error)))?;
        let reset = control.ending() == Some(Ending::Reset) && !options.exit_on_reset && !grace.is_over();
        if !reset {
            options.timeline.mark(Phase::PowerOff);
        }
        let end = machine.stop();
        outcome.exits.add(&end.exits);
        if let (Some(total), Some(counts)) = (&mut outcome.tpm, &end.tpm) {
            total.add(counts);
        }
        if !reset {
            outcome.ending = match end.ending {
                Ending::Reset if grace.is_over() => Ending::Stopped,
                ending => ending,
            };
            announce(&outcome.ending);
            return Ok(outcome);
        }
        outcome.resets = outcome.resets.saturating_add(1);
        cvmm_log_limit::info!(resets = outcome.resets, "guest reset: building the machine again");
        // A reset is a launch like the first one: a new request, a new nonce, a new ticket.
        request = vm.request()?;
    }
}

/// The gate that an SNP guest needs to be admitted by; `None` if the guest may run without one.
fn gate(config: &Config, options: &RunOptions) -> Result<Option<AdmissionClient>, RunError> {
    match (config.isolation, &config.gate, options.without_gate) {
        (Isolation::None, ..) => {
            cvmm_log_limit::warn!(
                "isolation is \"none\": the host can read and change everything in this guest; for development only"
            );
            Ok(None)
        }
        (Isolation::Snp, Some(_), true) => Err(RunError::ConflictingGateOptions),
        (Isolation::Snp, None, false) => Err(RunError::GateRequired),
        (Isolation::Snp, None, true) => {
            cvmm_log_limit::warn!(
                "running without an attestation gate (--without-gate): this guest has not been attested"
            );
            Ok(None)
        }
        (Isolation::Snp, Some(gate), false) => Ok(Some(AdmissionClient::open(gate)?)),
    }
}

fn announce(ending: &Ending) {
    match ending {
        Ending::TripleFault { .. } | Ending::InternalError { .. } | Ending::Silent(_) => {
            cvmm_log_limit::error!("{ending}")
        }
        _ => cvmm_log_limit::info!("{ending}"),
    }
}

/// The host's KVM and, for an SNP guest, its SNP.
struct Host {
    kvm: Kvm,
    snp: Option<Arc<SnpHost>>,
}

impl Host {
    fn open(config: &Config) -> Result<Self, RunError> {
        let kvm = host::open(config.vcpus)?;
        let snp = match config.isolation {
            Isolation::Snp => Some(Arc::new(SnpHost::open(&kvm)?)),
            Isolation::None => None,
        };
        Ok(Self { kvm, snp })
    }
}

/// What all machines of a VM have in common.
struct Vm<'a> {
    config: &'a Config,
    options: &'a RunOptions,
    interposer: &'a dyn Interposer,
    gate: Option<AdmissionClient>,
    inputs: Inputs,
    host: Host,
    milestones: Arc<Milestones>,
}

impl Vm<'_> {
    /// Describes the next launch for the gate, if there is one.
    fn request(&self) -> Result<Option<LaunchRequest>, RunError> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let model = machine::vcpu_model(&self.host.kvm, self.config)?;
        Ok(Some(gate.request(self.config, &self.inputs, model)?))
    }

    /// Starts the guest's TPM, if it has one. The gate has the keys of persistent state; it is asked with
    /// `request`.
    fn open_tpm(
        &self,
        request: Option<&LaunchRequest>,
        current: &CurrentMachine,
    ) -> Result<Option<VmTpm>, RunError> {
        let Some(config) = &self.config.vtpm else { return Ok(None) };
        let Some(path) = &config.state else { return Ok(Some(VmTpm::volatile(config)?)) };
        let gate = self.gate.as_ref().zip(request).ok_or(RunError::StateWithoutGate)?;
        Ok(Some(VmTpm::persistent(config, path, gate, current.clone())?))
    }

    fn watched_text(&self) -> Option<(String, OnText)> {
        let text = self.config.debug.user_space_marker.clone()?;
        let milestones = Arc::clone(&self.milestones);
        Some((text, Box::new(move || milestones.user_space())))
    }

    fn boot_watch(&self, console: &ConsoleSink) -> BootWatch {
        BootWatch::new(
            self.options.boot_timeout,
            console.clone(),
            Arc::clone(&self.milestones),
            Arc::clone(&self.options.timeline),
        )
    }

    /// Builds a machine and starts it. An SNP guest is launched, and starts only with an admission.
    fn start(
        &self,
        request: Option<LaunchRequest>,
        tpm: Option<&VmTpm>,
        console: &ConsoleSink,
        signals: &mut StopSignals,
        boot: &mut BootWatch,
    ) -> Result<RunningMachine, RunError> {
        let ctx = MachineContext {
            kvm: &self.host.kvm,
            console,
            milestones: &self.milestones,
            timeline: &self.options.timeline,
            count_addresses: self.options.exit_stats,
            interposer: self.interposer,
        };
        let (config, inputs) = (self.config, &self.inputs);
        let Some(host) = &self.host.snp else {
            let outside = OutsideDevices { tpm: tpm.map(VmTpm::power_cycle), virtio: Vec::new() };
            let machine = Machine::build(&ctx, config, inputs, outside)?;
            boot.restart();
            return Ok(machine.start()?);
        };
        let mut session = match self.gate.as_ref().zip(request) {
            Some((gate, request)) => Some(gate.propose(request, tpm.and_then(VmTpm::identity))?),
            None => None,
        };
        let terms =
            session.as_ref().map_or_else(|| self.unattested_terms(), |session| session.terms().clone());
        let outside = OutsideDevices {
            tpm: tpm.map(VmTpm::power_cycle),
            virtio: self.gate_channel(session.as_ref())?.into_iter().collect(),
        };
        let machine = LaunchedMachine::launch(&ctx, host, config, inputs, &terms, outside)?;
        boot.restart();
        let stop = &mut || signals.take().is_some();
        let (machine, finished) = machine.first_stage(&ctx, inputs, session.as_mut(), stop)?;
        let admitted = match session {
            Some(session) => session.admit(finished)?,
            None => finished.admit_without_gate(),
        };
        Ok(machine.start(admitted)?)
    }

    /// What a guest is launched with that no gate has approved.
    fn unattested_terms(&self) -> LaunchTerms {
        LaunchTerms {
            identity: self.inputs.identity.clone(),
            host_data: self.config.snp.host_data,
            expected_digest: None,
        }
    }

    /// The guest's channel to the gate, if it has one.
    fn gate_channel(&self, session: Option<&LaunchSession>) -> Result<Option<NamedDevice>, RunError> {
        let gate = self.config.gate.as_ref().filter(|gate| gate.channel);
        let Some((gate, session)) = gate.zip(session) else { return Ok(None) };
        let (writer, reader) = channel::connect(gate, session.id()).map_err(RunError::Channel)?;
        let output = ConsoleOut::new("gate-out", Box::new(writer)).map_err(RunError::Channel)?;
        Ok(Some(("gate".to_owned(), Box::new(Console::new(Box::new(output), Some(reader))))))
    }
}

impl Guest for RunningMachine {
    fn power_button(&self) {
        self.press_power_button();
    }

    fn console_input(&self, bytes: &[u8]) -> usize {
        Self::console_input(self, bytes)
    }
}

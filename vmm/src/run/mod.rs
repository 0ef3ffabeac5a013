// SPDX-License-Identifier: Apache-2.0
//! The life of a VM: from a configuration to an outcome, through as many resets as the guest asks for.
//!
//! A reset is a new machine from the same checked inputs: there is no reset in place (an SNP guest has none
//! either). The console, the signals and the timeline belong to the process and live through it.

pub mod boot_watch;
pub mod check;
pub mod console;
pub mod output;
mod report;
pub mod signals;
pub mod supervisor;
pub mod terminal;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cvmm_kvm_snp::probe::SnpHost;
use thiserror::Error;

use self::boot_watch::{BootTimeout, BootWatch};
use self::console::{ConsoleEnds, ConsoleError};
use self::output::OnText;
use self::signals::StopSignals;
use self::supervisor::Grace;
use crate::config::{Config, Isolation};
use crate::gate::hold::{Current, Hold};
use crate::gate::{Asker, Described, GateError};
use crate::machine::{
    self, Admission, InputError, Inputs, Machine, MachineError, Milestones, Surroundings, TpmCounts,
};
use crate::timeline::{Phase, Timeline};
use crate::vm::control::Ending;
use crate::vm::exits::ExitCounts;
use crate::vm::host::{self, HostError};
use crate::vtpm::kept::{self, Kept};
use crate::vtpm::{self, Vtpm, VtpmError};

/// What the command line adds to the configuration.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where the phases of the VM's life are noted.
    pub timeline: Arc<Timeline>,
    /// Count exits by port and address too.
    pub exit_stats: bool,
    /// Time between the power button and the stop.
    pub grace: Duration,
    /// What becomes of a guest that shows nothing on its console.
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

/// Why a VM could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// An SNP guest, and nobody who could admit it.
    #[error(
        "an snp guest runs only when an attestation gate has admitted it, and vm.toml names none ([gate]): \
         --without-gate runs it unattested"
    )]
    NoGate,
    /// A TPM with kept state, and nobody who has its key.
    #[error(
        "vtpm.state is encrypted with a key of the gate's, and there is no gate to ask (--without-gate): leave one of them out"
    )]
    NoKey,
    /// A gate, and the wish to do without.
    #[error("vm.toml names a gate and --without-gate wants none: leave one of them out")]
    TwoWishes,
    /// The gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The host's SNP.
    #[error(transparent)]
    SnpHost(#[from] cvmm_kvm_snp::probe::HostError),
    /// The host's KVM.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A file the VM starts from.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The guest's TPM.
    #[error(transparent)]
    Vtpm(#[from] VtpmError),
    /// The console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Signals or the event loop.
    #[error("cannot watch for signals: {0}")]
    Events(#[source] io::Error),
}

/// Runs the VM of `config` until it ends. Call once per process: it takes over the process's signals.
pub fn run(config: Config, options: RunOptions) -> Result<Outcome, RunError> {
    let timeline = &options.timeline;
    let asker = match config.isolation {
        Isolation::None => {
            cvmm_log_limit::warn!(
                "isolation is \"none\": the host can read and change everything in this guest; for development only"
            );
            None
        }
        Isolation::Snp if options.without_gate && config.gate.is_some() => return Err(RunError::TwoWishes),
        Isolation::Snp if options.without_gate => {
            cvmm_log_limit::warn!(
                "no gate stands before this guest: nobody has seen evidence of what it is (--without-gate)"
            );
            None
        }
        Isolation::Snp => Some(Asker::open(config.gate.as_ref().ok_or(RunError::NoGate)?)?),
    };
    let inputs = Inputs::open(&config)?;
    timeline.mark(Phase::Plan);
    let kvm = host::open(config.vcpus)?;
    if let Some(vtpm) = &config.vtpm {
        vtpm::probe(&kvm, vtpm)?;
    }
    let snp = match config.isolation {
        Isolation::Snp => Some(Arc::new(SnpHost::open(&kvm)?)),
        Isolation::None => None,
    };
    // Before the first thread: threads inherit the signal mask.
    let mut signals = StopSignals::take_over().map_err(RunError::Events)?;
    let current = Current::default();
    let describe = |asker: &Asker| -> Result<Described, RunError> {
        let model = machine::vcpu_model(&kvm, &config)?;
        Ok(asker.describe(&config, &inputs, model)?)
    };
    let mut first = None;
    // Dropped from the last to the first: the gate hears of the end when nobody has the file any more.
    let (_hold, identity, vtpm) = match (&config.vtpm, &asker) {
        (None, _) => (None, None, None),
        (Some(vtpm), asker) => match (&vtpm.state, asker) {
            (None, _) => (None, None, Some(Vtpm::start(vtpm)?)),
            (Some(_), None) => return Err(RunError::NoKey),
            (Some(path), Some(asker)) => {
                let prepared = asker.prepare(first.insert(describe(asker)?))?;
                let Kept { vtpm, identity, run, changes, key } =
                    kept::start(vtpm, path, asker.vm_id(), prepared)?;
                let hold = Hold::start(run, asker.claim(key), changes, current.clone());
                (Some(hold.map_err(RunError::Events)?), Some(identity), Some(vtpm))
            }
        },
    };
    let milestones = Arc::new(Milestones::new(Arc::clone(timeline)));
    let watch = config.debug.user_space_marker.clone().map(|text| {
        let milestones = Arc::clone(&milestones);
        (text, Box::new(move || milestones.user_space()) as OnText)
    });
    let mut console = ConsoleEnds::open(&config.console, watch)?;

    let mut exits = ExitCounts::new(options.exit_stats);
    let mut resets = 0_u32;
    let mut tpm = config.vtpm.is_some().then(TpmCounts::default);
    let mut grace = Grace::new(options.grace);
    let mut boot = BootWatch::new(
        options.boot_timeout,
        console.sink.clone(),
        Arc::clone(&milestones),
        Arc::clone(timeline),
    );
    loop {
        // A reset is a launch like the first one: a new question, a new nonce, a new ticket.
        let admission = match (&asker, config.isolation) {
            (_, Isolation::None) => Admission::NotIsolated,
            (None, Isolation::Snp) => Admission::WithoutGate,
            (Some(asker), Isolation::Snp) => {
                let described = first.take().map_or_else(|| describe(asker), Ok)?;
                Admission::Gate(Box::new(asker.ask(described, identity.as_ref())?))
            }
        };
        let around = Surroundings {
            kvm: &kvm,
            snp: snp.as_ref(),
            console: &console.sink,
            milestones: &milestones,
            timeline,
            vtpm: vtpm.as_ref(),
        };
        let machine = Machine::build(&around, &config, &inputs, &admission)?;
        boot.restart();
        let running = machine.start(admission, options.exit_stats)?;
        let control = Arc::clone(running.control());
        current.set(&control);
        supervisor::wait(&running, &control, &mut signals, console.input.as_mut(), &mut grace, &mut boot)
            .map_err(|error| RunError::Events(io::Error::other(error)))?;
        let over = grace.is_over()
            || control.ending().is_some_and(|ending| ending != Ending::Reset || options.exit_on_reset);
        if over {
            timeline.mark(Phase::PowerOff);
        }
        let (mut ending, counts, tpm_counts) = running.stop();
        exits.add(&counts);
        if let (Some(total), Some(counts)) = (&mut tpm, tpm_counts) {
            total.add(&counts);
        }
        if over {
            if ending == Ending::Reset && grace.is_over() {
                ending = Ending::Stopped;
            }
            match ending {
                Ending::TripleFault { .. } | Ending::InternalError { .. } | Ending::Silent(_) => {
                    cvmm_log_limit::error!("{ending}")
                }
                _ => cvmm_log_limit::info!("{ending}"),
            }
            return Ok(Outcome { ending, exits, resets, tpm });
        }
        resets = resets.saturating_add(1);
        cvmm_log_limit::info!(resets, "guest reset: building the machine again");
    }
}

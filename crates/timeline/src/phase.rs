// SPDX-License-Identifier: Apache-2.0
//! The phases of a VM, and what it does between them.

/// A phase of a VM: the moment when something is done or first observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Phase {
    /// `main` was entered; always 0.
    ProcessStart,
    /// The configuration is read and checked.
    Config,
    /// The launch plan is built.
    Plan,
    /// The KVM VM and its devices exist.
    VmCreated,
    /// Guest memory holds the plan's pages, and the vCPUs exist.
    Memory,
    /// The first `KVM_RUN` is about to be entered.
    FirstRun,
    /// The first stage is done, in a guest that has one.
    FirstStage,
    /// The firmware runs: the first exit to a device.
    Firmware,
    /// The kernel runs.
    Kernel,
    /// User space runs: the console marker or the marker port was seen.
    UserSpace,
    /// The guest was reported because it wrote nothing to its console; not part of a normal boot.
    Silent,
    /// The guest asked for power-off.
    PowerOff,
    /// Everything is torn down; the process is about to end.
    Exit,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 13] = [
        Self::ProcessStart,
        Self::Config,
        Self::Plan,
        Self::VmCreated,
        Self::Memory,
        Self::FirstRun,
        Self::FirstStage,
        Self::Firmware,
        Self::Kernel,
        Self::UserSpace,
        Self::Silent,
        Self::PowerOff,
        Self::Exit,
    ];

    /// The name in the JSON file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessStart => "process_start",
            Self::Config => "config",
            Self::Plan => "plan",
            Self::Memory => "memory",
            Self::VmCreated => "vm_created",
            Self::FirstRun => "first_run",
            Self::FirstStage => "first_stage",
            Self::Firmware => "firmware",
            Self::Kernel => "kernel",
            Self::UserSpace => "user_space",
            Self::Silent => "no_console",
            Self::PowerOff => "power_off",
            Self::Exit => "exit",
        }
    }

    /// The activity that leads to the mark.
    pub(crate) fn activity(self) -> &'static str {
        match self {
            Self::ProcessStart => "process start",
            Self::Config => "configuration",
            Self::Plan => "launch plan",
            Self::Memory => "guest memory",
            Self::VmCreated => "KVM and devices",
            Self::FirstRun => "vCPU start",
            Self::FirstStage => "first stage",
            Self::Firmware => "reset vector",
            Self::Kernel => "firmware",
            Self::UserSpace => "kernel",
            Self::Silent => "nothing on the console",
            Self::PowerOff => "user space",
            Self::Exit => "tear-down",
        }
    }

    /// Whether only some guests reach it.
    pub(crate) fn is_optional(self) -> bool {
        matches!(self, Self::FirstStage | Self::Silent)
    }

    /// The activity after the mark, for a VM that did not reach the next one.
    pub(crate) fn followed_by(self) -> &'static str {
        match self {
            // It is not known yet whether there is a first stage.
            Self::FirstRun => "first stage or reset vector",
            Self::PowerOff | Self::Exit => Self::Exit.activity(),
            _ => {
                let next = Self::ALL.into_iter().find(|phase| *phase > self && !phase.is_optional());
                next.map_or(Self::Exit.activity(), Self::activity)
            }
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }
}

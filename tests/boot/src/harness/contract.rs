// SPDX-License-Identifier: Apache-2.0
//! What cvmm promises its callers, in one place: exit codes and names of phases. Written down here a second
//! time on purpose: a change in cvmm that callers would notice has to fail a test.

/// The guest powered itself off.
pub const POWERED_OFF: i32 = 0;
/// The configuration is wrong.
pub const CONFIG: i32 = 2;
/// The host lacks something.
pub const HOST: i32 = 3;
/// Firmware, kernel or initrd cannot be launched.
pub const REFUSED: i32 = 4;
/// A disk or the console cannot be used.
pub const FILE: i32 = 5;
/// The security processor refused the launch.
pub const UNMEASURED: i32 = 7;
/// The gate does not answer at its socket.
pub const GATE_UNREACHABLE: i32 = 20;
/// The gate did not answer in time.
pub const GATE_SILENT: i32 = 21;
/// The gate refused.
pub const GATE_DENIED: i32 = 22;
/// The gate's answer is of no use.
pub const GATE_ANSWER: i32 = 23;
/// The gate's ticket is not for this launch, or not the gate's.
pub const TICKET: i32 = 24;
/// The SNP guest was not admitted.
pub const NOT_ADMITTED: i32 = 8;
/// The guest shut down by a triple fault.
pub const TRIPLE_FAULT: i32 = 10;
/// Stopped: the grace time was over, or by a second signal, SIGQUIT or Ctrl-A x.
pub const STOPPED: i32 = 12;
/// The guest was reset, and that was to be the end.
pub const RESET: i32 = 13;
/// The SNP guest terminated itself.
pub const TERMINATED: i32 = 14;
/// The SNP guest used memory in a way that cannot be served.
pub const MEMORY_VIOLATION: i32 = 15;

/// The first KVM_RUN.
pub const FIRST_RUN: &str = "first_run";
/// The first stage is done.
pub const FIRST_STAGE: &str = "first_stage";
/// The first exit to a device.
pub const FIRMWARE: &str = "firmware";
/// Linux looked at the PCI bus.
pub const KERNEL: &str = "kernel";
/// The marker was printed.
pub const USER_SPACE: &str = "user_space";
/// What comes before the guest, in order.
pub const START: [&str; 5] = ["process_start", "config", "plan", "memory", FIRST_RUN];
/// A whole life, in order.
pub const LIFE: [&str; 10] = [
    "process_start",
    "config",
    "plan",
    "memory",
    FIRST_RUN,
    FIRMWARE,
    KERNEL,
    USER_SPACE,
    "power_off",
    "exit",
];

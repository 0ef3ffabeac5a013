// SPDX-License-Identifier: Apache-2.0
//! The exit codes of `cvmm`: a host agent decides by them, so they never change their meaning.
//!
//! Codes below 10 say that the VM did not start or that cvmm itself failed; from 10 to 19 the guest ran and
//! ended in another way than by powering off; from 20 on the attestation gate did not admit it, so
//! that it did not run; 30 is about its state file; 40 is about evidence that could not be verified. Nothing
//! else is used: the shell sets codes above 127 for signals.

use std::collections::BTreeMap;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitStatus {
    /// The guest powered off, or the command did what it was asked.
    Success = 0,
    /// cvmm failed for any other reason.
    Internal = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The host lacks something: no `/dev/kvm`, no permission, a missing capability, too little memory.
    Host = 3,
    /// Firmware, kernel, initrd or UKI cannot be launched, or their hashes cannot be placed.
    LaunchRefused = 4,
    /// A disk, the console or a file named on the command line cannot be used.
    File = 5,
    /// `measure --diff`: the plans differ.
    Differs = 6,
    /// The security processor refused the launch: another guest than expected, its policy, or a page.
    Unmeasured = 7,
    /// The guest was not admitted.
    NotAdmitted = 8,
    /// `policy test`, `attest report`, `attest verify`: evidence is not verified or not accepted.
    NotMet = 9,
    /// A vCPU triple-faulted.
    TripleFault = 10,
    /// KVM reported an internal error or could not enter the guest.
    KvmInternalError = 11,
    /// cvmm stopped the VM: no power-off within the grace time after a signal, a second signal, or the
    /// operator's key.
    Stopped = 12,
    /// The guest asked for a reset, which `--exit-on-reset` makes the end.
    Reset = 13,
    /// An SNP guest terminated itself.
    Terminated = 14,
    /// An SNP guest used memory in a way that cannot be served.
    MemoryViolation = 15,
    /// The guest has shown nothing on its console within `--boot-timeout`.
    Silent = 16,
    /// The gate cannot be reached, or TLS fails.
    GateUnreachable = 20,
    /// The gate did not answer in time, or closed the connection.
    GateSilent = 21,
    /// The gate refused.
    GateDenied = 22,
    /// The gate's answer is invalid.
    GateAnswer = 23,
    /// The gate's ticket is not valid for this launch, or not signed by the gate.
    Ticket = 24,
    /// A VM's state file is damaged, belongs to another VM, is too old, or the key is wrong.
    State = 30,
    /// `attest report`, `attest verify`: there is no certificate to verify a report by.
    Unverified = 40,
}

impl ExitStatus {
    /// All codes in ascending order.
    pub const ALL: [Self; 24] = [
        Self::Success,
        Self::Internal,
        Self::Usage,
        Self::Host,
        Self::LaunchRefused,
        Self::File,
        Self::Differs,
        Self::Unmeasured,
        Self::NotAdmitted,
        Self::NotMet,
        Self::TripleFault,
        Self::KvmInternalError,
        Self::Stopped,
        Self::Reset,
        Self::Terminated,
        Self::MemoryViolation,
        Self::Silent,
        Self::GateUnreachable,
        Self::GateSilent,
        Self::GateDenied,
        Self::GateAnswer,
        Self::Ticket,
        Self::State,
        Self::Unverified,
    ];

    /// The process exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code's meaning, as help and manual show it.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Success => "the guest powered off (also on SIGTERM or SIGINT, within the grace time)",
            Self::Internal => "internal error of cvmm",
            Self::Usage => "wrong command line or configuration",
            Self::Host => "the host lacks something: /dev/kvm, permission, memory, a KVM capability",
            Self::LaunchRefused => "firmware, kernel, initrd or UKI cannot be launched",
            Self::File => "a disk, the console or a file named on the command line cannot be used",
            Self::Differs => "the plans compared by `measure --diff` differ",
            Self::Unmeasured => {
                "the security processor refused the launch (digest, policy, id block or a page)"
            }
            Self::NotAdmitted => "the SNP guest was not admitted",
            Self::NotMet => {
                "policy test, attest report, attest verify: evidence is not verified or not accepted"
            }
            Self::TripleFault => "guest triple fault",
            Self::KvmInternalError => "KVM internal error or failed guest entry",
            Self::Stopped => {
                "stopped by cvmm: grace time over after a signal, a second signal or the operator's key"
            }
            Self::Reset => "guest reset with --exit-on-reset",
            Self::Terminated => "the SNP guest terminated itself",
            Self::MemoryViolation => "the SNP guest used memory in a way that cannot be served",
            Self::Silent => "the guest wrote nothing to its console within --boot-timeout",
            Self::GateUnreachable => "the attestation gate cannot be reached, or TLS fails",
            Self::GateSilent => "the attestation gate did not answer in time",
            Self::GateDenied => "the attestation gate refused the guest; the message has its reasons",
            Self::GateAnswer => "invalid response from the attestation gate",
            Self::Ticket => "the attestation gate's ticket is not valid for this launch",
            Self::Unverified => {
                "attest report, attest verify: there is no certificate to verify the report by; what to fetch is printed"
            }
            Self::State => {
                "the VM's state file is refused: damaged, of a different VM, too old, or a wrong key"
            }
        }
    }

    /// The table of codes for help texts.
    #[must_use]
    pub fn table() -> String {
        Self::table_of(&Self::ALL)
    }

    /// The table of some codes.
    #[must_use]
    pub fn table_of(codes: &[Self]) -> String {
        cvmm_manual::exit_codes(2, codes.iter().map(|status| (status.code(), status.meaning())))
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

/// How a run ended, for the command line: implemented by the outcome of a VM's life and by its errors.
pub trait ExitReport {
    /// The exit code for it.
    fn exit_status(&self) -> ExitStatus;

    /// Code of the reason, if it has one (docs/reference/reasons.md).
    fn reason_code(&self) -> Option<&'static str> {
        None
    }

    /// Exits by kind (`interrupted`, `io.0x3f8`, `mmio.0xfed40000`), if they were counted.
    fn exits(&self) -> Option<BTreeMap<String, u64>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_ascending_and_documented() {
        let codes: Vec<_> = ExitStatus::ALL.iter().map(|status| status.code()).collect();
        assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(codes.iter().all(|code| *code < 128));
        let codes = ExitStatus::ALL.map(|status| (status.code(), status.meaning()));
        cvmm_test_support::manual::documents_exit_codes("cvmm", &codes);
    }
}

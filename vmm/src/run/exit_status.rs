// SPDX-License-Identifier: Apache-2.0
//! Exit codes of a run, and its exit counts, for the command line.

use std::collections::BTreeMap;

use cvmm_gate_client::client::ClientError;
use cvmm_gate_client::frame::FrameError;
use cvmm_gate_client::transport::ConnectError;
use cvmm_kvm::memory::MemoryError;
use cvmm_kvm_snp::SevCallError;
use cvmm_kvm_snp::launch::{StartError, UpdateError};
use cvmm_kvm_snp::vm::CreateError;
use cvmm_snp::status::SevError;

use super::{Outcome, RunError};
use crate::admission::AdmissionError;
use crate::control::Ending;
use crate::exit_code::{ExitReport, ExitStatus};
use crate::machine::{DeviceError, MachineError, SnpError, StageError, TpmCounts};
use crate::vtpm::VtpmError;

impl From<&RunError> for ExitStatus {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::GateRequired => Self::NotAdmitted,
            RunError::StateWithoutGate | RunError::ConflictingGateOptions => Self::Usage,
            RunError::Host(_) | RunError::SnpHost(_) => Self::Host,
            RunError::Input(_) => Self::LaunchRefused,
            RunError::Console(_) => Self::File,
            RunError::Admission(error) => of_admission(error),
            RunError::Machine(error) => of_machine(error),
            RunError::Stage(error) => of_stage(error),
            RunError::Vtpm(error) => of_vtpm(error),
            RunError::Cpuid(_) | RunError::Channel(_) | RunError::Events(_) => Self::Internal,
        }
    }
}

fn of_machine(error: &MachineError) -> ExitStatus {
    match error {
        MachineError::Device(DeviceError::Disk { .. }) => ExitStatus::File,
        MachineError::Memory(MemoryError::Allocate { .. }) => ExitStatus::Host,
        MachineError::Place(_) => ExitStatus::LaunchRefused,
        MachineError::Snp(error) => of_snp(error),
        MachineError::NotAdmitted => ExitStatus::NotAdmitted,
        _ => ExitStatus::Internal,
    }
}

fn of_snp(error: &SnpError) -> ExitStatus {
    match error {
        SnpError::Create(CreateError::NoAsid | CreateError::Features { .. })
        | SnpError::Start(StartError::PolicyBits { .. }) => ExitStatus::Host,
        // What the security processor has too little of, the host lacks.
        SnpError::Start(StartError::Command(SevCallError {
            firmware: Some(SevError::ResourceLimit),
            ..
        })) => ExitStatus::Host,
        SnpError::Start(
            StartError::Policy { .. } | StartError::Command(SevCallError { firmware: Some(_), .. }),
        )
        | SnpError::Update(UpdateError::Firmware { .. } | UpdateError::Cpuid(_))
        | SnpError::Finish(_)
        | SnpError::OtherGuest { .. } => ExitStatus::Unmeasured,
        SnpError::Update(UpdateError::Read { .. })
        | SnpError::Measure(_)
        | SnpError::Identity(_)
        | SnpError::Cpuid(_) => ExitStatus::LaunchRefused,
        _ => ExitStatus::Internal,
    }
}

fn of_stage(error: &StageError<AdmissionError>) -> ExitStatus {
    match error {
        StageError::Refused(error) => of_admission(error),
        StageError::Ended(ending) => of_ending(ending),
        StageError::Time(_) => ExitStatus::NotAdmitted,
        StageError::Stopped => ExitStatus::Stopped,
        StageError::NoProcessor | StageError::Thread(_) => ExitStatus::Internal,
    }
}

fn of_admission(error: &AdmissionError) -> ExitStatus {
    match error {
        AdmissionError::Key(_) | AdmissionError::Tls(_) => ExitStatus::File,
        AdmissionError::Manifest(_) | AdmissionError::Measure(_) => ExitStatus::LaunchRefused,
        AdmissionError::Client { source } => of_client(source),
        AdmissionError::Identity(_) | AdmissionError::NoStageTicket => ExitStatus::GateAnswer,
        AdmissionError::Admit(_) => ExitStatus::Ticket,
        AdmissionError::Platform(_) | AdmissionError::Report(_) => ExitStatus::Host,
        AdmissionError::StageTwice | AdmissionError::NotShown => ExitStatus::NotAdmitted,
    }
}

fn of_client(error: &ClientError) -> ExitStatus {
    match error {
        ClientError::Connect(ConnectError::Unreachable { .. }) => ExitStatus::GateUnreachable,
        // Something listens there. If TLS fails, it is not this gate, or does not accept this client; a late
        // answer is silence.
        ClientError::Connect(ConnectError::Handshake { source, .. })
        | ClientError::NoAnswer { source, .. } => match source {
            FrameError::Tls(_) => ExitStatus::GateUnreachable,
            _ => ExitStatus::GateSilent,
        },
        ClientError::Denied(_) | ClientError::Superseded(_) => ExitStatus::GateDenied,
        ClientError::Answer { .. } => ExitStatus::GateAnswer,
        ClientError::Ticket(_) => ExitStatus::Ticket,
    }
}

fn of_vtpm(error: &VtpmError) -> ExitStatus {
    match error {
        VtpmError::Engine(_) => ExitStatus::Host,
        VtpmError::Banks(_) | VtpmError::Provision(_) => ExitStatus::Internal,
        VtpmError::State { .. } => ExitStatus::State,
        VtpmError::Gate { source } => of_client(source),
    }
}

fn of_ending(ending: &Ending) -> ExitStatus {
    match ending {
        Ending::PowerOff => ExitStatus::Success,
        Ending::TripleFault { .. } => ExitStatus::TripleFault,
        Ending::InternalError { .. } => ExitStatus::KvmInternalError,
        Ending::Terminated { .. } => ExitStatus::Terminated,
        Ending::MemoryViolation { .. } => ExitStatus::MemoryViolation,
        Ending::Stopped => ExitStatus::Stopped,
        Ending::Silent(_) => ExitStatus::Silent,
        Ending::Revoked { .. } => ExitStatus::GateDenied,
        Ending::Reset => ExitStatus::Reset,
    }
}

impl ExitReport for RunError {
    fn exit_status(&self) -> ExitStatus {
        self.into()
    }

    fn reason_code(&self) -> Option<&'static str> {
        match self {
            Self::Input(error) => error.code(),
            _ => None,
        }
    }
}

impl ExitReport for Outcome {
    fn exit_status(&self) -> ExitStatus {
        of_ending(&self.ending)
    }

    fn exits(&self) -> Option<BTreeMap<String, u64>> {
        let counts = &self.exits;
        let mut exits = BTreeMap::from([
            ("interrupted".to_owned(), counts.interrupted),
            ("conversion".to_owned(), counts.conversions),
            ("other".to_owned(), counts.other),
        ]);
        match &counts.ports {
            Some(ports) => exits.extend(ports.iter().map(|(port, count)| (format!("io.{port:#x}"), *count))),
            None => exits.extend([("io.in".to_owned(), counts.io_in), ("io.out".to_owned(), counts.io_out)]),
        }
        match &counts.mmio_pages {
            Some(pages) => {
                exits.extend(pages.iter().map(|(page, count)| (format!("mmio.{page:#x}"), *count)))
            }
            None => exits.extend([
                ("mmio.read".to_owned(), counts.mmio_read),
                ("mmio.write".to_owned(), counts.mmio_write),
            ]),
        }
        exits.extend(self.tpm.iter().flat_map(TpmCounts::rows).map(|(name, count)| (name.to_owned(), count)));
        Some(exits)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_unreachable_gate_differs_from_a_silent_one() {
        let connect = |source| AdmissionError::from(ClientError::Connect(source));
        let handshake = |source| connect(ConnectError::Handshake { at: String::new(), source });
        let answer = |source| AdmissionError::from(ClientError::NoAnswer { question: "admit", source });
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        for (error, status, code) in [
            (
                connect(ConnectError::Unreachable { at: String::new(), source: refused }),
                ExitStatus::GateUnreachable,
                "gate.unreachable",
            ),
            // TLS 1.3: a client may learn that it is not accepted when it waits for its first answer.
            (handshake(FrameError::Tls(String::new())), ExitStatus::GateUnreachable, "gate.tls"),
            (answer(FrameError::Tls(String::new())), ExitStatus::GateUnreachable, "gate.tls"),
            (handshake(FrameError::Timeout), ExitStatus::GateSilent, "gate.timeout"),
            (handshake(FrameError::Closed), ExitStatus::GateSilent, "gate.closed"),
            (answer(FrameError::Timeout), ExitStatus::GateSilent, "gate.timeout"),
        ] {
            assert!(error.to_string().contains(&format!("[{code}]")), "{error}");
            assert_eq!(ExitStatus::from(&RunError::from(error)), status, "{code}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The SNP launch of a machine: what it is made of, in which order, and what went wrong.
//!
//! The expected digest is computed from the same plan that is launched, on a thread beside the launch, and goes to the security
//! processor in an ID block. So a launch only succeeds if the kernel and the processor made of it what `cvmm measure` says;
//! without a key of the owner's, the block is signed by a key that nobody has (its public half fits a fixed signature).

use std::sync::Arc;

use cvmm_kvm_snp::SevCallError;
use cvmm_kvm_snp::cpuid_page::{self, Tolerance};
use cvmm_kvm_snp::launch::{FinishError, FinishOptions, Finished, StartError, UpdateError};
use cvmm_kvm_snp::memory::{MemoryError, PrivateMemory};
use cvmm_kvm_snp::probe::SnpHost;
use cvmm_kvm_snp::vm::{CreateError, SnpVm};
use cvmm_launch::digest::{self, MeasureError};
use cvmm_launch::firmware::Firmware;
use cvmm_launch::id_block::{IdError, Identity};
use cvmm_launch::plan::PageSink;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::cpuid::TooManyEntries;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::status::SevError;
use kvm_ioctls::{Kvm, VmFd};
use thiserror::Error;

use super::inputs::Inputs;
use crate::config::{Config, CpuidTolerance, Snp};
use crate::exit_code::ExitStatus;
use crate::gate::Approval;
use crate::vm::memory::MachineMemory;
use crate::vm::vcpu::{Vcpu, VcpuError};

/// Why an SNP guest was not launched.
#[derive(Debug, Error)]
pub enum SnpError {
    /// The VM.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Its vCPUs.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// LAUNCH_START.
    #[error(transparent)]
    Start(#[from] StartError),
    /// LAUNCH_UPDATE.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// LAUNCH_FINISH.
    #[error(transparent)]
    Finish(#[from] FinishError),
    /// LAUNCH_FINISH, because the owner's ID block is for other files.
    #[error(
        "snp.id_block is for another guest: it has launch digest {in_block}, these files on this processor give {digest}; \
         cvmm measure --diff tells what differs ({source})"
    )]
    OtherGuest {
        /// Digest in the block.
        in_block: Digest,
        /// Digest of the files.
        digest: Digest,
        /// What the security processor said.
        #[source]
        source: FinishError,
    },
    /// The CPUID page.
    #[error(transparent)]
    Cpuid(#[from] TooManyEntries),
    /// The expected digest.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The ID block.
    #[error("id block: {0}")]
    Identity(#[from] IdError),
    /// The forged variable store.
    #[error("debug.inject_variables cannot be put into the shared view of the firmware: {0}")]
    Inject(#[source] std::io::Error),
    /// Nobody has admitted it.
    #[error("the guest is launched but not admitted")]
    NotAdmitted,
}

impl SnpError {
    /// The exit code for it.
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::Create(CreateError::NoAsid | CreateError::Features { .. })
            | Self::Start(StartError::PolicyBits { .. }) => ExitStatus::Host,
            // What the security processor has too little of, the host lacks.
            Self::Start(StartError::Command(SevCallError {
                firmware: Some(SevError::ResourceLimit),
                ..
            })) => ExitStatus::Host,
            Self::Start(
                StartError::Policy { .. } | StartError::Command(SevCallError { firmware: Some(_), .. }),
            )
            | Self::Update(UpdateError::Firmware { .. } | UpdateError::Cpuid(_))
            | Self::Finish(_)
            | Self::OtherGuest { .. } => ExitStatus::Unmeasured,
            Self::Update(UpdateError::Read { .. })
            | Self::Measure(_)
            | Self::Identity(_)
            | Self::Cpuid(_) => ExitStatus::LaunchRefused,
            Self::NotAdmitted => ExitStatus::NotAdmitted,
            _ => ExitStatus::Internal,
        }
    }
}

/// A launch that has a VM and nothing in it.
#[derive(Debug)]
pub(super) struct Launch {
    vm: SnpVm,
    settings: Snp,
}

impl Launch {
    /// Creates the VM.
    pub(super) fn create(kvm: &Kvm, host: &Arc<SnpHost>, config: &Config) -> Result<Self, SnpError> {
        let vm = SnpVm::create(kvm, host, SevFeatures::SNP_ACTIVE)?;
        if config.snp.certificates.is_some() && !vm.request_certificates()? {
            cvmm_log_limit::warn!(
                "snp.certificates is of no use: this kernel cannot ask for certificates (KVM_SEV_SNP_ENABLE_REQ_CERTS)"
            );
        }
        Ok(Self { vm, settings: config.snp.clone() })
    }

    /// The VM.
    pub(super) fn vm(&self) -> &Arc<VmFd> {
        self.vm.vm()
    }

    /// Registers its memory.
    pub(super) fn register(&self, memory: &MachineMemory) -> Result<Arc<PrivateMemory>, SnpError> {
        Ok(memory.register_private(&self.vm)?)
    }

    /// Launches the plan of `inputs` with `vcpus`, which must be all of the plan's, in its order.
    pub(super) fn finish(
        self,
        inputs: &Inputs,
        vcpus: &[Vcpu],
        memory: Arc<PrivateMemory>,
        signature: u32,
        approval: Option<&Approval>,
    ) -> Result<Finished, SnpError> {
        let Self { vm, settings } = self;
        let policy = GuestPolicy(settings.policy);
        let model = VcpuModel { signature: CpuSignature(signature), features: vm.features() };
        let table = match vcpus.first() {
            Some(first) => first.cpuid()?,
            None => return Err(TooManyEntries(0).into()),
        };
        let cpuid = cpuid_page::build(table.as_slice())?;
        let tolerance = match settings.cpuid_corrections {
            CpuidTolerance::Refuse => Tolerance::Nothing,
            CpuidTolerance::Caches => Tolerance::Caches,
        };
        let (expected, measured) = std::thread::scope(|scope| {
            // With an approval it has been computed already, by the gate and by us.
            let expected = approval.is_none().then(|| {
                std::thread::Builder::new()
                    .name("digest".to_owned())
                    .spawn_scoped(scope, || digest::measure(&inputs.plan, model, None, &mut ()))
            });
            let measured = vm
                .start(memory, policy)
                .map_err(SnpError::from)
                .and_then(|started| Ok(started.measure(&inputs.plan, &cpuid, tolerance)?));
            let expected =
                match (approval, expected.and_then(Result::ok).and_then(|thread| thread.join().ok())) {
                    (Some(approval), _) => Ok(approval.digest()),
                    (None, Some(expected)) => expected,
                    // Without a thread it is computed here: slower, not different.
                    (None, None) => digest::measure(&inputs.plan, model, None, &mut ()),
                };
            (expected, measured)
        });
        let (digest, measured) = (expected?, measured?);
        let identity = match (approval, &inputs.identity) {
            (Some(approval), _) => approval.identity().clone(),
            (None, Some(owners)) => owners.clone(),
            (None, None) => Identity::keyless(IdBlock::new(digest, policy))?,
        };
        announce(digest, policy, &identity);
        let in_block = identity.block().launch_digest;
        let host_data = approval.map_or(settings.host_data, |approval| *approval.host_data());
        let options = FinishOptions { identity, host_data, vcek_disabled: settings.vlek_only };
        measured.finish(&options).map_err(|source| match source {
            FinishError::Measurement(_) if in_block != digest => {
                SnpError::OtherGuest { in_block, digest, source }
            }
            source => source.into(),
        })
    }
}

/// Fills the shared view of the firmware image, from its start. The guest comes to see it when it makes these pages
/// shared, which the stock firmware does with its variable store: it reads what was measured and gets this.
pub(super) fn inject_variables(
    memory: &MachineMemory,
    firmware: &Firmware,
    bytes: &[u8],
) -> Result<(), SnpError> {
    cvmm_log_limit::warn!(
        "debug.inject_variables: this host is hostile, the guest may see UEFI variables of the host's"
    );
    memory.sink().write(firmware.gpa(), bytes).map_err(SnpError::Inject)
}

fn announce(digest: Digest, policy: GuestPolicy, identity: &Identity) {
    cvmm_log_limit::info!(
        launch_digest = %digest,
        %policy,
        id_key_digest = %identity.id_key_digest(),
        "sev-snp guest expected; the security processor checks it"
    );
}

// SPDX-License-Identifier: Apache-2.0
//! The SNP launch of a machine: what it is made of, in which order, and what went wrong.
//!
//! The expected digest is computed from the same plan that is launched, on a thread beside the launch, and
//! goes to the security processor in an ID block. So a launch only succeeds if kernel and processor measure
//! what `cvmm measure` predicts. If the owner has no key, the block has a fixed signature, and a public key
//! computed from it whose private key does not exist.

use std::sync::Arc;

use cvmm_kvm::memory::MachineMemory;
use cvmm_kvm_snp::cpuid_page::{self, Tolerance};
use cvmm_kvm_snp::launch::{FinishError, FinishOptions, Finished, StartError, UpdateError};
use cvmm_kvm_snp::memory::{MemoryError, PrivateMemory};
use cvmm_kvm_snp::probe::SnpHost;
use cvmm_kvm_snp::vm::{CreateError, SnpVm};
use cvmm_launch::digest::{self, MeasureError};
use cvmm_launch::id_block::{IdError, Identity};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::cpuid::TooManyEntries;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VmFd};
use thiserror::Error;

use crate::config::{Config, CpuidTolerance, Snp};
use crate::inputs::Inputs;
use crate::launch::LaunchTerms;

/// Why an SNP guest was not launched.
#[derive(Debug, Error)]
pub enum SnpError {
    /// The VM.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Its memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// LAUNCH_START.
    #[error(transparent)]
    Start(#[from] StartError),
    /// LAUNCH_UPDATE.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// LAUNCH_FINISH.
    #[error(transparent)]
    Finish(#[from] FinishError),
    /// LAUNCH_FINISH, because the owner's ID block was made for other files.
    #[error(
        "the ID block (snp.id_block, or that of the IGVM file) belongs to a different guest: it has launch \
         digest {in_block}, but these files on this processor give \
         {digest}; cvmm measure --diff shows what differs ({source})"
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
}

/// A launch whose VM exists and is empty.
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
                "snp.certificates has no effect: this kernel cannot ask for certificates (KVM_SEV_SNP_ENABLE_REQ_CERTS)"
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

    /// Launches the plan of `inputs` by `terms`. All vCPUs of the plan have to exist, in its order; `cpuid`
    /// is the table of the boot vCPU, and `signature` their CPUID signature.
    pub(super) fn finish(
        self,
        inputs: &Inputs,
        terms: &LaunchTerms,
        memory: Arc<PrivateMemory>,
        signature: u32,
        cpuid: &CpuId,
    ) -> Result<Finished, SnpError> {
        let Self { vm, settings } = self;
        let policy = GuestPolicy(settings.policy);
        let model = VcpuModel { signature: CpuSignature(signature), features: vm.features() };
        let cpuid = cpuid_page::build(cpuid.as_slice())?;
        let tolerance = match settings.cpuid_corrections {
            CpuidTolerance::Refuse => Tolerance::Nothing,
            CpuidTolerance::Caches => Tolerance::Caches,
        };
        let measure = || digest::measure(&inputs.plan, model, None, &mut ());
        let (expected, measured) = std::thread::scope(|scope| {
            let thread = terms
                .expected_digest
                .is_none()
                .then(|| std::thread::Builder::new().name("digest".to_owned()).spawn_scoped(scope, measure));
            let measured = vm
                .start(memory, policy)
                .map_err(SnpError::from)
                .and_then(|started| Ok(started.measure(&inputs.plan, &cpuid, tolerance)?));
            let computed = thread.and_then(Result::ok).and_then(|thread| thread.join().ok());
            let expected = match (terms.expected_digest, computed) {
                (Some(digest), _) => Ok(digest),
                (None, Some(computed)) => computed,
                // Without a thread it is computed here: slower, not different.
                (None, None) => measure(),
            };
            (expected, measured)
        });
        let (digest, measured) = (expected?, measured?);
        let identity = match &terms.identity {
            Some(identity) => identity.clone(),
            None => Identity::keyless(IdBlock::new(digest, policy))?,
        };
        announce(digest, policy, &identity);
        let in_block = identity.block().launch_digest;
        let options =
            FinishOptions { identity, host_data: terms.host_data, vcek_disabled: settings.vlek_only };
        measured.finish(&options).map_err(|source| match source {
            FinishError::Measurement(_) if in_block != digest => {
                SnpError::OtherGuest { in_block, digest, source }
            }
            source => source.into(),
        })
    }
}

fn announce(digest: Digest, policy: GuestPolicy, identity: &Identity) {
    cvmm_log_limit::info!(
        launch_digest = %digest,
        %policy,
        id_key_digest = %identity.id_key_digest(),
        "sev-snp guest expected; the security processor checks it"
    );
}

// SPDX-License-Identifier: Apache-2.0
//! The files a VM starts from, opened and checked before anything else exists.
//!
//! A wrong file costs the operator one message and the host no memory. The descriptors stay open for the life
//! of the VM, a guest reset included, so that what was checked is what is used.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cvmm_gate_protocol::ticket::VerdictKey;
use cvmm_igvm::{Guest, IgvmError};
use cvmm_launch::blob::{Blob, ReadError};
use cvmm_launch::firmware::{Firmware, FirmwareError};
use cvmm_launch::first_stage::FirstStage;
use cvmm_launch::id_block::{IdError, Identity};
use cvmm_launch::kernel::{Kernel, KernelError};
use cvmm_launch::measured::Measured;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PlanError, Profile, VcpuStart};
use cvmm_launch::uki;
use cvmm_measure::Subject;
use cvmm_secure_boot::{Certificate, Keys, KeysError, Variable, list, preset, source};
use cvmm_snp::features::SevFeatures;
use cvmm_snp::policy::GuestPolicy;
use thiserror::Error;

use crate::builtin::{self, BuiltinError};
use crate::config::{Boot, Config, FirmwareSource, IdentityFiles, Isolation, KeySource, SecureBoot};

/// Bytes read of an ID block or its authentication: one more than the longer of them has.
const MAX_IDENTITY: usize = 4097;
/// Bytes read of a public key's file, which has a few hundred.
const MAX_KEY: u64 = 4096;

/// Why the key of a gate's verdicts cannot be used.
#[derive(Debug, Error)]
#[error("gate.verdict_key {path} cannot be used: {problem}")]
pub struct VerdictKeyError {
    /// Its file.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: String,
}

/// Why Secure Boot keys cannot be used.
#[derive(Debug, Error)]
pub enum SecureBootError {
    /// A file.
    #[error("secure_boot.{key}: {path} {problem}")]
    File {
        /// Key of the table.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// All of them together.
    #[error("secure_boot: {0}")]
    Keys(#[source] KeysError),
}

/// Why an input cannot be used.
#[derive(Debug, Error)]
pub enum InputError {
    /// A file could not be opened.
    #[error("cannot open {what} {path}: {source}")]
    Open {
        /// Key of `vm.toml`.
        what: &'static str,
        /// As configured.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The firmware image.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// The kernel or UKI.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The content of a small file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The ID block.
    #[error("snp.id_block and snp.id_auth: {0}")]
    Identity(#[source] IdError),
    /// The gate's key, which is measured into the first stage.
    #[error(transparent)]
    VerdictKey(#[from] VerdictKeyError),
    /// The built-in firmware, or a certificate of a preset.
    #[error(transparent)]
    Builtin(#[from] BuiltinError),
    /// Secure Boot keys.
    #[error(transparent)]
    SecureBoot(#[from] SecureBootError),
    /// Firmware, profile and memory do not fit together.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The IGVM file.
    #[error(transparent)]
    Igvm(#[from] IgvmError),
    /// The guest of the IGVM file starts in a first stage, which has questions that a file does not answer.
    #[error(
        "boot.igvm {0} starts in a first stage of cvmm, which asks for its ticket and its UKI; launch this guest \
         from its vm.toml (profile \"uki\" or \"hashes\"), or write the file with boot.first_stage = false"
    )]
    StagedFile(PathBuf),
    /// There are two ID blocks.
    #[error("boot.igvm {0} has an ID block of its own; remove snp.id_block and snp.id_auth")]
    TwoIdentities(PathBuf),
}

impl InputError {
    /// Code of the reason, if it has one (docs/reference/reasons.md).
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Firmware(error) => Some(error.problem.code()),
            Self::Kernel(error) => Some(error.problem.code()),
            Self::Plan(error) => Some(error.code()),
            Self::Igvm(error) => Some(error.problem.code()),
            Self::StagedFile(_) => Some("igvm.context"),
            Self::TwoIdentities(_) => Some("igvm.id-block"),
            Self::Builtin(error) => Some(error.code()),
            Self::SecureBoot(SecureBootError::File { .. }) => Some("secure-boot.file"),
            Self::SecureBoot(SecureBootError::Keys(_)) => Some("secure-boot.keys"),
            Self::Open { .. } | Self::Read(_) | Self::Identity(_) | Self::VerdictKey(_) => None,
        }
    }
}

/// The boot files of the `hashes` profile, which fw_cfg serves and the firmware checks against measured
/// hashes.
#[derive(Clone, Debug)]
pub struct HashedFiles {
    /// Kernel or UKI file, unpatched.
    pub kernel: Blob,
    /// Initial RAM disk.
    pub initrd: Option<Blob>,
    /// Command line without its NUL.
    pub cmdline: String,
}

/// Checked inputs.
#[derive(Debug)]
pub struct Inputs {
    /// The firmware image. An IGVM file has its own among its pages.
    pub firmware: Option<Firmware>,
    /// Where RAM lies.
    pub memory: MemoryLayout,
    /// How the firmware gets the guest's operating system; `None` with an IGVM file.
    pub profile: Option<Profile>,
    /// The pages that exist before the first instruction.
    pub plan: LaunchPlan,
    /// Boot files for fw_cfg: the `hashes` profile only.
    pub served: Option<HashedFiles>,
    /// Further files for fw_cfg, with their names. `cvmm` has none.
    pub more_files: Vec<(String, Blob)>,
    /// What else is measured for the firmware: Secure Boot keys, the path of the loader.
    pub measured: Measured,
    /// The owner's ID block, if there is one.
    pub identity: Option<Identity>,
}

impl Inputs {
    /// Opens and checks the files of `config` and makes the launch plan.
    pub fn open(config: &Config) -> Result<Self, InputError> {
        let memory = MemoryLayout { low: config.low_memory, high: config.memory - config.low_memory };
        if let Boot::Igvm { igvm, cmdline } = &config.boot {
            return Self::from_file(config, memory, igvm, cmdline);
        }
        let firmware = firmware(config)?;
        if config.isolation == Isolation::Snp {
            // Before other problems of such an image, such as too little space for a first stage.
            firmware.check_snp(config.vcpus).map_err(PlanError::from)?;
        }
        let (profile, served) = boot(config)?;
        let stage = config.first_stage.then(|| first_stage(config)).transpose()?;
        let measured = measured(config)?;
        let plan =
            LaunchPlan::build_all(&firmware, &profile, &memory, config.vcpus, stage.as_ref(), &measured)?;
        let identity = config.snp.identity.as_ref().map(identity).transpose()?;
        let (firmware, profile) = (Some(firmware), Some(profile));
        Ok(Self { firmware, memory, profile, plan, served, more_files: Vec::new(), measured, identity })
    }

    /// A guest that an IGVM file describes.
    fn from_file(
        config: &Config,
        memory: MemoryLayout,
        path: &Path,
        cmdline: &str,
    ) -> Result<Self, InputError> {
        let machine = cvmm_igvm::Machine {
            memory: &memory,
            vcpus: config.vcpus,
            policy: GuestPolicy(config.snp.policy),
            features: SevFeatures::SNP_ACTIVE,
            cmdline,
            madt: None,
        };
        let Guest { plan, identity: own } = cvmm_igvm::load(&open("boot.igvm", path)?, &machine)?;
        if matches!(plan.vcpus().first(), Some(VcpuStart::Registers(state)) if state.is_first_stage()) {
            return Err(InputError::StagedFile(path.to_owned()));
        }
        let given = config.snp.identity.as_ref().map(identity).transpose()?;
        if own.is_some() && given.is_some() {
            return Err(InputError::TwoIdentities(path.to_owned()));
        }
        let (identity, more_files, measured) = (own.or(given), Vec::new(), Measured::default());
        Ok(Self { firmware: None, memory, profile: None, plan, served: None, more_files, measured, identity })
    }

    /// What is measured for these inputs: the plan that a VM is launched with.
    #[must_use]
    pub fn into_subject(self) -> Subject {
        let Self { firmware, memory, profile, plan, .. } = self;
        let profile = profile.map_or("igvm", |profile| profile.name());
        Subject::new(firmware, memory, profile, plan)
    }

    /// All that [`Inputs::open`] refuses, as far as one does not hide the other.
    #[must_use]
    pub fn faults(config: &Config) -> Vec<InputError> {
        if matches!(config.boot, Boot::Igvm { .. }) {
            return Self::open(config).err().into_iter().collect();
        }
        let steps = [
            firmware(config).err(),
            boot(config).err(),
            measured(config).err(),
            config.snp.identity.as_ref().and_then(|files| identity(files).err()),
        ];
        let faults: Vec<_> = steps.into_iter().flatten().collect();
        if faults.is_empty() { Self::open(config).err().into_iter().collect() } else { faults }
    }
}

fn firmware(config: &Config) -> Result<Firmware, InputError> {
    let image = match &config.firmware {
        FirmwareSource::Builtin => builtin::firmware()?,
        FirmwareSource::File(path) => open("firmware", path)?,
    };
    Ok(Firmware::parse(image)?)
}

fn boot(config: &Config) -> Result<(Profile, Option<HashedFiles>), InputError> {
    Ok(match &config.boot {
        Boot::Uki { uki } => {
            let image = Kernel::recognise(open("boot.uki", uki)?)?;
            (Profile::Uki { image, gpa: uki::DEFAULT_GPA }, None)
        }
        Boot::Hashes { kernel, initrd, cmdline } => {
            let kernel = Kernel::recognise(open("boot.kernel", kernel)?)?;
            let initrd = initrd.as_deref().map(|path| open("boot.initrd", path)).transpose()?;
            let served = HashedFiles {
                kernel: kernel.blob().clone(),
                initrd: initrd.clone(),
                cmdline: cmdline.clone(),
            };
            (Profile::Hashes { kernel, initrd, cmdline: cmdline.clone() }, Some(served))
        }
        // An IGVM file has no profile in this sense, and does not come here.
        Boot::Disk { .. } | Boot::Igvm { .. } => (Profile::Disk, None),
    })
}

fn measured(config: &Config) -> Result<Measured, InputError> {
    let loader = match &config.boot {
        Boot::Disk { loader } => loader.clone(),
        Boot::Uki { .. } | Boot::Hashes { .. } | Boot::Igvm { .. } => None,
    };
    Ok(Measured { keys: config.secure_boot.as_ref().map(keys).transpose()?, loader })
}

/// Reads the files of Secure Boot keys, and warns of certificates that have expired.
fn keys(config: &SecureBoot) -> Result<Keys, InputError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut lists: [Vec<u8>; 4] = Default::default();
    for (variable, list) in Variable::ALL.into_iter().zip(&mut lists) {
        for source in config.sources(variable) {
            match source {
                KeySource::Microsoft => {
                    for file in preset::microsoft(variable) {
                        list.extend(builtin::certificate(file)?);
                    }
                }
                KeySource::File(path) => list.extend(key_file(variable, &path, now)?),
            }
        }
    }
    Keys::new(lists).map_err(|error| InputError::SecureBoot(SecureBootError::Keys(error)))
}

/// The signature lists of one file.
fn key_file(variable: Variable, path: &Path, now: u64) -> Result<Vec<u8>, InputError> {
    let key = variable.key();
    let failed = |problem: String| {
        InputError::SecureBoot(SecureBootError::File { key, path: path.to_owned(), problem })
    };
    let content = builtin::read(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let lists = source::lists(&content).map_err(|error| failed(error.to_string()))?;
    let entries = list::entries(&lists).unwrap_or_default();
    let certificates = entries.iter().filter_map(|entry| Certificate::parse(entry.data).ok());
    for certificate in certificates.filter(|certificate| variable == Variable::Db && certificate.expired(now))
    {
        tracing::warn!(
            file = %path.display(),
            subject = %cvmm_reason::printable::line(&certificate.subject),
            "a certificate of secure_boot.db has expired; firmware accepts its signatures all the same"
        );
    }
    Ok(lists)
}

/// Reads and checks an ID block and its authentication.
fn identity(files: &IdentityFiles) -> Result<Identity, InputError> {
    let read = |what, path: &Path| {
        let blob = open(what, path)?;
        // Longer files are refused by their length, and need not be read for that.
        let len = usize::try_from(blob.len()).unwrap_or(usize::MAX).min(MAX_IDENTITY);
        let mut bytes = vec![0; len];
        blob.read(&mut bytes, 0)?;
        Ok::<_, InputError>(bytes)
    };
    let block = read("snp.id_block", &files.id_block)?;
    let auth = read("snp.id_auth", &files.id_auth)?;
    Identity::from_bytes(&block, &auth).map_err(InputError::Identity)
}

/// What is measured into the first stage: the key of the gate, if there is one.
fn first_stage(config: &Config) -> Result<FirstStage, InputError> {
    let key = config.gate.as_ref().map(|gate| verdict_key(&gate.verdict_key)).transpose()?;
    Ok(FirstStage { verdict_key: key.map(|key| *key.point()) })
}

/// Reads the key of a gate's verdicts from a PEM file.
///
/// # Errors
/// The file cannot be read, or has no such key.
pub fn verdict_key(path: &Path) -> Result<VerdictKey, VerdictKeyError> {
    let problem = |problem| VerdictKeyError { path: path.to_owned(), problem };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_KEY).read_to_string(&mut text))
        .map_err(|error| problem(error.to_string()))?;
    VerdictKey::from_pem(&text).map_err(|error| problem(error.to_string()))
}

fn open(what: &'static str, path: &Path) -> Result<Blob, InputError> {
    Blob::open(path).map_err(|source| InputError::Open { what, path: path.to_owned(), source })
}

// SPDX-License-Identifier: Apache-2.0
//! The files a VM starts from, opened and checked before anything else exists.
//!
//! A wrong file costs the operator one message and the host no memory. The descriptors stay open for the life of
//! the VM, a guest reset included, so that what was checked is what is used.

use std::io;
use std::path::{Path, PathBuf};

use cvmm_launch::blob::Blob;
use cvmm_launch::firmware::{Firmware, FirmwareError};
use cvmm_launch::kernel::{Kernel, KernelError};
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PlanError, Profile};
use cvmm_launch::uki;
use thiserror::Error;

use crate::config::{Boot, Config};

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
    /// Firmware, profile and memory do not fit together.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// What fw_cfg serves for the firmware to boot.
#[derive(Clone, Debug)]
pub struct Served {
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
    /// The firmware image.
    pub firmware: Firmware,
    /// Where RAM lies.
    pub memory: MemoryLayout,
    /// The pages that exist before the first instruction.
    pub plan: LaunchPlan,
    /// Boot files for fw_cfg: the `hashes` profile only.
    pub served: Option<Served>,
}

impl Inputs {
    /// Opens and checks the files of `config` and makes the launch plan.
    pub fn open(config: &Config) -> Result<Self, InputError> {
        let firmware = Firmware::parse(open("firmware", &config.firmware)?)?;
        let memory = MemoryLayout { low: config.low_memory, high: config.memory - config.low_memory };
        let (profile, served) = match &config.boot {
            Boot::Uki { uki } => {
                let image = Kernel::recognise(open("boot.uki", uki)?)?;
                (Profile::Uki { image, gpa: uki::DEFAULT_GPA }, None)
            }
            Boot::Hashes { kernel, initrd, cmdline } => {
                let kernel = Kernel::recognise(open("boot.kernel", kernel)?)?;
                let initrd = initrd.as_deref().map(|path| open("boot.initrd", path)).transpose()?;
                let mut served = Served {
                    kernel: kernel.blob().clone(),
                    initrd: initrd.clone(),
                    cmdline: cmdline.clone(),
                };
                served.replace(config)?;
                (Profile::Hashes { kernel, initrd, cmdline: cmdline.clone() }, Some(served))
            }
            Boot::Disk => (Profile::Disk, None),
        };
        let plan = LaunchPlan::build(&firmware, &profile, &memory, config.vcpus)?;
        Ok(Self { firmware, memory, plan, served })
    }
}

impl Served {
    /// Serves other files than the measured ones, as a hostile host would: the firmware has to notice.
    fn replace(&mut self, config: &Config) -> Result<(), InputError> {
        let debug = &config.debug;
        if let Some(path) = &debug.serve_kernel {
            self.kernel = open("debug.serve_kernel", path)?;
        }
        if let Some(path) = &debug.serve_initrd {
            self.initrd = Some(open("debug.serve_initrd", path)?);
        }
        if let Some(cmdline) = &debug.serve_cmdline {
            self.cmdline.clone_from(cmdline);
        }
        Ok(())
    }
}

fn open(what: &'static str, path: &Path) -> Result<Blob, InputError> {
    Blob::open(path).map_err(|source| InputError::Open { what, path: path.to_owned(), source })
}

// SPDX-License-Identifier: Apache-2.0
//! What is measured: a firmware with a boot profile on a machine.

use std::io::Write;
use std::path::{Path, PathBuf};

use cvmm_igvm::{Export, ExportError};
use cvmm_launch::blob::Blob;
use cvmm_launch::digest::{self, FirmwareDigest};
use cvmm_launch::firmware::Firmware;
use cvmm_launch::id_block::Identity;
use cvmm_launch::kernel::Kernel;
use cvmm_launch::memory::{HIGH_BASE, MemoryLayout};
use cvmm_launch::plan::{LaunchPlan, Profile, Source};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;

use crate::error::MeasureError;
use crate::listing::{Collector, Facts, Listing};

/// Low RAM a guest without a `vm.toml` is given; outside the `uki` profile the digest does not depend on it.
const ANY_MEMORY: MemoryLayout = MemoryLayout { low: 256 << 20, high: 0 };

/// A guest in the words of `sev-snp-measure`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Firmware image.
    pub ovmf: PathBuf,
    /// Kernel, if it comes through fw_cfg.
    pub kernel: Option<PathBuf>,
    /// Initrd.
    pub initrd: Option<PathBuf>,
    /// Command line.
    pub append: String,
    /// Number of vCPUs.
    pub vcpus: u32,
}

/// What is to be measured, with all files open and checked.
#[derive(Debug)]
pub struct Subject {
    /// `None` if the guest comes from an IGVM file.
    firmware: Option<Firmware>,
    memory: MemoryLayout,
    profile: &'static str,
    plan: LaunchPlan,
    /// The digest after the firmware, if it was computed beside the plan.
    known: Option<FirmwareDigest>,
    /// The one to believe instead of reading the image.
    given: Option<FirmwareDigest>,
}

impl Subject {
    /// A guest whose files are open and whose plan is made, such as that of a `vm.toml`. `profile` is the
    /// name of its boot profile.
    #[must_use]
    pub fn new(
        firmware: Option<Firmware>,
        memory: MemoryLayout,
        profile: &'static str,
        plan: LaunchPlan,
    ) -> Self {
        Self { firmware, memory, profile, plan, known: None, given: None }
    }

    /// The guest of a command line.
    ///
    /// # Errors
    /// A file cannot be opened, or is not what it is given as.
    pub fn from_options(options: &Options) -> Result<Self, MeasureError> {
        let firmware = firmware(&options.ovmf)?;
        let profile = match &options.kernel {
            Some(kernel) => Profile::Hashes {
                kernel: Kernel::recognise(open("kernel", kernel)?)?,
                initrd: options.initrd.as_deref().map(|path| open("initrd", path)).transpose()?,
                cmdline: options.append.clone(),
            },
            None => Profile::Disk,
        };
        let (plan, known) = digest::build(&firmware, &profile, &ANY_MEMORY, options.vcpus)?;
        let firmware = Some(firmware);
        Ok(Self { firmware, memory: ANY_MEMORY, profile: profile.name(), plan, known, given: None })
    }

    /// Takes `running` for the digest after the firmware image instead of reading it.
    pub fn set_firmware_digest(&mut self, running: Digest) {
        self.given = self.firmware.as_ref().map(|firmware| FirmwareDigest::known(firmware, running));
    }

    /// The launch digest alone.
    ///
    /// # Errors
    /// A file cannot be read, or is no longer what it was.
    pub fn digest(&self, model: VcpuModel) -> Result<Digest, MeasureError> {
        Ok(digest::measure(&self.plan, model, self.given.as_ref().or(self.known.as_ref()), &mut ())?)
    }

    /// The whole plan with its digests; with those of each page if `pages`.
    ///
    /// # Errors
    /// As [`Subject::digest`].
    pub fn listing(&self, model: VcpuModel, pages: bool) -> Result<Listing, MeasureError> {
        let mut collector = Collector::new(pages);
        // A listing tells the content of the image too, so it is read even if its digest is known already.
        let launch_digest = digest::measure(&self.plan, model, self.given.as_ref(), &mut collector)?;
        let facts = Facts {
            firmware: self.firmware.as_ref(),
            // A given digest stands for an image that is not read.
            sha256: self
                .firmware
                .as_ref()
                .filter(|_| self.given.is_none())
                .map(|firmware| firmware.image().sha256())
                .transpose()?,
            memory: &self.memory,
            profile: self.profile,
            plan: &self.plan,
            model,
        };
        Ok(collector.finish(&facts, launch_digest))
    }

    /// Writes the guest as an IGVM file, for a launch with `policy` and the ID block `identity`.
    ///
    /// # Errors
    /// A file of the guest cannot be read, the output not be written, or the guest is not one for the format.
    pub fn write_igvm(
        &self,
        model: VcpuModel,
        policy: GuestPolicy,
        identity: Option<&Identity>,
        to: &mut dyn Write,
    ) -> Result<(), ExportError> {
        Export { plan: &self.plan, memory: &self.memory, policy, model, identity }.write(to)
    }

    /// The firmware image as it is launched: with the first stage in it, if there is one.
    ///
    /// # Errors
    /// As [`Subject::digest`].
    pub fn launched_firmware(&self) -> Result<Vec<u8>, MeasureError> {
        let start = HIGH_BASE.saturating_sub(self.plan.window());
        let mut image = Vec::new();
        for import in self.plan.imports().iter().filter(|import| import.gpa >= start) {
            let Source::Blob { blob, offset, len } = &import.source else { continue };
            // The image's parts, in their order; above RAM below 4 GiB there is nothing else that is
            // launched.
            if import.gpa != start + image.len() as u64 {
                continue;
            }
            let mut chunks = blob.chunks(*offset, *len);
            while let Some(chunk) = chunks.next_chunk()? {
                image.extend_from_slice(chunk);
            }
        }
        Ok(image)
    }
}

/// The digest after a firmware image: what `sev-snp-measure --mode snp:ovmf-hash` prints.
///
/// # Errors
/// The file cannot be read, or is not firmware for SNP guests.
pub fn firmware_digest(path: &Path) -> Result<Digest, MeasureError> {
    let firmware = firmware(path)?;
    // The prefix of no guest's digest otherwise.
    firmware.check_snp(1).map_err(digest::MeasureError::from)?;
    Ok(FirmwareDigest::compute(&firmware)?.running())
}

fn firmware(path: &Path) -> Result<Firmware, MeasureError> {
    Ok(Firmware::parse(open("firmware", path)?)?)
}

fn open(what: &'static str, path: &Path) -> Result<Blob, MeasureError> {
    Blob::open(path).map_err(|source| MeasureError::Open { what, path: path.to_owned(), source })
}

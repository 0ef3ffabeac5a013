// SPDX-License-Identifier: Apache-2.0
//! Launch digests, computed by the gate from files of its own.
//!
//! The VMM says which files it launches by their hashes; the gate has the same files, by their hashes, in a folder, and believes no
//! digest that it has not computed. Files are verified when they are read. Results are kept, since the same guest is asked for often.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cvmm_attest::reason::Reason;
use cvmm_first_stage::params::POINT;
use cvmm_gate_client::manifest::{Boot, FileDigest, Launch};
use cvmm_gate_client::ticket::VerdictKey;
use cvmm_launch::blob::Blob;
use cvmm_launch::digest::measure;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::first_stage::{FirstStage, program_digest};
use cvmm_launch::hashes::KernelHashes;
use cvmm_launch::kernel::Kernel;
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, Profile};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;

use crate::files;
use crate::policies::sha384;

/// The largest file that is launched.
const MAX_ARTIFACT: u64 = 1 << 30;
/// Results kept.
const MOST_RESULTS: usize = 1024;
/// vCPUs of one guest: cvmm's limit.
const MOST_VCPUS: u32 = 64;

/// The folder.
#[derive(Debug)]
pub struct Artifacts {
    folder: PathBuf,
    verdict_key: [u8; POINT],
    known: Mutex<HashMap<Launch, Digest>>,
}

impl Artifacts {
    /// Of the files in `folder`, each called by its SHA-384. First stages wait for tickets signed with `verdict_key`.
    #[must_use]
    pub fn new(folder: &Path, verdict_key: &VerdictKey) -> Self {
        Self {
            folder: folder.to_owned(),
            verdict_key: *verdict_key.point(),
            known: Mutex::new(HashMap::new()),
        }
    }

    /// The launch digest of `launch`.
    pub fn digest(&self, launch: &Launch) -> Result<Digest, Reason> {
        if let Some(digest) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(launch) {
            return Ok(*digest);
        }
        let digest = self.compute(launch)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asks for so many different guests waits a little longer.
        if known.len() >= MOST_RESULTS {
            known.clear();
        }
        known.insert(launch.clone(), digest);
        Ok(digest)
    }

    fn compute(&self, launch: &Launch) -> Result<Digest, Reason> {
        let Launch {
            firmware,
            boot,
            vcpus,
            memory,
            low_memory,
            cpu_signature,
            sev_features,
            policy: _,
            first_stage,
        } = launch;
        let wrong = |error: &dyn std::fmt::Display| {
            Reason::new("manifest.launch", format!("no guest can be launched like this: {error}"))
        };
        if *vcpus > MOST_VCPUS {
            return Err(wrong(&format!("{vcpus} virtual CPUs")));
        }
        let high = memory.checked_sub(*low_memory).ok_or_else(|| wrong(&"low_memory is more than memory"))?;
        let firmware = Firmware::parse(self.file("firmware", firmware)?).map_err(|error| wrong(&error))?;
        let profile = match boot {
            Boot::Disk => Profile::Disk,
            Boot::Uki { image, gpa } => {
                let image = Kernel::recognise(self.file("uki", image)?).map_err(|error| wrong(&error))?;
                Profile::Uki { image, gpa: *gpa }
            }
            Boot::Hashes { kernel, initrd, cmdline } => {
                let digest =
                    |text: &str| hash(text).ok_or_else(|| wrong(&"a hash is not 64 hexadecimal digits"));
                let with_nul = [cmdline.as_bytes(), &[0]].concat();
                Profile::HashesOnly(KernelHashes {
                    cmdline: sha256(&with_nul),
                    initrd: digest(initrd)?,
                    kernel: digest(kernel)?,
                })
            }
        };
        let layout = MemoryLayout { low: *low_memory, high };
        let stage = match first_stage {
            Some(stage) if stage.program != program_digest().to_string() => {
                return Err(wrong(&format!(
                    "its first stage is {}, this gate has {}: use cvmm and cvmm-gate of the same version",
                    stage.program,
                    program_digest()
                )));
            }
            Some(_) => Some(FirstStage { verdict_key: Some(self.verdict_key) }),
            None => None,
        };
        let plan = LaunchPlan::build_with(&firmware, &profile, &layout, *vcpus, stage.as_ref())
            .map_err(|error| wrong(&error))?;
        let model =
            VcpuModel { signature: CpuSignature(*cpu_signature), features: SevFeatures(*sev_features) };
        measure(&plan, model, None, &mut ()).map_err(|error| wrong(&error))
    }

    fn file(&self, what: &'static str, wanted: &FileDigest) -> Result<Blob, Reason> {
        let missing = |why: String| {
            Reason::new(
                "gate.artifact",
                format!(
                    "{what} {} is not to be had: {why}; cvmm-gate artifact import puts it there",
                    wanted.sha384
                ),
            )
        };
        // A name from outside: nothing but a digest gets into a path.
        let digest: Digest = wanted
            .sha384
            .parse()
            .map_err(|_| Reason::new("manifest.launch", format!("the {what}'s hash is no SHA-384 value")))?;
        if wanted.len > MAX_ARTIFACT {
            return Err(missing("it is too large".to_owned()));
        }
        let path = self.folder.join(digest.to_string());
        let bytes = files::read(&path, wanted.len).map_err(|error| missing(error.to_string()))?;
        if bytes.len() as u64 != wanted.len || sha384(&bytes) != digest {
            return Err(missing(format!("{} has another content", path.display())));
        }
        Ok(Blob::from_bytes(what, bytes))
    }
}

/// Copies a file into the folder under its hash.
pub fn import(folder: &Path, file: &Path) -> Result<Digest, files::FileError> {
    let bytes = files::read(file, MAX_ARTIFACT)?;
    let digest = sha384(&bytes);
    files::replace(&folder.join(digest.to_string()), &bytes, 0o644)?;
    Ok(digest)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(out)
}

// SPDX-License-Identifier: Apache-2.0
//! From a configuration to the manifest that the gate appraises.
//!
//! Every field of the configuration is one of three things, and the destructuring below does not compile
//! until a new field is classified:
//!
//! - *attested*: in the manifest, whose hash is in HOST_DATA and so in every report of the guest; the gate
//!   appraises it;
//! - *validated*: checked by a rule of this host before anything is launched, and without effect on the
//!   guest's owner;
//! - *harmless*: cannot harm the guest's owner or the host.

use cvmm_gate_protocol::manifest::{
    Boot, Disk, FORMAT, FileDigest, FirstStage, Launch, Machine, Manifest, Vtpm,
};
use cvmm_launch::blob::{Blob, ReadError};
use cvmm_launch::first_stage::program_digest;
use cvmm_launch::hashes::{HashError, KernelHashes};
use cvmm_launch::plan::Profile;
use thiserror::Error;

use crate::config::{self, Config, ConsoleDevice, CpuidTolerance, Isolation};
use crate::inputs::Inputs;

/// Why there is no manifest.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// A file of the launch cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Kernel, initrd or command line.
    #[error(transparent)]
    Hashes(#[from] HashError),
    /// There is no firmware image.
    #[error("a gate cannot measure the guest of an IGVM file")]
    Igvm,
}

/// The manifest of `config`, whose files are `inputs`, for the VM that the gate knows as `vm_id`.
/// `cpu_signature` and `sev_features` are those of its virtual CPUs. Its TPM has no identity in it, which
/// comes when the gate has certified one.
pub fn manifest(
    config: &Config,
    inputs: &Inputs,
    vm_id: &str,
    cpu_signature: u32,
    sev_features: u64,
) -> Result<Manifest, ManifestError> {
    let Config {
        // Attested.
        vcpus,
        memory,
        low_memory,
        isolation,
        first_stage,
        disks,
        console,
        rng,
        snp,
        vtpm,
        debug,
        // Attested by their content, which `inputs` has.
        firmware: _,
        boot: _,
        secure_boot: _,
        // Harmless: a label. What names the VM at the gate is `vm_id`.
        name: _,
        // Harmless: where to ask. Tickets of a different gate are worthless elsewhere.
        gate: _,
    } = config;
    let config::Snp {
        // Attested.
        policy,
        vlek_only,
        cpuid_corrections,
        // Validated: with a gate, the gate makes them.
        identity: _,
        host_data: _,
        // Harmless: certificates verify or they do not, wherever they come from.
        certificates: _,
    } = snp;
    let config::Console {
        // Attested: whether the firmware has a serial port.
        device,
        // Validated: where the host keeps it.
        mode: _,
        path: _,
        // Harmless: how much of it the host keeps.
        max_size: _,
    } = console;
    let keys = inputs.measured.keys.as_ref();
    let keys = keys.map(|keys| Blob::from_bytes("secure boot keys", keys.to_bytes()));
    Ok(Manifest {
        format: FORMAT,
        vm_id: vm_id.to_owned(),
        isolation: match isolation {
            Isolation::None => "none",
            Isolation::Snp => "snp",
        }
        .to_owned(),
        launch: Launch {
            firmware: file(inputs.firmware.as_ref().ok_or(ManifestError::Igvm)?.image())?,
            boot: boot(inputs.profile.as_ref().ok_or(ManifestError::Igvm)?)?,
            vcpus: *vcpus,
            memory: *memory,
            low_memory: *low_memory,
            cpu_signature,
            sev_features,
            policy: *policy,
            first_stage: first_stage.then(|| FirstStage { program: program_digest().to_string() }),
            secure_boot: keys.map(|keys| file(&keys)).transpose()?,
            loader: inputs.measured.loader.clone(),
        },
        machine: Machine {
            vmm: env!("CARGO_PKG_VERSION").to_owned(),
            disks: disks.iter().map(disk).collect(),
            console: match device {
                ConsoleDevice::Serial => "serial",
                ConsoleDevice::Virtio => "virtio",
            }
            .to_owned(),
            rng: *rng,
            vlek_only: *vlek_only,
            cpuid_corrections: match cpuid_corrections {
                CpuidTolerance::Refuse => false,
                CpuidTolerance::Caches => true,
            },
            vtpm: vtpm.as_ref().map(tpm),
            debug: knobs(debug),
        },
    })
}

fn boot(profile: &Profile) -> Result<Boot, ManifestError> {
    Ok(match profile {
        Profile::Uki { image, gpa } => Boot::Uki { image: file(image.blob())?, gpa: *gpa },
        Profile::Hashes { kernel, initrd, cmdline } => {
            let hashes = KernelHashes::compute(kernel.blob(), initrd.as_ref(), cmdline)?;
            Boot::Hashes {
                kernel: hex::encode(hashes.kernel),
                initrd: hex::encode(hashes.initrd),
                cmdline: cmdline.clone(),
            }
        }
        // A VM is never built from hashes alone: there would be nothing to serve.
        Profile::Disk | Profile::HashesOnly(_) => Boot::Disk,
    })
}

fn disk(disk: &config::Disk) -> Disk {
    let config::Disk {
        // Attested.
        serial,
        read_only,
        // Validated: what the host has under that name. The guest has to authenticate what it reads from any
        // disk.
        path: _,
        // Harmless: the guest's own flushes decide about durability, except with "unsafe", by which the host
        // can lose what it could destroy anyway.
        cache: _,
        queues: _,
        // Harmless: whether the content may be what it looks like.
        format: _,
    } = disk;
    Disk { serial: serial.clone(), read_only: *read_only }
}

fn tpm(vtpm: &config::Vtpm) -> Vtpm {
    let config::Vtpm {
        // Attested.
        pcr_banks,
        // Attested: whether there is one, not where.
        state,
        // Harmless: an attacker who takes over cvmm through its tpm gains what the host has already.
        sandbox: _,
        // Harmless: how the guest's bytes reach the tpm, which is the host's in any case.
        coalesced_mmio: _,
        shared_buffer: _,
    } = vtpm;
    Vtpm {
        mode: "in-process".to_owned(),
        pcr_banks: pcr_banks.iter().map(|bank| bank.name().to_owned()).collect(),
        state: state.is_some(),
        identity: None,
    }
}

/// The knobs that are not at their default.
pub(crate) fn knobs(debug: &config::Debug) -> Vec<String> {
    let config::Debug {
        // Attested.
        firmware_console,
        mtrr,
        // Harmless: the marker is only looked for in the console's output.
        user_space_marker: _,
    } = debug;
    [
        ("firmware_console", *firmware_console),
        // Not "mtrr": that was the knob that showed them when they were hidden by default. A policy that
        // allows that one does not allow this one.
        ("mtrr_hidden", !*mtrr),
    ]
    .into_iter()
    .filter(|(_, on)| *on)
    .map(|(name, _)| name.to_owned())
    .collect()
}

fn file(blob: &Blob) -> Result<FileDigest, ReadError> {
    Ok(FileDigest { sha384: blob.sha384()?.to_string(), len: blob.len() })
}

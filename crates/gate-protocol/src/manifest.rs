// SPDX-License-Identifier: Apache-2.0
//! The manifest: what the VMM says it will launch.
//!
//! The gate computes the launch digest from it (with the files, which it finds by their digests) and
//! appraises the rest. Its hash is part of HOST_DATA, so a report of the guest shows with which manifest it
//! was launched. The hash covers the text as sent, so no canonical form is needed.

use serde::{Deserialize, Serialize};

/// The version of this format.
pub const FORMAT: u32 = 1;

/// What will be launched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The VM's name at the gate, 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub vm_id: String,
    /// `snp` or `none`.
    pub isolation: String,
    /// What the launch digest depends on.
    pub launch: Launch,
    /// What the launch digest does not depend on.
    pub machine: Machine,
}

/// What the launch digest depends on, and the guest policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The firmware image.
    pub firmware: FileDigest,
    /// What the firmware boots.
    pub boot: Boot,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// The part of it below 4 GiB, in bytes.
    pub low_memory: u64,
    /// CPUID Fn0000_0001_EAX of the virtual CPUs; it is in their VMSA.
    pub cpu_signature: u32,
    /// SEV_FEATURES of the virtual CPUs.
    pub sev_features: u64,
    /// Guest policy.
    pub policy: u64,
    /// The first stage, if one runs before the firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_stage: Option<FirstStage>,
    /// The file of Secure Boot keys (docs/reference/firmware.md), if the guest has keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<FileDigest>,
    /// The path of the loader on the disks, if the launch names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<String>,
}

/// A first stage. It waits for a ticket of the gate that appraises the launch: the digest is computed with
/// that gate's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstStage {
    /// SHA-384 of its program, 96 hexadecimal digits. VMM and gate have to have the same.
    pub program: String,
}

/// What the firmware boots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "profile", rename_all = "lowercase", deny_unknown_fields)]
pub enum Boot {
    /// A unified kernel image in measured pages.
    Uki {
        /// The image.
        image: FileDigest,
        /// Its address in guest memory.
        gpa: u64,
    },
    /// Hashes in a measured page.
    Hashes {
        /// SHA-256 of the kernel, 64 hexadecimal digits.
        kernel: String,
        /// SHA-256 of the initrd; of nothing, if there is none.
        initrd: String,
        /// The command line, without a NUL.
        cmdline: String,
    },
    /// From a disk; nothing of it is measured.
    Disk,
}

/// A file by its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// SHA-384, 96 hexadecimal digits.
    pub sha384: String,
    /// Length in bytes.
    pub len: u64,
}

/// The machine around the measured part, and the options of the launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Version of the VMM.
    pub vmm: String,
    /// The disks, in their order.
    pub disks: Vec<Disk>,
    /// `serial` or `virtio`.
    pub console: String,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// Whether reports can only be signed with a VLEK.
    pub vlek_only: bool,
    /// Whether corrections of the CPUID page's cache description are accepted.
    pub cpuid_corrections: bool,
    /// The TPM that the VMM gives the guest, if any. It is on the host's side of the boundary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtpm: Option<Vtpm>,
    /// Names of the development options (`debug.*`) that are not at their default; a policy refuses any that
    /// it does not list.
    pub debug: Vec<String>,
}

/// The guest's TPM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vtpm {
    /// `in-process`: in the VMM. `svsm`: in an SVSM.
    pub mode: String,
    /// The active PCR banks: `sha1`, `sha256`, `sha384`, `sha512`.
    pub pcr_banks: Vec<String>,
    /// Whether its state persists from one start to the next, encrypted with a key from the gate.
    #[serde(default, skip_serializing_if = "is_false")]
    pub state: bool,
    /// Which TPM it is, once the gate has certified it. The gate knows it; here it becomes part of HOST_DATA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<TpmIdentity>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A TPM by the names of its keys (TPM 2.0 Library, Part 1, 16: nameAlg and digest of the public area),
/// hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmIdentity {
    /// The RSA endorsement key.
    pub ek_rsa: String,
    /// The elliptic curve endorsement key.
    pub ek_ecc: String,
    /// The attestation key.
    pub ak: String,
    /// The run's epoch.
    pub epoch: u64,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The serial the guest sees.
    pub serial: String,
    /// Whether the guest's writes are refused.
    pub read_only: bool,
}

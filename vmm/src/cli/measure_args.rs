// SPDX-License-Identifier: Apache-2.0
//! The grammar of `cvmm measure`. Options that `sev-snp-measure` has too have its names and meanings.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::digest::Digest;
use cvmm_snp::features::SevFeatures;
use cvmm_snp::policy::GuestPolicy;

/// Predict the launch digest of an SNP guest; explain, save, compare and sign it
///
/// The guest is described by a vm.toml, or by the options of sev-snp-measure (--ovmf, --kernel, ...). The
/// digest depends on the processor that the guest will see, so it must be named.
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("subject").args(["config", "ovmf", "diff"]).required(true),
    group = ArgGroup::new("cpu").args(["vcpu_type", "vcpu_sig", "vcpu_family"]),
    group = ArgGroup::new("output").args(["explain", "json", "output_format"]),
)]
pub(super) struct MeasureArgs {
    /// The virtual machine's description
    #[arg(long, short, value_name = "VM.TOML")]
    pub(super) config: Option<PathBuf>,
    /// Compare two plans and describe the differences: two vm.toml files, or two plans saved with --json
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    pub(super) diff: Option<Vec<PathBuf>>,

    /// What to compute: the launch digest, or the digest after the firmware image alone
    #[arg(long, value_enum, default_value = "snp")]
    pub(super) mode: Mode,
    /// Firmware image
    #[arg(long, value_name = "FILE")]
    pub(super) ovmf: Option<PathBuf>,
    /// Kernel served through fw_cfg; its hash is measured
    #[arg(long, value_name = "FILE", requires = "ovmf")]
    pub(super) kernel: Option<PathBuf>,
    /// Initrd served through fw_cfg
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(super) initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "CMDLINE", requires = "kernel")]
    pub(super) append: Option<String>,
    /// Number of vCPUs; a vm.toml has its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535), conflicts_with_all = ["config", "diff"])]
    pub(super) vcpus: Option<u32>,
    /// Processor by its QEMU name: EPYC-Milan, EPYC-Genoa, ...
    #[arg(long, value_name = "NAME")]
    pub(super) vcpu_type: Option<CpuSignature>,
    /// Processor by CPUID leaf 1, EAX
    #[arg(long, value_name = "NUMBER", value_parser = signature)]
    pub(super) vcpu_sig: Option<CpuSignature>,
    /// Processor by family, model and stepping
    #[arg(long, value_name = "FAMILY", requires_all = ["vcpu_model", "vcpu_stepping"])]
    pub(super) vcpu_family: Option<u32>,
    /// Processor model
    #[arg(long, value_name = "MODEL", requires = "vcpu_family")]
    pub(super) vcpu_model: Option<u32>,
    /// Processor stepping
    #[arg(long, value_name = "STEPPING", requires = "vcpu_family")]
    pub(super) vcpu_stepping: Option<u32>,
    /// SEV_FEATURES of the vCPUs: 0x1, plus 0x20 for debug swap, 0x200 for secure TSC
    #[arg(long, value_name = "NUMBER", default_value = "0x1", value_parser = features)]
    pub(super) guest_features: SevFeatures,
    /// The launcher whose vCPU state is measured
    #[arg(long, value_enum, default_value = "QEMU")]
    pub(super) vmm_type: VmmType,
    /// Digest after the firmware image, instead of reading the image (its tables are still read)
    #[arg(long, value_name = "DIGEST", conflicts_with_all = ["pages", "diff"])]
    pub(super) snp_ovmf_hash: Option<Digest>,

    /// Print every page range with kind, source and running digest, and the VMSA fields
    #[arg(long)]
    pub(super) explain: bool,
    /// Print the plan as JSON (with --diff: the differences)
    #[arg(long)]
    pub(super) json: bool,
    /// Put the hash of every page into the JSON, so that --diff can name pages
    #[arg(long, requires = "json", conflicts_with = "diff")]
    pub(super) pages: bool,
    /// Print what the PCRs of the guest's TPM will be (bank sha256), and why others are not known
    #[arg(long, requires = "config", conflicts_with_all = ["explain", "pages", "write_firmware", "id_block"])]
    pub(super) pcrs: bool,
    /// With --pcrs and profile disk: the program on the disk that the firmware will start
    #[arg(long, value_name = "FILE", requires = "pcrs")]
    pub(super) loader: Option<PathBuf>,
    /// Overwrite existing files with --write-firmware, --write-keys, --write-igvm, --id-block and --id-auth
    #[arg(long)]
    pub(super) force: bool,
    /// Write the firmware image as it is launched: with the first stage in it
    #[arg(long, value_name = "OUT", requires = "config")]
    pub(super) write_firmware: Option<PathBuf>,
    /// Write the guest as an IGVM file, for QEMU and cloud-hypervisor, with its ID block if it has one
    #[arg(long, value_name = "OUT", requires = "config", conflicts_with = "snp_ovmf_hash")]
    pub(super) write_igvm: Option<PathBuf>,
    /// Write the Secure Boot keys as they are measured: one file, which a gate needs (cvmm-gate artifact
    /// import)
    #[arg(long, value_name = "OUT", requires = "config")]
    pub(super) write_keys: Option<PathBuf>,
    /// Form of the digest
    #[arg(long, value_enum, default_value = "hex")]
    pub(super) output_format: OutputFormat,

    /// Write an ID block (96 bytes) for this launch
    #[arg(long, value_name = "OUT", requires = "id_auth", conflicts_with = "diff")]
    pub(super) id_block: Option<PathBuf>,
    /// Write the ID authentication (4096 bytes) that belongs to it
    #[arg(long, value_name = "OUT", requires = "id_block")]
    pub(super) id_auth: Option<PathBuf>,
    /// P-384 private key (PEM) that signs the ID block; without one the block gets a key that no one has
    #[arg(long, value_name = "KEY", requires = "id_block")]
    pub(super) id_key: Option<PathBuf>,
    /// P-384 private key (PEM) that signs the ID key
    #[arg(long, value_name = "KEY", requires = "id_key")]
    pub(super) author_key: Option<PathBuf>,
    /// Guest policy of the ID block; must be that of the launch
    #[arg(long, value_name = "NUMBER", default_value = "0x30000", value_parser = policy)]
    pub(super) policy: GuestPolicy,
    /// Family id of the ID block: 32 hexadecimal digits
    #[arg(long, value_name = "ID", requires = "id_block", value_parser = id)]
    pub(super) family_id: Option<[u8; 16]>,
    /// Image id of the ID block: 32 hexadecimal digits
    #[arg(long, value_name = "ID", requires = "id_block", value_parser = id)]
    pub(super) image_id: Option<[u8; 16]>,
    /// Security version of the guest in the ID block
    #[arg(long, value_name = "N", requires = "id_block", default_value_t = 0)]
    pub(super) guest_svn: u32,
}

/// What to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// The launch digest of an SNP guest
    #[value(name = "snp")]
    Snp,
    /// The digest after the firmware image
    #[value(name = "snp:ovmf-hash")]
    OvmfHash,
}

/// Whose vCPU state is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum VmmType {
    /// QEMU and cvmm
    #[value(name = "QEMU", alias = "cvmm")]
    Qemu,
}

/// Form of the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// 96 hexadecimal digits
    Hex,
    /// 64 characters
    Base64,
}

impl MeasureArgs {
    /// The processor the options name.
    pub(super) fn signature(&self) -> Result<CpuSignature, String> {
        match (self.vcpu_type.or(self.vcpu_sig), self.vcpu_family, self.vcpu_model, self.vcpu_stepping) {
            (Some(signature), ..) => Ok(signature),
            (None, Some(family), Some(model), Some(stepping)) => {
                CpuSignature::from_parts(family, model, stepping).map_err(|error| error.to_string())
            }
            _ => Err("the launch digest depends on the processor the guest sees: add --vcpu-type (such as \
                      EPYC-Milan), --vcpu-sig, or --vcpu-family with --vcpu-model and --vcpu-stepping"
                .to_owned()),
        }
    }
}

/// Decimal, or hexadecimal with `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "must be a number such as 196608 or 0x30000".to_owned())
}

pub(super) fn signature(text: &str) -> Result<CpuSignature, String> {
    u32::try_from(number(text)?).map(CpuSignature).map_err(|_| "must fit into 32 bits".to_owned())
}

fn features(text: &str) -> Result<SevFeatures, String> {
    let features = SevFeatures(number(text)?);
    if !features.contains(SevFeatures::SNP_ACTIVE) {
        return Err("must have bit 0 (SNP active): KVM sets it in every SNP guest".to_owned());
    }
    Ok(features)
}

fn policy(text: &str) -> Result<GuestPolicy, String> {
    GuestPolicy(number(text)?).check().map_err(|error| error.to_string())
}

fn id(text: &str) -> Result<[u8; 16], String> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32 && !text.starts_with('+'));
    number.map(u128::to_be_bytes).ok_or_else(|| "must be 32 hexadecimal digits".to_owned())
}

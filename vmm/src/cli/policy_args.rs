// SPDX-License-Identifier: Apache-2.0
//! The grammar of `cvmm policy`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use cvmm_attest::claims::Product;
use cvmm_policy::import::{self, Format};
use cvmm_snp::cpu::CpuSignature;

use super::output::OutputArgs;
use super::tcb_text::TcbText;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Write a policy that admits the guest of a vm.toml
    Init(InitArgs),
    /// Check a policy and the vm.toml it names; exit code 0 or 2
    Check {
        /// The policy
        file: PathBuf,
        /// Print what was found as JSON
        #[arg(long)]
        json: bool,
    },
    /// Explain the requirements of a policy in sentences, defaults included
    Explain {
        /// The policy
        file: PathBuf,
        /// Print the sentences, the warnings and the whole policy as JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace the vm.toml that a policy names (guest.config) by measured launch digests
    ///
    /// Run it before signing: a gate has no vm.toml, and the signature has to cover what is admitted.
    Resolve {
        /// The policy
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Test a policy against reports; exit code 9 if one of them is not admitted
    Test(TestArgs),
    /// Convert the policy of another program; what cannot be expressed is refused by name
    Import(ImportArgs),
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// The policy to import
    pub(super) file: PathBuf,
    /// The format of the policy
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) from: ImportFormat,
    /// Name of the policy. Default: that of the file
    #[arg(long, value_name = "NAME")]
    pub(super) id: Option<String>,
    /// Processors, if the policy does not name them: milan, genoa or turin
    #[arg(long, value_name = "NAME", value_parser = product)]
    pub(super) product: Option<Product>,
    /// Minimum TCB, if the policy has none: bootloader,tee,snp,microcode; on Turin, the FMC comes first
    #[arg(long, value_name = "NUMBERS", requires = "product")]
    pub(super) tcb: Option<TcbText>,
    /// Take equality with a number as a limit: at least for security versions, at most for the VMPL
    #[arg(long)]
    pub(super) equal_as_limit: bool,
    /// Leave out this field or claim; the result notes it
    #[arg(long, value_name = "NAME")]
    pub(super) leave_out: Vec<String>,
    /// Admit any guest, if the policy has no measurement
    #[arg(long)]
    pub(super) unsafe_any_measurement: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// [`Format`], as an option.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ImportFormat {
    /// check.Policy of go-sev-guest, as text
    GoSevGuest,
    /// Key release policy of Azure Key Vault, version 1.0.0, JSON
    AzureSkr,
}

impl From<ImportFormat> for Format {
    fn from(format: ImportFormat) -> Self {
        match format {
            ImportFormat::GoSevGuest => Self::GoSevGuest,
            ImportFormat::AzureSkr => Self::AzureSkr,
        }
    }
}

fn product(name: &str) -> Result<Product, String> {
    import::product(name).ok_or_else(|| "must be milan, genoa or turin".to_owned())
}

#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("cpu").args(["vcpu_type", "vcpu_sig"]).required(true),
)]
pub(super) struct InitArgs {
    /// The virtual machine's description
    #[arg(long, short, value_name = "VM.TOML")]
    pub(super) config: PathBuf,
    /// Processor by its QEMU name: EPYC-Milan, EPYC-Genoa, ...
    #[arg(long, value_name = "NAME")]
    pub(super) vcpu_type: Option<CpuSignature>,
    /// Processor by CPUID leaf 1, EAX
    #[arg(long, value_name = "NUMBER", value_parser = super::measure_args::signature)]
    pub(super) vcpu_sig: Option<CpuSignature>,
    /// Minimum TCB: bootloader,tee,snp,microcode; on Turin, the FMC comes first. Default: what this host
    /// reports
    #[arg(long, value_name = "NUMBERS")]
    pub(super) tcb: Option<TcbText>,
    /// Name of the policy. Default: that of the VM
    #[arg(long, value_name = "NAME")]
    pub(super) id: Option<String>,
    /// Instead of writing a new policy, admit this guest by an existing one: add its digest, and increase the
    /// version. Nothing else is changed. Sign the file again afterwards
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "tcb", "output", "force"])]
    pub(super) update: Option<PathBuf>,
    /// With --update: remove the existing digests
    #[arg(long, requires = "update")]
    pub(super) replace: bool,
    /// With --update: print the changes as JSON
    #[arg(long, requires = "update")]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(super) struct TestArgs {
    /// The policy
    pub(super) file: PathBuf,
    /// Folder with folders of report.bin, vek.der and, if there is one, crl.der; up to four deep
    pub(super) folder: PathBuf,
    /// Time of the appraisal, in seconds of Unix time. Default: now
    #[arg(long, value_name = "SECONDS")]
    pub(super) at: Option<i64>,
    /// Trust a test PKI in addition to AMD's roots: folder of LINE_ark.der, LINE_ask.der, LINE_asvk.der
    #[arg(long, value_name = "FOLDER")]
    pub(super) test_roots: Option<PathBuf>,
    /// Print the outcomes as JSON
    #[arg(long)]
    pub(super) json: bool,
}

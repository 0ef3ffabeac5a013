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
    /// Say in sentences what a policy wants, its defaults included
    Explain {
        /// The policy
        file: PathBuf,
        /// Print the sentences, the warnings and the whole policy as JSON
        #[arg(long)]
        json: bool,
    },
    /// Put measured launch digests in the place of the vm.toml a policy names (guest.config)
    ///
    /// A gate has no vm.toml, and a signature has to cover what is admitted: so this comes before the policy is signed.
    Resolve {
        /// The policy
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Try a policy on reports; exit code 9 if one of them is not admitted
    Test(TestArgs),
    /// Write the policy of another program as one of the gate; what cannot be said is refused by name
    Import(ImportArgs),
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// The other policy
    pub(super) file: PathBuf,
    /// Whose it is
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) from: ImportFormat,
    /// The policy's name. Default: the file's
    #[arg(long, value_name = "NAME")]
    pub(super) id: Option<String>,
    /// Processors, if the other policy does not name them: milan, genoa or turin
    #[arg(long, value_name = "NAME", value_parser = product)]
    pub(super) product: Option<Product>,
    /// Least TCB, if the other policy has none: bootloader,tee,snp,microcode, on Turin with the FMC before
    #[arg(long, value_name = "NUMBERS", requires = "product")]
    pub(super) tcb: Option<TcbText>,
    /// Take equality with a number as a limit: at least for security versions, at most for the VMPL
    #[arg(long)]
    pub(super) equal_as_limit: bool,
    /// Leave out this field or claim; the result says so
    #[arg(long, value_name = "NAME")]
    pub(super) leave_out: Vec<String>,
    /// Admit any guest, if the other policy has no measurement
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
    /// Least TCB: bootloader,tee,snp,microcode, on Turin with the FMC before. Default: what this host reports
    #[arg(long, value_name = "NUMBERS")]
    pub(super) tcb: Option<TcbText>,
    /// The policy's name. Default: the VM's
    #[arg(long, value_name = "NAME")]
    pub(super) id: Option<String>,
    /// Instead of writing a new policy, admit this guest by an existing one: adds the digest beside those that are there and
    /// increases the version. Nothing else is changed. Sign the file again afterwards
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "tcb", "output", "force"])]
    pub(super) update: Option<PathBuf>,
    /// With --update: take out the digests that are there
    #[arg(long, requires = "update")]
    pub(super) replace: bool,
    /// With --update: say as JSON what was changed
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
    /// The time to judge at, in seconds of Unix time. Default: now
    #[arg(long, value_name = "SECONDS")]
    pub(super) at: Option<i64>,
    /// Trust a test PKI in addition to AMD's roots: folder of LINE_ark.der, LINE_ask.der, LINE_asvk.der
    #[arg(long, value_name = "FOLDER")]
    pub(super) test_roots: Option<PathBuf>,
    /// Print the outcomes as JSON
    #[arg(long)]
    pub(super) json: bool,
}

// SPDX-License-Identifier: Apache-2.0
//! The grammar of `cvmm policy`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use cvmm_snp::cpu::CpuSignature;

use crate::exit_code::ExitStatus;
use crate::policy::TcbText;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Write a policy that admits the guest of a vm.toml
    Init(InitArgs),
    /// Check a policy; exit code 0 or 2
    Check {
        /// The policy
        file: PathBuf,
    },
    /// Say in sentences what a policy wants, its defaults included
    Explain {
        /// The policy
        file: PathBuf,
    },
    /// Try a policy on reports; exit code 9 if one of them is not admitted
    Test(TestArgs),
}

#[derive(Args, Debug)]
#[command(
    after_help = ExitStatus::table(),
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
    /// Write it there instead of to standard output
    #[arg(long, short, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = ExitStatus::table())]
pub(super) struct TestArgs {
    /// The policy
    pub(super) file: PathBuf,
    /// Folder with folders of report.bin, vek.der and, if there is one, crl.der
    pub(super) folder: PathBuf,
    /// The time to judge at, in seconds of Unix time. Default: now
    #[arg(long, value_name = "SECONDS")]
    pub(super) at: Option<i64>,
    /// Believe a test PKI besides AMD's roots: folder of LINE_ark.der, LINE_ask.der, LINE_asvk.der
    #[arg(long, value_name = "FOLDER")]
    pub(super) test_roots: Option<PathBuf>,
    /// Print the outcomes as JSON
    #[arg(long)]
    pub(super) json: bool,
}

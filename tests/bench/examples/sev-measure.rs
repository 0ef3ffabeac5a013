// SPDX-License-Identifier: Apache-2.0
//! The peer of `scripts/bench measure`: the launch digest by the `sev` crate, in as little program as it
//! takes.
//!
//! Reads its arguments by hand, so that what is measured is the crate and not an option parser.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};

#[expect(clippy::print_stdout, reason = "a command-line tool's result")]
fn main() -> Result<()> {
    let (mut ovmf, mut kernel, mut initrd, mut append) = (None, None, None, None);
    let (mut vcpus, mut vcpu_type) = (1, None);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--ovmf" => ovmf = Some(PathBuf::from(value)),
            "--kernel" => kernel = Some(PathBuf::from(value)),
            "--initrd" => initrd = Some(PathBuf::from(value)),
            "--append" => append = Some(value),
            "--vcpus" => vcpus = value.parse().context("--vcpus")?,
            "--vcpu-type" => vcpu_type = Some(CpuType::try_from(value.as_str()).context("--vcpu-type")?),
            _ => bail!("unknown option {option}"),
        }
    }
    let digest = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus,
        vcpu_type: vcpu_type.context("--vcpu-type is missing")?,
        ovmf_file: ovmf.context("--ovmf is missing")?,
        guest_features: GuestFeatures(1),
        kernel_file: kernel,
        initrd_file: initrd,
        append: append.as_deref(),
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    })
    .context("the sev crate")?;
    println!("{}", digest.get_hex_ld());
    Ok(())
}

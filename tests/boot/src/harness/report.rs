// SPDX-License-Identifier: Apache-2.0
//! The guest's attestation report, and the digest that `cvmm measure` predicts. Offsets: SEV-SNP firmware
//! ABI, table "ATTESTATION_REPORT Structure"; a second time beside cvmm's own, on purpose.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use super::vm::Ended;
use super::{Ctx, Spec};

/// The processor of the emulated host.
const PROCESSOR: &str = "EPYC-Milan";

/// A report as hexadecimal digits.
#[derive(Debug)]
pub struct Report(String);

impl Report {
    /// The one on the guest's console.
    pub fn of(ended: &Ended) -> Result<Self> {
        Self::on(&ended.console)
    }

    /// The one on a console.
    pub fn on(console: &str) -> Result<Self> {
        let facts = super::vm::facts(console);
        let digits = facts.get("report").copied().context("the guest printed no report")?.to_owned();
        ensure!(
            digits.len() >= 2 * 0x4a0 && digits.bytes().all(|b| b.is_ascii_hexdigit()),
            "no report: {digits:?}"
        );
        Ok(Self(digits))
    }

    /// As the gate takes it.
    pub fn base64(&self) -> Result<String> {
        let digits = &self.0[..2 * 0x4a0];
        let bytes: Result<Vec<u8>, _> =
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16)).collect();
        Ok(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes?))
    }

    fn part(&self, at: usize, len: usize) -> &str {
        &self.0[2 * at..2 * (at + len)]
    }

    /// Guest policy.
    pub fn policy(&self) -> Result<u64> {
        Ok(u64::from_str_radix(self.part(0x8, 8), 16)?.swap_bytes())
    }

    /// VMPL that asked.
    pub fn vmpl(&self) -> Result<u32> {
        Ok(u32::from_str_radix(self.part(0x30, 4), 16)?.swap_bytes())
    }

    /// What the guest put in.
    pub fn report_data(&self) -> &str {
        self.part(0x50, 64)
    }

    /// Launch digest.
    pub fn measurement(&self) -> &str {
        self.part(0x90, 48)
    }

    /// HOST_DATA.
    pub fn host_data(&self) -> &str {
        self.part(0xc0, 32)
    }

    /// Digest of the ID key.
    pub fn id_key_digest(&self) -> &str {
        self.part(0xe0, 48)
    }
}

/// `cvmm measure --json` for `spec`: the plan.
pub fn listing(ctx: &Ctx, spec: &Spec) -> Result<serde_json::Value> {
    let output = run_measure(ctx, spec, &["--json"])?;
    ensure!(output.status.success(), "cvmm measure --json: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn run_measure(ctx: &Ctx, spec: &Spec, arguments: &[&str]) -> Result<Output> {
    let config = ctx.own_file("measure", ctx.next_number(), "toml");
    fs::write(&config, spec.toml(&ctx.path("console.log")))?;
    let mut command = Command::new(&ctx.cvmm);
    command.args(["measure", "--vcpu-type", PROCESSOR, "--config"]).arg(&config).args(arguments);
    command.output().context("start cvmm measure")
}

/// `cvmm measure` for `spec` with further arguments; the digest.
pub fn measure(ctx: &Ctx, spec: &Spec, arguments: &[&str]) -> Result<String> {
    let output = run_measure(ctx, spec, arguments)?;
    // With an ID block the digests of its keys follow.
    let digest = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    ensure!(
        output.status.success() && digest.len() == 96,
        "cvmm measure ended with {}: {digest} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(digest)
}

/// `spec` with an ID block that `cvmm measure` made for it.
pub fn with_id_block(ctx: &Ctx, spec: &Spec) -> Result<Spec> {
    let (block, auth) = (ctx.path("id-block.bin"), ctx.path("id-auth.bin"));
    let (block, auth) = (block.to_string_lossy(), auth.to_string_lossy());
    let policy = spec.snp.iter().find(|(key, _)| *key == "policy").map(|(_, value)| value.as_str());
    let policy = policy.unwrap_or("0x30000");
    // A case may make the blocks of several guests, one after the other.
    measure(ctx, spec, &["--id-block", &block, "--id-auth", &auth, "--policy", policy, "--force"])?;
    let quoted = super::spec::quoted;
    Ok(spec.clone().with_snp("id_block", quoted(&block)).with_snp("id_auth", quoted(&auth)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_the_table_has_them() {
        let mut bytes = vec![0_u8; 0x4a0];
        bytes[0x8..0x10].copy_from_slice(&0x3_0000_u64.to_le_bytes());
        bytes[0x30] = 1;
        bytes[0x90..0xc0].fill(0xab);
        bytes[0xc0..0xe0].fill(0xcd);
        bytes[0xe0] = 0xef;
        let report = Report(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        assert_eq!((report.policy().unwrap(), report.vmpl().unwrap()), (0x3_0000, 1));
        assert_eq!(report.measurement(), "ab".repeat(48));
        assert_eq!(report.host_data(), "cd".repeat(32));
        assert!(report.id_key_digest().starts_with("ef00") && report.id_key_digest().len() == 96);
        assert_eq!(report.report_data(), "00".repeat(64));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! SNP_PLATFORM_STATUS, as the host hands it on (firmware ABI 8.3, "STRUCT_PLATFORM_STATUS").

use cvmm_attest::claims::{FirmwareVersion, Product};
use cvmm_attest::policy::{EvidenceClass, PlatformFacts};
use cvmm_reason::Reason;
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::tcb::TcbVersion;

use super::one;

/// What it says, for the policy. The processor is the one that the virtual CPUs are of, which the launch digest has in it.
pub(super) fn facts(
    status: &[u8],
    cpu_signature: u32,
    class: EvidenceClass,
) -> Result<PlatformFacts, Vec<Reason>> {
    let status: &[u8; 32] =
        status.try_into().map_err(|_| one("evidence.format", "platform_status has not 32 bytes"))?;
    let [major, minor, state, _, build, ..] = *status;
    if state != 1 {
        return Err(one("evidence.platform", "the host's security processor is not initialised for SNP"));
    }
    let signature = CpuSignature(cpu_signature);
    let product = Product::from_signature(signature);
    let reported: [u8; 8] = status.last_chunk().copied().unwrap_or_default();
    Ok(PlatformFacts {
        class,
        product,
        firmware: FirmwareVersion { major, minor, build },
        reported_tcb: product.and_then(|product| TcbVersion(reported).parts(product.layout())),
    })
}

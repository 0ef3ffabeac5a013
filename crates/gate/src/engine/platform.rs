// SPDX-License-Identifier: Apache-2.0
//! SNP_PLATFORM_STATUS, as the host sends it (firmware ABI, "STRUCT_PLATFORM_STATUS").

use cvmm_attest::claims::{FirmwareVersion, Product};
use cvmm_policy::{EvidenceClass, PlatformFacts};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::tcb::TcbVersion;

use crate::reasons::{Code, Denial};

/// Bytes of the structure.
const STATUS_LEN: usize = 32;
/// Its state when SNP is initialised.
const INITIALISED: u8 = 1;

/// The platform as the policy sees it. The product follows from the virtual CPUs' signature, which is in the launch digest.
pub(super) fn facts(
    status: &[u8],
    cpu_signature: u32,
    class: EvidenceClass,
) -> Result<PlatformFacts, Denial> {
    let status: &[u8; STATUS_LEN] = status
        .try_into()
        .or_else(|_| Code::EvidenceFormat.deny(format!("platform_status has to have {STATUS_LEN} bytes")))?;
    let [major, minor, state, _, build, ..] = *status;
    if state != INITIALISED {
        return Code::EvidencePlatform.deny("the host's security processor is not initialised for SNP");
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

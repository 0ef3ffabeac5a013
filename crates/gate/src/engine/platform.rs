// SPDX-License-Identifier: Apache-2.0
//! SNP_PLATFORM_STATUS, as the host sends it (firmware ABI, "STRUCT_PLATFORM_STATUS").

use cvmm_attest::claims::{FirmwareVersion, Product};
use cvmm_policy::{EvidenceClass, PlatformFacts};
use cvmm_snp::cpu::CpuSignature;
use cvmm_snp::platform::PlatformStatus;

use crate::reasons::{Code, Denial};

/// Bytes of the structure.
const STATUS_LEN: usize = size_of::<PlatformStatus>();

/// The platform as the policy sees it. The product follows from the virtual CPUs' signature, which is in the
/// launch digest.
pub(super) fn facts(
    status: &[u8],
    cpu_signature: u32,
    class: EvidenceClass,
) -> Result<PlatformFacts, Denial> {
    let status: &[u8; STATUS_LEN] = status
        .try_into()
        .or_else(|_| Code::EvidenceFormat.deny(format!("platform_status has to have {STATUS_LEN} bytes")))?;
    let status = PlatformStatus::from(*status);
    if !status.is_initialized() {
        return Code::EvidencePlatform.deny("the host's security processor is not initialised for SNP");
    }
    let signature = CpuSignature(cpu_signature);
    let product = Product::from_signature(signature);
    Ok(PlatformFacts {
        class,
        product,
        firmware: FirmwareVersion {
            major: status.api_major,
            minor: status.api_minor,
            // Reports have 8 bits for it. A larger one is at least that.
            build: u8::try_from(status.build.get()).unwrap_or(u8::MAX),
        },
        reported_tcb: product.and_then(|product| status.reported_tcb.parts(product.layout())),
    })
}

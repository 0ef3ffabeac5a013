// SPDX-License-Identifier: Apache-2.0
//! The keys of a vTPM's identity: two endorsement keys by the TCG's profile, and cvmm's attestation key.

use crate::constants::{curve, object};
use crate::hash::HashAlg;
use crate::public::{Key, Public, Scheme, Symmetric};

/// PolicyA with SHA-256: PolicySecret(TPM_RH_ENDORSEMENT) (TCG EK Credential Profile 2.5, B.6.2).
const POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// PolicyB with SHA-384: PolicyOR of PolicyA and of the policy in an NV index (B.6.4).
const POLICY_B_SHA384: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07,
    0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47,
    0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

const FIXED: u32 = object::FIXED_TPM | object::FIXED_PARENT | object::SENSITIVE_DATA_ORIGIN;

/// Template L-1 of the EK Credential Profile: RSA-2048, used with PolicyA only.
#[must_use]
pub fn ek_rsa() -> Public {
    Public {
        name_alg: HashAlg::Sha256,
        attributes: FIXED | object::ADMIN_WITH_POLICY | object::RESTRICTED | object::DECRYPT,
        auth_policy: POLICY_A_SHA256.to_vec(),
        key: Key::Rsa {
            symmetric: Some(Symmetric { bits: 128 }),
            scheme: Scheme::Null,
            bits: 2048,
            exponent: 0,
            modulus: vec![0; 256],
        },
    }
}

/// Template H-3: P-384, used with the endorsement hierarchy's authorisation of the key, which is empty, or
/// with PolicyB.
#[must_use]
pub fn ek_ecc() -> Public {
    Public {
        name_alg: HashAlg::Sha384,
        attributes: FIXED
            | object::USER_WITH_AUTH
            | object::ADMIN_WITH_POLICY
            | object::RESTRICTED
            | object::DECRYPT,
        auth_policy: POLICY_B_SHA384.to_vec(),
        key: Key::Ecc {
            symmetric: Some(Symmetric { bits: 256 }),
            scheme: Scheme::Null,
            curve: curve::NIST_P384,
            x: Vec::new(),
            y: Vec::new(),
        },
    }
}

/// The attestation key: P-384, restricted, so that it signs only what the TPM made.
#[must_use]
pub fn ak() -> Public {
    Public {
        name_alg: HashAlg::Sha384,
        attributes: FIXED
            | object::USER_WITH_AUTH
            | object::NO_DA
            | object::RESTRICTED
            | object::SIGN_ENCRYPT,
        auth_policy: Vec::new(),
        key: Key::Ecc {
            symmetric: None,
            scheme: Scheme::Ecdsa(HashAlg::Sha384),
            curve: curve::NIST_P384,
            x: Vec::new(),
            y: Vec::new(),
        },
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Constants of the specification, by its names. Table numbers refer to part 2.

/// `TPM_ALG_ID` (table 9, and the TCG Algorithm Registry, table 3).
pub mod alg {
    #![allow(missing_docs)] // the specification's names
    pub const RSA: u16 = 0x0001;
    pub const SHA1: u16 = 0x0004;
    pub const AES: u16 = 0x0006;
    pub const KEYEDHASH: u16 = 0x0008;
    pub const SHA256: u16 = 0x000b;
    pub const SHA384: u16 = 0x000c;
    pub const SHA512: u16 = 0x000d;
    pub const NULL: u16 = 0x0010;
    pub const SM3_256: u16 = 0x0012;
    pub const RSASSA: u16 = 0x0014;
    pub const RSAES: u16 = 0x0015;
    pub const RSAPSS: u16 = 0x0016;
    pub const OAEP: u16 = 0x0017;
    pub const ECDSA: u16 = 0x0018;
    pub const ECDH: u16 = 0x0019;
    pub const ECC: u16 = 0x0023;
    pub const SHA3_256: u16 = 0x0027;
    pub const SHA3_384: u16 = 0x0028;
    pub const SHA3_512: u16 = 0x0029;
    pub const CFB: u16 = 0x0043;
}

/// `TPM_ECC_CURVE` (table 10).
pub mod curve {
    #![allow(missing_docs)] // the specification's names
    pub const NIST_P256: u16 = 0x0003;
    pub const NIST_P384: u16 = 0x0004;
    pub const NIST_P521: u16 = 0x0005;
}

/// `TPM_CC` (table 12).
pub mod cc {
    #![allow(missing_docs)] // the specification's names
    pub const NV_UNDEFINE_SPACE_SPECIAL: u32 = 0x11f;
    pub const EVICT_CONTROL: u32 = 0x120;
    pub const NV_UNDEFINE_SPACE: u32 = 0x122;
    pub const CLEAR: u32 = 0x126;
    pub const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
    pub const NV_DEFINE_SPACE: u32 = 0x12a;
    pub const PCR_ALLOCATE: u32 = 0x12b;
    pub const CREATE_PRIMARY: u32 = 0x131;
    pub const NV_INCREMENT: u32 = 0x134;
    pub const NV_WRITE: u32 = 0x137;
    pub const NV_WRITE_LOCK: u32 = 0x138;
    pub const PCR_EVENT: u32 = 0x13c;
    pub const PCR_RESET: u32 = 0x13d;
    pub const SELF_TEST: u32 = 0x143;
    pub const STARTUP: u32 = 0x144;
    pub const SHUTDOWN: u32 = 0x145;
    pub const STIR_RANDOM: u32 = 0x146;
    pub const ACTIVATE_CREDENTIAL: u32 = 0x147;
    pub const NV_READ: u32 = 0x14e;
    pub const POLICY_SECRET: u32 = 0x151;
    pub const CREATE: u32 = 0x153;
    pub const LOAD: u32 = 0x157;
    pub const QUOTE: u32 = 0x158;
    pub const UNSEAL: u32 = 0x15e;
    pub const CONTEXT_LOAD: u32 = 0x161;
    pub const CONTEXT_SAVE: u32 = 0x162;
    pub const FLUSH_CONTEXT: u32 = 0x165;
    pub const MAKE_CREDENTIAL: u32 = 0x168;
    pub const NV_READ_PUBLIC: u32 = 0x169;
    pub const POLICY_AUTH_VALUE: u32 = 0x16b;
    pub const POLICY_COMMAND_CODE: u32 = 0x16c;
    pub const POLICY_OR: u32 = 0x171;
    pub const READ_PUBLIC: u32 = 0x173;
    pub const START_AUTH_SESSION: u32 = 0x176;
    pub const GET_CAPABILITY: u32 = 0x17a;
    pub const GET_RANDOM: u32 = 0x17b;
    pub const GET_TEST_RESULT: u32 = 0x17c;
    pub const HASH: u32 = 0x17d;
    pub const PCR_READ: u32 = 0x17e;
    pub const POLICY_PCR: u32 = 0x17f;
    pub const POLICY_RESTART: u32 = 0x180;
    pub const READ_CLOCK: u32 = 0x181;
    pub const PCR_EXTEND: u32 = 0x182;
    pub const POLICY_GET_DIGEST: u32 = 0x189;
    pub const TEST_PARMS: u32 = 0x18a;
    pub const CREATE_LOADED: u32 = 0x191;
}

/// `TPM_RC` (tables 15 to 17), those that are used here.
pub mod rc {
    #![allow(missing_docs)] // the specification's names
    pub const SUCCESS: u32 = 0;
    /// TPM2_Startup was sent already, or not yet.
    pub const INITIALIZE: u32 = 0x100;
    /// The TPM is in failure mode.
    pub const FAILURE: u32 = 0x101;
    /// The size field does not match the length of the command, or is too large.
    pub const COMMAND_SIZE: u32 = 0x142;
    /// In format one: the parameter, handle or session is in other bits, which [`base`](super::rc_base) takes
    /// away.
    pub const VALUE: u32 = 0x84;
    pub const HANDLE: u32 = 0x8b;
    pub const INTEGRITY: u32 = 0x9f;
    /// The TPM could not start the command; submit it again.
    pub const RETRY: u32 = 0x922;
    pub const NV_DEFINED: u32 = 0x14c;
}

/// A response code without the number of the parameter, handle or session (part 2, 6.6.2): comparable with
/// those of [`rc`].
#[must_use]
pub fn rc_base(code: u32) -> u32 {
    if code & 0x80 != 0 { code & 0xbf } else { code }
}

/// `TPM_ST` (table 19).
pub mod st {
    #![allow(missing_docs)] // the specification's names
    pub const NO_SESSIONS: u16 = 0x8001;
    pub const SESSIONS: u16 = 0x8002;
    pub const ATTEST_NV: u16 = 0x8014;
    pub const ATTEST_COMMAND_AUDIT: u16 = 0x8015;
    pub const ATTEST_SESSION_AUDIT: u16 = 0x8016;
    pub const ATTEST_CERTIFY: u16 = 0x8017;
    pub const ATTEST_QUOTE: u16 = 0x8018;
    pub const ATTEST_TIME: u16 = 0x8019;
    pub const ATTEST_CREATION: u16 = 0x801a;
}

/// `TPM_SU` (table 20).
pub mod su {
    #![allow(missing_docs)] // the specification's names
    pub const CLEAR: u16 = 0;
    pub const STATE: u16 = 1;
}

/// `TPM_SE` (table 21).
pub mod se {
    #![allow(missing_docs)] // the specification's names
    pub const HMAC: u8 = 0;
    pub const POLICY: u8 = 1;
    pub const TRIAL: u8 = 3;
}

/// `TPM_CAP` (table 22).
pub mod cap {
    #![allow(missing_docs)] // the specification's names
    pub const HANDLES: u32 = 1;
    pub const PCRS: u32 = 5;
    pub const TPM_PROPERTIES: u32 = 6;
}

/// `TPM_RH` (table 28).
pub mod rh {
    #![allow(missing_docs)] // the specification's names
    pub const OWNER: u32 = 0x4000_0001;
    pub const NULL: u32 = 0x4000_0007;
    /// Not a hierarchy: the session whose authorisation is a password.
    pub const PW: u32 = 0x4000_0009;
    pub const LOCKOUT: u32 = 0x4000_000a;
    pub const ENDORSEMENT: u32 = 0x4000_000b;
    pub const PLATFORM: u32 = 0x4000_000c;
}

/// `TPMA_OBJECT` (table 31).
pub mod object {
    #![allow(missing_docs)] // the specification's names
    pub const FIXED_TPM: u32 = 1 << 1;
    pub const ST_CLEAR: u32 = 1 << 2;
    pub const FIXED_PARENT: u32 = 1 << 4;
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    pub const NO_DA: u32 = 1 << 10;
    pub const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
    pub const RESTRICTED: u32 = 1 << 16;
    pub const DECRYPT: u32 = 1 << 17;
    pub const SIGN_ENCRYPT: u32 = 1 << 18;
}

/// `TPMA_SESSION` (table 32).
pub mod session {
    #![allow(missing_docs)] // the specification's names
    pub const CONTINUE: u8 = 1;
}

/// `TPMA_NV` (table 204).
pub mod nv {
    #![allow(missing_docs)] // the specification's names
    pub const PPWRITE: u32 = 1 << 0;
    pub const OWNERWRITE: u32 = 1 << 1;
    pub const AUTHWRITE: u32 = 1 << 2;
    pub const WRITELOCKED: u32 = 1 << 11;
    pub const WRITEDEFINE: u32 = 1 << 13;
    pub const PPREAD: u32 = 1 << 16;
    pub const OWNERREAD: u32 = 1 << 17;
    pub const AUTHREAD: u32 = 1 << 18;
    pub const NO_DA: u32 = 1 << 25;
    pub const WRITTEN: u32 = 1 << 29;
    pub const PLATFORMCREATE: u32 = 1 << 30;
}

/// `TPM_GENERATED_VALUE` (table 8): marks structures that the TPM itself made. A restricted key signs no data
/// from outside that begins with it.
pub const GENERATED: u32 = 0xff54_4347;

/// PCRs of the PC Client platform.
pub const PCRS: u8 = 24;

/// Handles and NV indices of a TPM's identity. Those of EKs are the ones of the TCG EK Credential Profile 2.5
/// and swtpm.
pub mod place {
    /// Persistent handle of the attestation key.
    pub const AK: u32 = 0x8181_0000;
    /// NV index of its certificate.
    pub const AK_CERTIFICATE: u32 = 0x01c1_0002;
    /// Persistent handle of the RSA-2048 endorsement key.
    pub const EK_RSA: u32 = 0x8101_0001;
    /// NV index of its certificate.
    pub const EK_RSA_CERTIFICATE: u32 = 0x01c0_0002;
    /// Persistent handle of the P-384 endorsement key.
    pub const EK_ECC: u32 = 0x8101_0016;
    /// NV index of its certificate.
    pub const EK_ECC_CERTIFICATE: u32 = 0x01c0_0016;
    /// NV index of the platform certificate.
    pub const PLATFORM_CERTIFICATE: u32 = 0x01c0_8000;
}

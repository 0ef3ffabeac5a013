// SPDX-License-Identifier: Apache-2.0
//! The header of commands and responses, the codes used here, and which commands are short.
//!
//! Big-endian: tag u16, size u32 (header included), then command code or response code u32 (TPM 2.0 library,
//! part 1, "Command/Response Structure").

pub use cvmm_tpm::constants::{cc, rc};

/// Bytes of a header.
pub const HEADER: usize = 10;

/// Size of the CRB's buffer in bytes, and so the buffer size of the engine (`TPM2_PT_MAX_COMMAND_SIZE`).
pub const CRB_BUFFER: u32 = 3968;

/// The first ten bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `TPM_ST_NO_SESSIONS` or `TPM_ST_SESSIONS`, if the header is valid.
    pub tag: u16,
    /// Size of the command or response, header included, if the header is valid.
    pub size: u32,
    /// Command code or response code.
    pub code: u32,
}

impl Header {
    /// Reads a header. Does not check its fields.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first_chunk::<2>()?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let (code, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            tag: u16::from_be_bytes(*tag),
            size: u32::from_be_bytes(*size),
            code: u32::from_be_bytes(*code),
        })
    }
}

/// Whether a command takes microseconds, so that it may run on a vCPU's thread: no public-key operation, no
/// self-test, normally no write of the state. Unknown commands are long.
pub fn is_short(command: &[u8]) -> bool {
    let Some(header) = Header::parse(command) else { return true }; // refused at once
    // Sessions may be salted or bound, but that cost was paid when they began.
    match header.code {
        cc::GET_CAPABILITY
        | cc::GET_RANDOM
        | cc::GET_TEST_RESULT
        | cc::HASH
        | cc::PCR_READ
        | cc::PCR_EXTEND
        | cc::PCR_EVENT
        | cc::PCR_RESET
        | cc::NV_READ
        | cc::NV_READ_PUBLIC
        | cc::READ_PUBLIC
        | cc::READ_CLOCK
        | cc::FLUSH_CONTEXT
        | cc::CONTEXT_SAVE
        | cc::CONTEXT_LOAD
        | cc::UNSEAL
        | cc::POLICY_AUTH_VALUE
        | cc::POLICY_COMMAND_CODE
        | cc::POLICY_OR
        | cc::POLICY_PCR
        | cc::POLICY_RESTART
        | cc::POLICY_GET_DIGEST
        | cc::STIR_RANDOM
        | cc::TEST_PARMS => true,
        // With a salt the TPM decrypts it with a key: tpmKey is not TPM_RH_NULL.
        cc::START_AUTH_SESSION => command.get(HEADER..HEADER + 4) == Some(&[0x40, 0, 0, 7]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_big_endian_and_only_when_whole() {
        let bytes = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
        assert_eq!(
            Header::parse(&bytes),
            Some(Header { tag: cvmm_tpm::constants::st::NO_SESSIONS, size: 12, code: cc::STARTUP })
        );
        for len in 0..HEADER {
            assert_eq!(Header::parse(&bytes[..len]), None);
        }
    }

    #[test]
    fn a_salted_session_and_a_key_are_long_and_a_capability_is_short() {
        let command = |code: u32, rest: &[u8]| {
            let mut bytes = vec![0x80, 1, 0, 0, 0, 0];
            bytes.extend_from_slice(&code.to_be_bytes());
            bytes.extend_from_slice(rest);
            bytes
        };
        assert!(is_short(&command(cc::GET_CAPABILITY, &[])));
        assert!(is_short(&command(cc::START_AUTH_SESSION, &[0x40, 0, 0, 7])));
        assert!(!is_short(&command(cc::START_AUTH_SESSION, &[0x80, 0, 0, 1])));
        assert!(!is_short(&command(cc::START_AUTH_SESSION, &[])));
        assert!(!is_short(&command(cc::CREATE_PRIMARY, &[])));
        assert!(!is_short(&command(cc::NV_WRITE, &[])));
        assert!(!is_short(&command(0x2000_0000, &[])));
        assert!(is_short(&[1, 2, 3]));
    }
}

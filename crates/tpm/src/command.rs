// SPDX-License-Identifier: Apache-2.0
//! Commands (part 1, 18): a header, handles, authorisations, parameters.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::constants::{rh, session, st};
use crate::pcr::{Selections, write_selections};
use crate::public::{Public, Scheme};
use crate::wire::Writer;

/// Longest command in bytes.
pub const MAX_COMMAND: usize = 4096;

/// A command that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The command is too long.
    #[error("command {code:#x} would have more than {MAX_COMMAND} bytes")]
    TooLong {
        /// The command code.
        code: u32,
    },
}

/// A command.
///
/// Handles, authorisations and parameters each come in the order in which they are added.
#[derive(Debug)]
pub struct Command {
    code: u32,
    handles: Vec<u32>,
    auths: Zeroizing<Vec<u8>>,
    parameters: Writer,
    overlong: bool,
}

impl Command {
    /// A command with this [code](crate::constants::cc).
    #[must_use]
    pub fn new(code: u32) -> Self {
        Self {
            code,
            handles: Vec::new(),
            auths: Zeroizing::default(),
            parameters: Writer::new(),
            overlong: false,
        }
    }

    /// Adds a handle.
    #[must_use]
    pub fn handle(mut self, handle: u32) -> Self {
        self.handles.push(handle);
        self
    }

    /// Authorises the next handle that needs it with a password, which may be empty (TPM_RS_PW).
    #[must_use]
    pub fn password(self, password: &[u8]) -> Self {
        self.auth(rh::PW, 0, password)
    }

    /// Authorises the next handle that needs it with a policy session that has no key, needs no value and
    /// stays open.
    #[must_use]
    pub fn policy(self, handle: u32) -> Self {
        self.auth(handle, session::CONTINUE, &[])
    }

    /// A TPMS_AUTH_COMMAND (part 2, table 132) without nonce.
    fn auth(mut self, handle: u32, attributes: u8, hmac: &[u8]) -> Self {
        let Ok(len) = u16::try_from(hmac.len()) else {
            self.overlong = true;
            return self;
        };
        self.auths.extend_from_slice(&handle.to_be_bytes());
        self.auths.extend_from_slice(&[0, 0, attributes]);
        self.auths.extend_from_slice(&len.to_be_bytes());
        self.auths.extend_from_slice(hmac);
        self
    }

    /// Adds a parameter of 8 bits.
    #[must_use]
    pub fn u8(self, value: u8) -> Self {
        self.with(|writer| {
            writer.u8(value);
        })
    }

    /// Adds a parameter of 16 bits.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.with(|writer| {
            writer.u16(value);
        })
    }

    /// Adds a parameter of 32 bits.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.with(|writer| {
            writer.u32(value);
        })
    }

    /// Adds bytes without a length.
    #[must_use]
    pub fn raw(self, bytes: &[u8]) -> Self {
        self.with(|writer| {
            writer.raw(bytes);
        })
    }

    /// Adds a TPM2B.
    #[must_use]
    pub fn sized(self, bytes: &[u8]) -> Self {
        self.with(|writer| {
            writer.sized(bytes);
        })
    }

    /// Adds a TPM2B with what `fill` writes.
    #[must_use]
    pub fn nested(self, fill: impl FnOnce(&mut Writer)) -> Self {
        self.with(|writer| {
            writer.nested(fill);
        })
    }

    /// Adds a TPM2B_PUBLIC.
    #[must_use]
    pub fn public(self, public: &Public) -> Self {
        self.nested(|writer| public.write(writer))
    }

    /// Adds a TPML_PCR_SELECTION.
    #[must_use]
    pub fn pcrs(self, selections: &Selections) -> Self {
        self.with(|writer| write_selections(writer, selections))
    }

    /// Adds parameters that have no method here.
    #[must_use]
    pub fn with(mut self, fill: impl FnOnce(&mut Writer)) -> Self {
        fill(&mut self.parameters);
        self
    }

    /// The encoded command.
    pub fn build(self) -> Result<Zeroizing<Vec<u8>>, CommandError> {
        let handles: Vec<u8> = self.handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        let sessions = !self.auths.is_empty();
        let parameters = self.parameters.bytes();
        let size = 10 + handles.len() + if sessions { 4 } else { 0 } + self.auths.len() + parameters.len();
        let too_long = CommandError::TooLong { code: self.code };
        if self.overlong || self.parameters.is_overlong() || size > MAX_COMMAND {
            return Err(too_long);
        }
        let len = |len: usize| u32::try_from(len).map(u32::to_be_bytes).map_err(|_| too_long.clone());
        // Allocate once: a vector that grows leaves its old content in freed memory, and it may contain a
        // password.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        bytes.extend_from_slice(&(if sessions { st::SESSIONS } else { st::NO_SESSIONS }).to_be_bytes());
        bytes.extend_from_slice(&len(size)?);
        bytes.extend_from_slice(&self.code.to_be_bytes());
        bytes.extend_from_slice(&handles);
        if sessions {
            bytes.extend_from_slice(&len(self.auths.len())?);
            bytes.extend_from_slice(&self.auths);
        }
        bytes.extend_from_slice(parameters);
        Ok(bytes)
    }
}

/// TPM2_CreatePrimary (part 3, 24.1) in a hierarchy whose authorisation is empty. The response begins with a
/// handle and a TPM2B_PUBLIC.
#[must_use]
pub fn create_primary(hierarchy: u32, template: &Public) -> Command {
    use crate::constants::cc;
    Command::new(cc::CREATE_PRIMARY)
        .handle(hierarchy)
        .password(&[])
        // inSensitive: no authorisation, no data; outsideInfo: none; creationPCR: none.
        .nested(|writer| {
            writer.sized(&[]).sized(&[]);
        })
        .public(template)
        .sized(&[])
        .u32(0)
}

/// TPM2_Quote (part 3, 18.4) by a key with an empty authorisation and a scheme. The response has a
/// TPM2B_ATTEST and a TPMT_SIGNATURE.
#[must_use]
pub fn quote(key: u32, qualifying_data: &[u8], selections: &Selections) -> Command {
    use crate::constants::cc;
    Command::new(cc::QUOTE)
        .handle(key)
        .password(&[])
        .sized(qualifying_data)
        .with(|writer| Scheme::Null.write(writer))
        .pcrs(selections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::{cc, su};

    #[test]
    fn a_command_has_its_own_length_in_it() {
        let startup = Command::new(cc::STARTUP).u16(su::CLEAR).build().unwrap();
        assert_eq!(startup.as_slice(), [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0]);
        let with =
            Command::new(cc::NV_READ).handle(1).handle(2).password(b"pw").u16(3).u16(0).build().unwrap();
        let expected = [
            &[0x80, 2, 0, 0, 0, 37, 0, 0, 1, 0x4e, 0, 0, 0, 1, 0, 0, 0, 2][..],
            &[0, 0, 0, 11, 0x40, 0, 0, 9, 0, 0, 0, 0, 2, b'p', b'w'],
            &[0, 3, 0, 0],
        ]
        .concat();
        assert_eq!(with.as_slice(), expected);
    }

    #[test]
    fn nothing_too_long_is_sent() {
        let refused = Err(CommandError::TooLong { code: cc::NV_WRITE });
        assert_eq!(Command::new(cc::NV_WRITE).raw(&[0; 4096]).build(), refused);
        assert_eq!(Command::new(cc::NV_WRITE).sized(&[0; 70_000]).build(), refused);
        assert_eq!(Command::new(cc::NV_WRITE).password(&[0; 70_000]).build(), refused);
        assert_eq!(Command::new(cc::NV_WRITE).raw(&[0; 4086]).build().unwrap().len(), 4096);
    }
}

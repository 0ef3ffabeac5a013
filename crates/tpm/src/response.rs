// SPDX-License-Identifier: Apache-2.0
//! Responses (part 1, 18): a header, handles, parameters, authorisations.

use thiserror::Error;

use crate::constants::{rc, rc_base, st};
use crate::wire::{Reader, WireError};

/// Longest response in bytes.
pub const MAX_RESPONSE: usize = 4096;

/// A response without parameters.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// The TPM returned an error.
    #[error("the TPM refused with {}", describe(*.0))]
    Refused(u32),
    /// The bytes are not a valid response.
    #[error("the TPM's response is malformed: {0}")]
    Malformed(#[from] WireError),
}

impl ResponseError {
    /// The TPM's response code without the number of the parameter; `None` for other errors.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self {
            Self::Refused(code) => Some(rc_base(*code)),
            Self::Malformed(_) => None,
        }
    }
}

/// The response to a successful command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// Handles, as many as the command gives.
    pub handles: Vec<u32>,
    /// The parameters.
    pub parameters: &'a [u8],
    /// Offset of the parameters in the response.
    offset: usize,
}

impl<'a> Response<'a> {
    /// Reads a response to a command that answers with `handles` handles.
    pub fn parse(bytes: &'a [u8], handles: usize) -> Result<Self, ResponseError> {
        let mut reader = Reader::new(bytes);
        let tag = reader.u16("tag")?;
        let size = reader.u32("responseSize")?;
        let code = reader.u32("responseCode")?;
        if usize::try_from(size) != Ok(bytes.len()) || bytes.len() > MAX_RESPONSE {
            return Err(WireError::Unsupported { what: "responseSize", offset: 2, found: size }.into());
        }
        if code != rc::SUCCESS {
            return Err(ResponseError::Refused(code));
        }
        let handles = (0..handles).map(|_| reader.u32("handle")).collect::<Result<_, _>>()?;
        match tag {
            st::NO_SESSIONS => Ok(Self { handles, parameters: reader.rest(), offset: reader.offset() }),
            st::SESSIONS => {
                let len = reader.count("parameterSize", MAX_RESPONSE)?;
                let offset = reader.offset();
                // The response sessions follow. For a password or a policy without a key they contain nothing
                // to check.
                Ok(Self { handles, parameters: reader.take("parameters", len)?, offset })
            }
            _ => Err(WireError::Unsupported { what: "tag", offset: 0, found: tag.into() }.into()),
        }
    }

    /// Reads the parameters.
    #[must_use]
    pub fn reader(&self) -> Reader<'a> {
        Reader::within(self.parameters, self.offset)
    }
}

/// The name of a response code, if it is known here, and its number.
#[must_use]
pub fn describe(code: u32) -> String {
    let name = match rc_base(code) {
        rc::INITIALIZE => "TPM_RC_INITIALIZE",
        rc::FAILURE => "TPM_RC_FAILURE",
        rc::VALUE => "TPM_RC_VALUE",
        rc::HANDLE => "TPM_RC_HANDLE",
        rc::INTEGRITY => "TPM_RC_INTEGRITY",
        rc::RETRY => "TPM_RC_RETRY",
        rc::NV_DEFINED => "TPM_RC_NV_DEFINED",
        _ => "TPM_RC",
    };
    format!("{name} ({code:#x})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_between_handles_and_sessions() {
        let plain = [0x80, 1, 0, 0, 0, 16, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        let response = Response::parse(&plain, 1).unwrap();
        assert_eq!((response.handles.as_slice(), response.parameters), (&[0x0102_0304][..], &[5, 6][..]));
        let with = [0x80, 2, 0, 0, 0, 21, 0, 0, 0, 0, 0, 0, 0, 2, 5, 6, 0, 0, 1, 0, 0];
        let response = Response::parse(&with, 0).unwrap();
        assert_eq!(response.parameters, [5, 6]);
        assert_eq!(response.reader().offset(), 14);
        for cut in 0..plain.len() {
            assert!(Response::parse(&plain[..cut], 1).is_err());
        }
        let mut long = with;
        long[13] = 8;
        assert!(matches!(Response::parse(&long, 0), Err(ResponseError::Malformed(_))));
    }

    #[test]
    fn a_refusal_is_one_whatever_parameter_it_names() {
        let error = Response::parse(&[0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0xdf], 0).unwrap_err();
        assert_eq!(error.code(), Some(rc::INTEGRITY));
        assert_eq!(error.to_string(), "the TPM refused with TPM_RC_INTEGRITY (0x1df)");
    }
}

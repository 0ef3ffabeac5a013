// SPDX-License-Identifier: Apache-2.0
//! Which PCR banks are active: set before the guest's firmware sees the TPM, because every active bank costs each of its
//! measurements a digest, and firmware randomises the platform's authorisation, after which nobody can change them.
//!
//! The commands are those of the TPM 2.0 library specification, part 3: Startup, GetCapability(TPM_CAP_PCRS) and, if
//! something else is active, PCR_Allocate. An allocation comes into force with the next power cycle, which the caller makes.

use thiserror::Error;

use crate::config::PcrBank;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const CC_PCR_ALLOCATE: u32 = 0x12b;
const CC_STARTUP: u32 = 0x144;
const CC_SHUTDOWN: u32 = 0x145;
const CC_GET_CAPABILITY: u32 = 0x17a;
const CAP_PCRS: u32 = 5;
const SU_CLEAR: u16 = 0;
const RH_PLATFORM: u32 = 0x4000_000c;
const RS_PASSWORD: u32 = 0x4000_0009;
const HEADER: usize = 10;
/// Bytes of a selection of 24 PCRs.
const SELECT: u8 = 3;
/// More banks than any TPM has.
const MOST_BANKS: u32 = 16;

/// Why the banks cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BankError {
    /// A command was refused.
    #[error("vtpm.banks.refused: the tpm answered {command} with code {code:#x}")]
    Refused {
        /// Which.
        command: &'static str,
        /// Its response code.
        code: u32,
    },
    /// A response that is none.
    #[error("vtpm.banks.answer: the tpm's answer to {0} cannot be read")]
    Answer(&'static str),
    /// A bank that the TPM cannot have.
    #[error("vtpm.banks.unknown: this tpm has no {bank} bank: remove it from vtpm.pcr_banks", bank = .0.name())]
    Unknown(PcrBank),
    /// No room for all of them.
    #[error("vtpm.banks.room: the tpm has no room for all of vtpm.pcr_banks: name fewer")]
    NoRoom,
}

/// Makes `wanted` the active banks of a TPM that has power and was not started yet, and shuts it down. The caller cycles its
/// power then. Tells whether anything had to be changed.
pub fn activate(wanted: &[PcrBank], mut execute: impl FnMut(&[u8]) -> Vec<u8>) -> Result<bool, BankError> {
    let mut run = |name, command: &[u8]| body(name, execute(command));
    run("TPM2_Startup", &command(NO_SESSIONS, CC_STARTUP, &SU_CLEAR.to_be_bytes()))?;
    let mut question = CAP_PCRS.to_be_bytes().to_vec();
    question.extend(0_u32.to_be_bytes());
    question.extend(1_u32.to_be_bytes());
    let found = run("TPM2_GetCapability", &command(NO_SESSIONS, CC_GET_CAPABILITY, &question))?;
    let found = parse(&found).ok_or(BankError::Answer("TPM2_GetCapability"))?;
    if let Some(unknown) = wanted.iter().find(|bank| !found.iter().any(|(id, _)| *id == algorithm(**bank))) {
        return Err(BankError::Unknown(*unknown));
    }
    let is_wanted = |id: u16| wanted.iter().any(|bank| algorithm(*bank) == id);
    let change = found.iter().any(|(id, active)| is_wanted(*id) != *active);
    if change {
        let answer = run("TPM2_PCR_Allocate", &allocate(found.iter().map(|(id, _)| (*id, is_wanted(*id)))))?;
        // parameterSize, then allocationSuccess.
        match answer.get(4) {
            Some(1) => {}
            Some(_) => return Err(BankError::NoRoom),
            None => return Err(BankError::Answer("TPM2_PCR_Allocate")),
        }
    }
    run("TPM2_Shutdown", &command(NO_SESSIONS, CC_SHUTDOWN, &SU_CLEAR.to_be_bytes()))?;
    Ok(change)
}

/// TPM_ALG_ID of a bank's hash.
fn algorithm(bank: PcrBank) -> u16 {
    match bank {
        PcrBank::Sha1 => 0x4,
        PcrBank::Sha256 => 0xb,
        PcrBank::Sha384 => 0xc,
        PcrBank::Sha512 => 0xd,
    }
}

fn command(tag: u16, code: u32, parameters: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + parameters.len()).unwrap_or(u32::MAX);
    [&tag.to_be_bytes()[..], &len.to_be_bytes(), &code.to_be_bytes(), parameters].concat()
}

fn allocate(banks: impl ExactSizeIterator<Item = (u16, bool)>) -> Vec<u8> {
    let mut parameters = RH_PLATFORM.to_be_bytes().to_vec();
    // The authorisation: the platform's password, which is empty before firmware has run.
    parameters.extend(9_u32.to_be_bytes());
    parameters.extend(RS_PASSWORD.to_be_bytes());
    parameters.extend([0; 5]);
    // As many as the TPM named, which was at most MOST_BANKS.
    parameters.extend((banks.len() as u32).to_be_bytes());
    for (id, active) in banks {
        parameters.extend(id.to_be_bytes());
        parameters.push(SELECT);
        parameters.extend([if active { 0xff } else { 0 }; SELECT as usize]);
    }
    command(SESSIONS, CC_PCR_ALLOCATE, &parameters)
}

/// What follows the header of a response that says success.
fn body(name: &'static str, response: Vec<u8>) -> Result<Vec<u8>, BankError> {
    let code = response.get(6..HEADER).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
    match code {
        Some(0) => Ok(response[HEADER..].to_vec()),
        Some(code) => Err(BankError::Refused { command: name, code }),
        None => Err(BankError::Answer(name)),
    }
}

/// The banks in a capability response, and whether each has PCRs.
fn parse(body: &[u8]) -> Option<Vec<(u16, bool)>> {
    let (_more, rest) = body.split_first()?;
    let (capability, rest) = rest.split_first_chunk()?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let count = u32::from_be_bytes(*count);
    if u32::from_be_bytes(*capability) != CAP_PCRS || count > MOST_BANKS {
        return None;
    }
    let mut banks = Vec::new();
    for _ in 0..count {
        let (id, after) = rest.split_first_chunk()?;
        let (len, after) = after.split_first()?;
        let (select, after) = after.split_at_checked(usize::from(*len))?;
        banks.push((u16::from_be_bytes(*id), select.iter().any(|byte| *byte != 0)));
        rest = after;
    }
    Some(banks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: u32 = 0;

    fn response(code: u32, body: &[u8]) -> Vec<u8> {
        command(NO_SESSIONS, code, body)
    }

    fn banks(active: &[(u16, u8)]) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(CAP_PCRS.to_be_bytes());
        body.extend((active.len() as u32).to_be_bytes());
        for (id, select) in active {
            body.extend(id.to_be_bytes());
            body.extend([3, *select, *select, *select]);
        }
        body
    }

    /// Runs it against a TPM with these banks; the commands and the result.
    fn run(wanted: &[PcrBank], active: &[(u16, u8)], success: u8) -> (Vec<Vec<u8>>, Result<bool, BankError>) {
        let mut seen = Vec::new();
        let result = activate(wanted, |command| {
            seen.push(command.to_vec());
            match u32::from_be_bytes(command[6..10].try_into().unwrap()) {
                CC_GET_CAPABILITY => response(OK, &banks(active)),
                CC_PCR_ALLOCATE => {
                    response(OK, &[&[0, 0, 0, 13, success][..], &[0; 12], &[0, 0, 1, 0, 0]].concat())
                }
                _ => response(OK, &[]),
            }
        });
        (seen, result)
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let (seen, result) = run(&PcrBank::DEFAULT, &[(4, 0), (0xb, 0xff), (0xc, 0xff), (0xd, 0)], 1);
        assert_eq!((seen.len(), result), (3, Ok(false)));
        assert_eq!(seen[0], [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0]);
        assert_eq!(seen[2], [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x45, 0, 0]);
    }

    #[test]
    fn other_banks_are_switched_off() {
        let (seen, result) = run(&PcrBank::DEFAULT, &[(4, 0xff), (0xb, 0xff), (0xc, 0), (0xd, 0xff)], 1);
        assert_eq!((seen.len(), result), (4, Ok(true)));
        let expected = [
            &[0x80, 2, 0, 0, 0, 0x37, 0, 0, 1, 0x2b, 0x40, 0, 0, 0xc][..],
            &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0],
            &[0, 0, 0, 4, 0, 4, 3, 0, 0, 0, 0, 0xb, 3, 0xff, 0xff, 0xff],
            &[0, 0xc, 3, 0xff, 0xff, 0xff, 0, 0xd, 3, 0, 0, 0],
        ]
        .concat();
        assert_eq!((&seen[2], seen[2].len()), (&expected, 0x37));
    }

    #[test]
    fn refusals_have_reasons() {
        let (_, result) = run(&[PcrBank::Sha512], &[(0xb, 0xff)], 1);
        assert_eq!(result, Err(BankError::Unknown(PcrBank::Sha512)));
        let (_, result) = run(&PcrBank::ALL, &[(4, 0), (0xb, 0xff), (0xc, 0xff), (0xd, 0xff)], 0);
        assert_eq!(result, Err(BankError::NoRoom));
        let refused = activate(&PcrBank::DEFAULT, |_| response(0x101, &[]));
        assert_eq!(refused, Err(BankError::Refused { command: "TPM2_Startup", code: 0x101 }));
        assert!(refused.unwrap_err().to_string().starts_with("vtpm.banks.refused: "));
        for cut in 0..banks(&[(4, 0), (0xb, 0xff)]).len() {
            let body = &banks(&[(4, 0), (0xb, 0xff)])[..cut];
            assert_eq!(parse(body), None, "cut at {cut}");
        }
        assert_eq!(activate(&[], |_| vec![0x80]), Err(BankError::Answer("TPM2_Startup")));
    }
}

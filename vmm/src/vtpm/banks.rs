// SPDX-License-Identifier: Apache-2.0
//! Which PCR banks are active: set before the guest's firmware sees the TPM, because every active bank costs
//! each of its measurements a digest, and firmware randomises the platform's authorisation, after which they
//! cannot be changed.
//!
//! The commands are those of the TPM 2.0 library specification, part 3: Startup, GetCapability(TPM_CAP_PCRS)
//! and, if something else is active, PCR_Allocate. An allocation comes into force with the next power cycle,
//! which the caller makes.

use cvmm_tpm::command::Command;
use cvmm_tpm::constants::{cap, cc, rh, su};
use cvmm_tpm::response::{Response, ResponseError};
use cvmm_tpm::wire::Reader;
use thiserror::Error;

use crate::config::PcrBank;

/// Bytes of a selection of 24 PCRs.
const SELECT: u8 = 3;
/// More banks than any TPM has.
const MAX_BANKS: usize = 16;

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
    /// A response that is not valid.
    #[error("vtpm.banks.answer: the tpm's answer to {0} cannot be read")]
    Answer(&'static str),
    /// A bank that the TPM cannot have.
    #[error("vtpm.banks.unknown: this tpm has no {bank} bank: remove it from vtpm.pcr_banks", bank = .0.name())]
    Unknown(PcrBank),
    /// Too many of them.
    #[error("vtpm.banks.room: the tpm has no capacity for all of vtpm.pcr_banks: name fewer")]
    NoRoom,
}

/// Makes `wanted` the active banks of a TPM that has power and was not started yet, and shuts it down. The
/// caller cycles its power then. Tells whether anything had to be changed.
pub fn activate(wanted: &[PcrBank], mut execute: impl FnMut(&[u8]) -> Vec<u8>) -> Result<bool, BankError> {
    let mut run = |name, command: Command| parameters(name, command, &mut execute);
    run("TPM2_Startup", Command::new(cc::STARTUP).u16(su::CLEAR))?;
    let question = Command::new(cc::GET_CAPABILITY).u32(cap::PCRS).u32(0).u32(1);
    let found = run("TPM2_GetCapability", question)?;
    let found = parse(&found).ok_or(BankError::Answer("TPM2_GetCapability"))?;
    if let Some(unknown) = wanted.iter().find(|bank| !found.iter().any(|(id, _)| *id == bank.hash().id())) {
        return Err(BankError::Unknown(*unknown));
    }
    let is_wanted = |id: u16| wanted.iter().any(|bank| bank.hash().id() == id);
    let change = found.iter().any(|(id, active)| is_wanted(*id) != *active);
    if change {
        let banks: Vec<_> = found.iter().map(|(id, _)| (*id, is_wanted(*id))).collect();
        let answer = run("TPM2_PCR_Allocate", allocate(&banks))?;
        // allocationSuccess.
        match answer.first() {
            Some(1) => {}
            Some(_) => return Err(BankError::NoRoom),
            None => return Err(BankError::Answer("TPM2_PCR_Allocate")),
        }
    }
    run("TPM2_Shutdown", Command::new(cc::SHUTDOWN).u16(su::CLEAR))?;
    Ok(change)
}

/// The parameters that a TPM answers `command` with.
fn parameters(
    name: &'static str,
    command: Command,
    execute: &mut impl FnMut(&[u8]) -> Vec<u8>,
) -> Result<Vec<u8>, BankError> {
    let answer = BankError::Answer(name);
    // None of these is too long.
    let command = command.build().map_err(|_| answer.clone())?;
    match Response::parse(&execute(&command), 0) {
        Ok(response) => Ok(response.parameters.to_vec()),
        Err(ResponseError::Refused(code)) => Err(BankError::Refused { command: name, code }),
        Err(ResponseError::Malformed(_)) => Err(answer),
    }
}

/// The platform's password is empty before firmware has run.
fn allocate(banks: &[(u16, bool)]) -> Command {
    // As many as the TPM named, which was at most MAX_BANKS.
    let command = Command::new(cc::PCR_ALLOCATE).handle(rh::PLATFORM).password(&[]).u32(banks.len() as u32);
    banks.iter().fold(command, |command, (id, active)| {
        command.u16(*id).u8(SELECT).raw(&[if *active { 0xff } else { 0 }; SELECT as usize])
    })
}

/// The banks in a capability response, and whether each has PCRs; also banks of unknown hashes.
fn parse(parameters: &[u8]) -> Option<Vec<(u16, bool)>> {
    let mut reader = Reader::new(parameters);
    let _more = reader.u8("moreData").ok()?;
    if reader.u32("capability").ok()? != cap::PCRS {
        return None;
    }
    let count = reader.count("assignedPCR.count", MAX_BANKS).ok()?;
    let mut banks = Vec::new();
    for _ in 0..count {
        let id = reader.u16("hash").ok()?;
        let len = reader.u8("sizeofSelect").ok()?;
        let select = reader.take("pcrSelect", len.into()).ok()?;
        banks.push((id, select.iter().any(|byte| *byte != 0)));
    }
    Some(banks)
}

#[cfg(test)]
mod tests {
    use super::*;

    use cvmm_tpm::constants::st;

    const OK: u32 = 0;

    fn response(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
        let len = 10 + body.len() as u32;
        [&tag.to_be_bytes()[..], &len.to_be_bytes(), &code.to_be_bytes(), body].concat()
    }

    fn banks(active: &[(u16, u8)]) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(cap::PCRS.to_be_bytes());
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
                cc::GET_CAPABILITY => response(st::NO_SESSIONS, OK, &banks(active)),
                cc::PCR_ALLOCATE => response(
                    st::SESSIONS,
                    OK,
                    &[&[0, 0, 0, 13, success][..], &[0; 12], &[0, 0, 1, 0, 0]].concat(),
                ),
                _ => response(st::NO_SESSIONS, OK, &[]),
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
        let refused = activate(&PcrBank::DEFAULT, |_| response(st::NO_SESSIONS, 0x101, &[]));
        assert_eq!(refused, Err(BankError::Refused { command: "TPM2_Startup", code: 0x101 }));
        assert!(refused.unwrap_err().to_string().starts_with("vtpm.banks.refused: "));
        for cut in 0..banks(&[(4, 0), (0xb, 0xff)]).len() {
            let body = &banks(&[(4, 0), (0xb, 0xff)])[..cut];
            assert_eq!(parse(body), None, "cut at {cut}");
        }
        assert_eq!(activate(&[], |_| vec![0x80]), Err(BankError::Answer("TPM2_Startup")));
    }
}

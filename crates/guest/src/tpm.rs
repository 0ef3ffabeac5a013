// SPDX-License-Identifier: Apache-2.0
//! Quotes of this guest's TPM, by TPM commands without a TSS.
//!
//! cvmm creates the attestation key at a persistent handle before the firmware runs. A TPM without it does
//! not belong to cvmm and is not used.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cvmm_tpm::attest::{Attested, MAX_ATTEST};
use cvmm_tpm::constants::{PCRS, cap, cc, place, rc};
use cvmm_tpm::eventlog::MAX_LOG;
use cvmm_tpm::pcr::{PcrValues, Selection, Selections, read_selections, read_values};
use cvmm_tpm::response::{MAX_RESPONSE, ResponseError};
use cvmm_tpm::wire::{Reader, WireError};
use cvmm_tpm::{Attest, Command, Public, Response, Signature, command};

/// The device with the kernel's resource manager comes first, since other programs may use the TPM.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// PCRs of firmware, boot loaders and operating system: 0 to 15.
const QUOTED: u32 = 0xffff;
/// TPM2_PCR_Read returns up to eight values.
const PCRS_PER_READ: u8 = 8;
/// How often to retry if PCRs change between read and quote: IMA measures every program that starts.
const MAX_ATTEMPTS: usize = 8;
/// Maximum size of a certificate in bytes.
const MAX_CERTIFICATE: usize = 4096;
/// The bytes of an NV index that any TPM returns at once.
const NV_CHUNK: u16 = 512;

/// Carries commands to a TPM and responses back.
pub trait Transport {
    /// Executes a command.
    fn execute(&mut self, command: &[u8]) -> Result<Vec<u8>>;
}

/// The kernel's device.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the device, if there is one.
    pub fn open() -> Result<Option<Self>> {
        for path in DEVICES {
            match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => return Ok(Some(Self(file))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot open {path}")),
            }
        }
        Ok(None)
    }
}

impl Transport for Device {
    fn execute(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        // The kernel accepts a command, and returns a response, in one call.
        let written = self.0.write(command).context("the TPM takes no command")?;
        ensure!(written == command.len(), "the TPM accepted only {written} bytes of a command");
        let mut response = vec![0; MAX_RESPONSE];
        let len = self.0.read(&mut response).context("cannot read the TPM's response")?;
        response.truncate(len);
        Ok(response)
    }
}

/// A quote and the quoted values.
#[derive(Debug)]
pub struct Quote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// Values of the quoted PCRs.
    pub pcrs: PcrValues,
}

/// A TPM with an attestation key.
#[derive(Debug)]
pub struct Tpm<T> {
    transport: T,
    /// The key.
    pub ak: Public,
}

impl<T: Transport> Tpm<T> {
    /// The TPM behind `transport`, if it has an attestation key.
    pub fn new(mut transport: T) -> Result<Option<Self>> {
        let answer = run(&mut transport, Command::new(cc::READ_PUBLIC).handle(place::AK))?;
        let ak = match answer.read(Public::read_sized) {
            Ok(ak) => ak,
            Err(error) if error.code() == Some(rc::HANDLE) => return Ok(None),
            Err(error) => return Err(error).context("cannot read the attestation key"),
        };
        Ok(Some(Self { transport, ak }))
    }

    /// Quotes PCRs 0 to 15 of every bank with a strong hash.
    pub fn quote(&mut self, qualifying_data: &[u8]) -> Result<Quote> {
        let selections = self.banks()?;
        ensure!(!selections.is_empty(), "the TPM has no PCR bank with SHA-256 or better");
        for _ in 0..MAX_ATTEMPTS {
            let pcrs = self.values(&selections)?;
            let (attest, signature, digest) = self.sign(qualifying_data, &selections)?;
            if pcrs.digest(signature.hash(), &selections) == Some(digest) {
                return Ok(Quote { attest, signature: signature.to_bytes(), pcrs });
            }
        }
        bail!("PCRs changed between read and quote, {MAX_ATTEMPTS} times")
    }

    fn banks(&mut self) -> Result<Selections> {
        let command = Command::new(cc::GET_CAPABILITY).u32(cap::PCRS).u32(0).u32(1);
        let answer = run(&mut self.transport, command)?;
        let selections = answer.read(|reader| {
            reader.u8("moreData")?;
            reader.u32("capability")?;
            read_banks(reader)
        });
        selections.context("cannot read the TPM's PCR banks")
    }

    fn values(&mut self, selections: &Selections) -> Result<PcrValues> {
        let mut values = PcrValues::default();
        for selection in selections {
            for first in (0..PCRS).step_by(PCRS_PER_READ.into()) {
                let some: Vec<_> =
                    selection.pcrs().filter(|pcr| (first..first + PCRS_PER_READ).contains(pcr)).collect();
                if some.is_empty() {
                    continue;
                }
                let wanted = vec![Selection::of(selection.hash, &some)];
                let answer = run(&mut self.transport, Command::new(cc::PCR_READ).pcrs(&wanted))?;
                answer.read(|reader| read_values(reader, &mut values)).context("cannot read PCRs")?;
            }
        }
        Ok(values)
    }

    fn sign(&mut self, data: &[u8], selections: &Selections) -> Result<(Vec<u8>, Signature, Vec<u8>)> {
        let answer = run(&mut self.transport, command::quote(place::AK, data, selections))?;
        let (attest, signature) = answer
            .read(|reader| Ok((reader.sized("quoted", MAX_ATTEST)?.to_vec(), Signature::read(reader)?)))
            .context("the TPM refused to quote")?;
        match Attest::parse(&attest).context("the TPM returned a malformed quote")?.attested {
            Attested::Quote { digest, .. } => Ok((attest, signature, digest)),
            Attested::Other { .. } => bail!("the TPM signed a structure that is not a quote"),
        }
    }

    /// Reads an NV index without authorisation; `None` if it does not exist.
    pub fn nv(&mut self, index: u32) -> Result<Option<Vec<u8>>> {
        let answer = run(&mut self.transport, Command::new(cc::NV_READ_PUBLIC).handle(index))?;
        let size = answer.read(|reader| {
            let public = reader.sized("nvPublic", 128)?;
            let mut public = Reader::new(public);
            // nvIndex, nameAlg, attributes, authPolicy (part 2, table 205).
            public.take("nvPublic", 10)?;
            public.sized("authPolicy", 64)?;
            public.u16("dataSize")
        });
        let size = match size {
            Ok(size) => size,
            Err(error) if error.code() == Some(rc::HANDLE) => return Ok(None),
            Err(error) => return Err(error).context("cannot read an NV index"),
        };
        ensure!(
            usize::from(size) <= MAX_CERTIFICATE,
            "NV index {index:#x} has {size} bytes, more than {MAX_CERTIFICATE}"
        );
        let mut bytes = Vec::with_capacity(size.into());
        while let Some(left) =
            u16::try_from(bytes.len()).ok().and_then(|at| size.checked_sub(at)).filter(|left| *left > 0)
        {
            let len = left.min(NV_CHUNK);
            let command =
                Command::new(cc::NV_READ).handle(index).handle(index).password(&[]).u16(len).u16(size - left);
            let answer = run(&mut self.transport, command)?;
            let part = answer.read(|reader| Ok(reader.sized("data", NV_CHUNK.into())?.to_vec()));
            let part = part.with_context(|| format!("cannot read NV index {index:#x}"))?;
            ensure!(
                part.len() == usize::from(len),
                "NV index {index:#x} returned fewer bytes than requested"
            );
            bytes.extend(part);
        }
        Ok(Some(bytes))
    }
}

/// Reads the active banks.
fn read_banks(reader: &mut Reader<'_>) -> Result<Selections, WireError> {
    let all = read_selections(reader)?;
    let active = |selection: &Selection| selection.hash.is_strong() && selection.bits & QUOTED == QUOTED;
    Ok(all.into_iter().filter(active).map(|bank| Selection { bits: QUOTED, ..bank }).collect())
}

/// The bytes of a response.
struct Answer(Vec<u8>);

impl Answer {
    fn read<R>(
        &self,
        read: impl FnOnce(&mut Reader<'_>) -> Result<R, WireError>,
    ) -> Result<R, ResponseError> {
        let response = Response::parse(&self.0, 0)?;
        Ok(read(&mut response.reader())?)
    }
}

fn run(transport: &mut impl Transport, command: Command) -> Result<Answer> {
    let command = command.build()?;
    // The first use of some keys after boot returns this once; the kernel does not retry.
    for _ in 0..MAX_ATTEMPTS {
        let answer = Answer(transport.execute(&command)?);
        match Response::parse(&answer.0, 0) {
            Err(ResponseError::Refused(rc::RETRY)) => {}
            _ => return Ok(answer),
        }
    }
    bail!("the TPM is busy")
}

/// Reads the firmware's event log, if the kernel exports it.
pub fn event_log() -> Result<Option<Vec<u8>>> {
    read_log(Path::new(EVENT_LOG))
}

fn read_log(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut log = Vec::new();
    file.take(MAX_LOG as u64 + 1)
        .read_to_end(&mut log)
        .with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(log.len() <= MAX_LOG, "the firmware's event log has more than {MAX_LOG} bytes");
    Ok(Some(log))
}

#[cfg(test)]
mod tests;

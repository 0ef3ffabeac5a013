// SPDX-License-Identifier: Apache-2.0
//! The firmware's event log, replayed: what the PCRs must be if the log tells everything (TCG PC Client Platform Firmware
//! Profile 1.05, 10.2). Written a second time beside anything in cvmm, on purpose.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{Algorithm, Context as Hash, SHA256, SHA384};

use super::vm::Ended;

/// Number of PCRs.
const PCRS: usize = 24;
/// PCRs that other software resets to ones, and which no log tells of.
const DYNAMIC: std::ops::RangeInclusive<usize> = 17..=22;
/// The kernel's own measurements (IMA), which are in another log.
pub const IMA: usize = 10;
/// EV_NO_ACTION: nothing was extended.
const NO_ACTION: u32 = 3;

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which PCR.
    pub pcr: u32,
    /// Its type.
    pub kind: u32,
    /// By TPM_ALG_ID.
    digests: BTreeMap<u16, Vec<u8>>,
}

/// A log.
#[derive(Debug)]
pub struct EventLog {
    /// In their order, without the first one, which describes the log.
    pub events: Vec<Event>,
    /// TPM_ALG_IDs in its header.
    pub algorithms: Vec<u16>,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len).context("the event log is cut off")?;
        self.0 = rest;
        Ok(front)
    }
    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into()?))
    }
    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }
}

impl EventLog {
    /// The one on the guest's console.
    pub fn of(ended: &Ended) -> Result<Self> {
        let facts = ended.facts();
        let digits = facts.get("eventlog").copied().context("the guest printed no event log")?;
        let bytes = hex(digits)?;
        let sum = facts.get("eventlog_sha256").copied().context("no checksum of the event log")?;
        let found: String = digest(&SHA256, &[&bytes]).iter().map(|byte| format!("{byte:02x}")).collect();
        ensure!(found == sum, "something came between: the event log's checksum is {found}, not {sum}");
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        // TCG_PCClientPCREvent with a SHA-1 digest: what software from before TPM 2.0 reads.
        let (pcr, kind) = (reader.u32()?, reader.u32()?);
        reader.take(20)?;
        let len = reader.u32()? as usize;
        let mut header = Reader(reader.take(len)?);
        let signature = header.take(16)?;
        ensure!(
            (pcr, kind) == (0, NO_ACTION) && signature == b"Spec ID Event03\0",
            "the event log does not begin with a specification ID: {signature:?}"
        );
        header.take(8)?;
        let mut sizes = BTreeMap::new();
        for _ in 0..header.u32()? {
            sizes.insert(header.u16()?, usize::from(header.u16()?));
        }
        let mut events = Vec::new();
        while !reader.0.is_empty() {
            let (pcr, kind, count) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let mut digests = BTreeMap::new();
            for _ in 0..count {
                let algorithm = reader.u16()?;
                let size = sizes
                    .get(&algorithm)
                    .with_context(|| format!("hash {algorithm:#x} is not in the header"))?;
                digests.insert(algorithm, reader.take(*size)?.to_vec());
            }
            let len = reader.u32()? as usize;
            reader.take(len)?;
            events.push(Event { pcr, kind, digests });
        }
        Ok(Self { events, algorithms: sizes.into_keys().collect() })
    }

    /// The PCRs of a bank after the log's events.
    fn replay(&self, bank: Bank) -> Result<Vec<Vec<u8>>> {
        let mut pcrs = vec![vec![0; bank.hash.output_len()]; PCRS];
        for event in self.events.iter().filter(|event| event.kind != NO_ACTION) {
            let pcr = pcrs
                .get_mut(event.pcr as usize)
                .with_context(|| format!("an event for PCR {}", event.pcr))?;
            let Some(measured) = event.digests.get(&bank.id) else {
                bail!("an event of PCR {} has no {} digest", event.pcr, bank.name)
            };
            *pcr = digest(bank.hash, &[pcr, measured]);
        }
        Ok(pcrs)
    }

    /// Checks the PCRs that the guest read against the log, except those that the log does not tell of.
    pub fn check(&self, ended: &Ended, bank: Bank) -> Result<()> {
        let facts = ended.facts();
        let key = format!("pcr-{}", bank.name);
        let found = facts.get(key.as_str()).copied().with_context(|| format!("the guest has no {key}"))?;
        let found: Vec<_> = found.split(',').map(hex).collect::<Result<_>>()?;
        ensure!(found.len() == PCRS, "the guest has {} PCRs", found.len());
        for (pcr, (found, expected)) in found.iter().zip(self.replay(bank)?).enumerate() {
            if pcr != IMA && !DYNAMIC.contains(&pcr) {
                ensure!(
                    *found == expected,
                    "PCR {pcr} of bank {} is not what the event log leads to",
                    bank.name
                );
            }
        }
        // The firmware has measured itself, its configuration and what it started.
        for pcr in [0, 1, 4, 7] {
            ensure!(found[pcr].iter().any(|byte| *byte != 0), "PCR {pcr} has never been extended");
        }
        Ok(())
    }
}

/// A PCR bank.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// As the kernel calls it.
    pub name: &'static str,
    /// TPM_ALG_ID.
    pub id: u16,
    hash: &'static Algorithm,
}

/// The banks of cvmm's default.
pub const BANKS: [Bank; 2] =
    [Bank { name: "sha256", id: 0xb, hash: &SHA256 }, Bank { name: "sha384", id: 0xc, hash: &SHA384 }];

fn digest(algorithm: &'static Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Hash::new(algorithm);
    for part in parts {
        hash.update(part);
    }
    hash.finish().as_ref().to_vec()
}

/// Bytes of hexadecimal digits.
pub fn hex(digits: &str) -> Result<Vec<u8>> {
    ensure!(digits.len().is_multiple_of(2) && digits.is_ascii(), "no hexadecimal digits: {digits:.40}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).context("no hexadecimal digits"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Vec<u8> {
        let mut bytes = [&[0_u8; 4][..], &3_u32.to_le_bytes(), &[0; 20], &33_u32.to_le_bytes()].concat();
        bytes.extend(b"Spec ID Event03\0");
        bytes.extend([0, 0, 0, 0, 0, 2, 0, 2]);
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0xb, 0, 32, 0, 0]);
        for (pcr, kind, fill) in [(0_u32, 3_u32, 9_u8), (4, 8, 1), (4, 8, 2)] {
            bytes.extend([pcr.to_le_bytes(), kind.to_le_bytes(), 1_u32.to_le_bytes()].concat());
            bytes.extend([0xb, 0]);
            bytes.extend([fill; 32]);
            bytes.extend(3_u32.to_le_bytes());
            bytes.extend(b"abc");
        }
        bytes
    }

    #[test]
    fn extends_in_order_and_nothing_for_no_action() {
        let log = EventLog::parse(&log()).unwrap();
        let pcrs = log.replay(BANKS[0]).unwrap();
        let once = digest(&SHA256, &[&[0; 32], &[1; 32]]);
        assert_eq!(pcrs[4], digest(&SHA256, &[&once, &[2; 32]]));
        assert_eq!(pcrs[0], [0; 32]);
        assert!(log.replay(BANKS[1]).is_err(), "no such digests");
    }

    #[test]
    fn a_log_that_is_cut_off_is_refused() {
        let whole = log();
        let event = (whole.len() - 65) / 3;
        for cut in 0..whole.len() {
            // Between two events it is a shorter log.
            let between = cut >= 65 && (cut - 65).is_multiple_of(event);
            assert_eq!(EventLog::parse(&whole[..cut]).is_ok(), between, "cut at {cut}");
        }
    }
}

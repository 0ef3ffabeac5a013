// SPDX-License-Identifier: Apache-2.0
//! A quote that the guest has taken by tpm2-tools (which have checked it in the guest), verified by what the
//! gate verifies quotes with.

use anyhow::{Context, Result, ensure};
use cvmm_tpm::eventlog::EventLog;
use cvmm_tpm::pcr::PcrValues;
use cvmm_tpm::public::Public;
use cvmm_tpm::quote::{Evidence, QuoteClaims, verify};
use cvmm_tpm::wire::Reader;

use super::eventlog::{self, BANKS, hex};
use super::vm::Ended;

/// What the guest has it qualified with.
const QUALIFYING: &str = "00112233445566778899aabbccddeeff";
/// The quoted PCRs of each bank. The kernel extends PCR 10 and has a separate log.
const QUOTED: [u8; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13];

/// The guest's quote and event log: of the PCRs that it has told, and of this boot.
pub fn of(ended: &Ended) -> Result<QuoteClaims> {
    let facts = ended.facts();
    let fact = |key: &str| facts.get(key).copied().with_context(|| format!("the guest has no {key}"));
    let mut pcrs = PcrValues::default();
    for bank in BANKS {
        let told: Vec<_> = fact(&format!("pcr-{}", bank.name()))?.split(',').collect();
        for pcr in QUOTED {
            let value = told.get(usize::from(pcr)).context("a bank of fewer PCRs")?;
            pcrs.0.insert((bank, pcr), hex(value)?);
        }
    }
    let log: EventLog = eventlog::of(ended)?;
    for bank in BANKS {
        eventlog::check(&log, ended, bank)?;
    }
    let key = Public::read_sized(&mut Reader::new(&hex(fact("ak_public")?)?))?;
    let claims = verify(&Evidence {
        ak: &key,
        attest: &hex(fact("quote_message")?)?,
        signature: &hex(fact("quote_signature")?)?,
        qualifying_data: &hex(QUALIFYING)?,
        pcrs: &pcrs,
        event_log: Some(&hex(fact("eventlog")?)?),
    })?;
    let explained = claims.log.as_ref().map(|log| log.explained.len()).unwrap_or_default();
    ensure!(explained >= 2 * 8, "the event log explains only {explained} PCRs");
    Ok(claims)
}

// SPDX-License-Identifier: Apache-2.0
//! Keeps the TPM's event log for the kernel, in Linux' own table: the firmware's log ends with the firmware.

use core::slice;

use cvmm_kernel_stub::event_log::Algorithms;
use uefi_raw::protocol::tcg::v2::{Tcg2EventLogFormat, Tcg2Protocol};
use uefi_raw::table::boot::MemoryType;
use uefi_raw::{Guid, Status, guid};

use crate::firmware::{Firmware, Stop};

/// Linux' table (`LINUX_EFI_TPM_EVENT_LOG_GUID`): length of the log, length of what the firmware's table
/// below already has, format, log.
static EVENT_LOG: Guid = guid!("b7799cb0-eca2-4943-9667-1fae07b747fa");
const HEADER: usize = 9;
/// Events that the firmware logs after the log has been read for the first time: version, count, events.
const FINAL_EVENTS: Guid = guid!("1e2ed096-30e2-4254-bd89-863bbef82325");
const FINAL_HEADER: usize = 16;
/// Longest log, and longest event, in bytes.
const LOG_MAX: usize = 1 << 20;
const EVENT_MAX: usize = 64 << 10;

/// Copies the log. Without a TPM, or with a log in another form, the kernel has none.
pub fn keep(firmware: &Firmware) -> Result<(), Stop> {
    let Some(protocol) = firmware.protocol::<Tcg2Protocol>(&Tcg2Protocol::GUID) else { return Ok(()) };
    let (mut first, mut last, mut truncated) = (0, 0, 0);
    let status = firmware.with_protocol(protocol, |protocol| {
        let format = Tcg2EventLogFormat::TCG_2;
        // SAFETY: the firmware's protocol, and places for what it returns.
        unsafe { ((*protocol).get_event_log)(protocol, format, &mut first, &mut last, &mut truncated) }
    });
    let distance = last.wrapping_sub(first) as usize;
    if status != Status::SUCCESS || first == 0 || last == 0 || distance > LOG_MAX {
        return Ok(());
    }
    // SAFETY: the firmware's log, which it does not change while this program runs. Its length is not known
    // before its last event has been read; memory behind it is mapped.
    let log = unsafe { slice::from_raw_parts(first as *const u8, distance + EVENT_MAX) };
    let Some((algorithms, header)) = Algorithms::read(log) else { return Ok(()) };
    let len = if distance == 0 { Some(header) } else { algorithms.event_len(&log[distance..]) };
    let Some(log) = len.and_then(|len| log.get(..distance + len)) else { return Ok(()) };
    let table = firmware.allocate(MemoryType::ACPI_RECLAIM, HEADER + log.len())?;
    table[..4].copy_from_slice(&(log.len() as u32).to_le_bytes());
    table[4..8].copy_from_slice(&(known_already(firmware, algorithms) as u32).to_le_bytes());
    // The format, EFI_TCG2_EVENT_LOG_FORMAT_TCG_2.
    table[8] = 2;
    table[HEADER..HEADER + log.len()].copy_from_slice(log);
    firmware.install(&EVENT_LOG, table)
}

/// Bytes of the firmware's table of later events that are in the log too: all that it has now.
fn known_already(firmware: &Firmware, algorithms: Algorithms<'_>) -> usize {
    let Some(table) = firmware.configuration(&FINAL_EVENTS) else { return 0 };
    // SAFETY: the firmware's table; see above.
    let table = unsafe { slice::from_raw_parts(table.cast::<u8>(), FINAL_HEADER + LOG_MAX) };
    let count = table[8..].first_chunk().map_or(0, |count| u64::from_le_bytes(*count));
    let events = &table[FINAL_HEADER..];
    let mut at = 0;
    for _ in 0..count {
        match events.get(at..).and_then(|event| algorithms.event_len(event)) {
            Some(len) => at += len,
            None => break,
        }
    }
    at.min(events.len())
}

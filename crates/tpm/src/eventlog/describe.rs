// SPDX-License-Identifier: Apache-2.0
//! Descriptions of events for display. Nothing is decided by them: an event's description is not measured.

use super::Event;

/// Longest description that is copied from an event, in characters.
const MAX_TEXT: usize = 96;

/// The name of an event type (PC Client Platform Firmware Profile, 10.4.1).
#[must_use]
pub fn kind_name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0 => "EV_PREBOOT_CERT",
        1 => "EV_POST_CODE",
        2 => "EV_UNUSED",
        3 => "EV_NO_ACTION",
        4 => "EV_SEPARATOR",
        5 => "EV_ACTION",
        6 => "EV_EVENT_TAG",
        7 => "EV_S_CRTM_CONTENTS",
        8 => "EV_S_CRTM_VERSION",
        9 => "EV_CPU_MICROCODE",
        0xa => "EV_PLATFORM_CONFIG_FLAGS",
        0xb => "EV_TABLE_OF_DEVICES",
        0xc => "EV_COMPACT_HASH",
        0xd => "EV_IPL",
        0xe => "EV_IPL_PARTITION_DATA",
        0xf => "EV_NONHOST_CODE",
        0x10 => "EV_NONHOST_CONFIG",
        0x11 => "EV_NONHOST_INFO",
        0x12 => "EV_OMIT_BOOT_DEVICE_EVENTS",
        0x13 => "EV_POST_CODE2",
        0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
        0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
        0x8000_0004 => "EV_EFI_BOOT_SERVICES_DRIVER",
        0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
        0x8000_0006 => "EV_EFI_GPT_EVENT",
        0x8000_0007 => "EV_EFI_ACTION",
        0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
        0x8000_000a => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000b => "EV_EFI_HANDOFF_TABLES2",
        0x8000_000c => "EV_EFI_VARIABLE_BOOT2",
        0x8000_000d => "EV_EFI_GPT_EVENT2",
        0x8000_0010 => "EV_EFI_HCRTM_EVENT",
        0x8000_00e0 => "EV_EFI_VARIABLE_AUTHORITY",
        0x8000_00e1 => "EV_EFI_SPDM_FIRMWARE_BLOB",
        0x8000_00e2 => "EV_EFI_SPDM_FIRMWARE_CONFIG",
        0x8000_00e3 => "EV_EFI_SPDM_DEVICE_POLICY",
        0x8000_00e4 => "EV_EFI_SPDM_DEVICE_AUTHORITY",
        _ => return None,
    })
}

/// One line about an event: its type and its description.
#[must_use]
pub fn describe(event: &Event) -> String {
    let kind = kind_name(event.kind).map_or_else(|| format!("type {:#x}", event.kind), str::to_owned);
    format!("{kind} {}", about(event))
}

/// An event's description as printable ASCII: its text or the name of its variable, otherwise its length.
#[must_use]
pub fn about(event: &Event) -> String {
    let text = match event.kind {
        // Variable names are UTF-16.
        0x8000_0001 | 0x8000_0002 | 0x8000_000c | 0x8000_00e0 => variable(&event.data),
        // Events of the operating system's loader.
        6 => tagged(&event.data),
        _ => words(&event.data),
    };
    match text {
        Some(text) if !text.is_empty() => format!("\"{}\"", text.escape_default()),
        _ => format!("({} bytes)", event.data.len()),
    }
}

/// UEFI_VARIABLE_DATA: GUID, lengths of name and value, name.
fn variable(data: &[u8]) -> Option<String> {
    let (len, rest) = data.get(16..)?.split_first_chunk::<8>()?;
    let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    utf16(rest.get(8..)?.get(..len.checked_mul(2)?)?)
}

/// TCG_PCClientTaggedEvent: an identifier, a length and the text.
fn tagged(data: &[u8]) -> Option<String> {
    let (_, rest) = data.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    words(rest.get(..usize::try_from(u32::from_le_bytes(*len)).ok()?)?)
}

/// `bytes` as text, if it is printable.
fn words(data: &[u8]) -> Option<String> {
    let trimmed = data.strip_suffix(&[0]).unwrap_or(data);
    if !trimmed.is_empty() && trimmed.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Some(trimmed.iter().take(MAX_TEXT).map(|byte| char::from(*byte)).collect());
    }
    utf16(data)
}

fn utf16(data: &[u8]) -> Option<String> {
    if data.is_empty() || !data.len().is_multiple_of(2) {
        return None;
    }
    let units = data.chunks_exact(2).map(|pair| match pair {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let text: String = char::decode_utf16(units.take_while(|unit| *unit != 0).take(MAX_TEXT))
        .map(|letter| letter.ok().filter(|letter| (' '..'\u{7f}').contains(letter)))
        .collect::<Option<_>>()?;
    (!text.is_empty()).then_some(text)
}

// SPDX-License-Identifier: Apache-2.0
//! The tables checked by iasl and fwts (`tests/boot/acpi-check`). The boot tests check the tables that a
//! guest has; this is quicker.
//!
//! `CVMM_ACPI_TOOLS=$(scripts/fetch acpi-tools) cargo test -p cvmm-acpi --test tables checkers`

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use cvmm_acpi::{AcpiConfig, TpmRegion, build};
use cvmm_test_support::artefacts;
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;

use super::{Memory, config};

/// A table with its name and address.
type Table = (String, u64, Vec<u8>);

fn tables(config: &AcpiConfig) -> Vec<Table> {
    let memory = Memory::load(&build(config));
    memory.all().into_iter().map(|(name, address, bytes)| (name, address, bytes.to_vec())).collect()
}

/// As acpidump writes them.
fn dump(tables: &[Table]) -> String {
    let mut text = String::new();
    for (name, address, bytes) in tables {
        writeln!(text, "{name} @ {address:#018x}").unwrap();
        for (at, line) in (0..).step_by(16).zip(bytes.chunks(16)) {
            let hex: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
            let shown = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
            let characters: String = line.iter().map(shown).collect();
            writeln!(text, "  {at:04x}: {hex:<48} {characters}").unwrap();
        }
        text.push('\n');
    }
    text
}

/// What the checkers print: `Err` if they find an error.
fn check(tables: &[Table]) -> Result<Result<String, String>, Missing> {
    let tools = artefacts::acpi_tools()?;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), dump(tables)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/boot/acpi-check");
    let output = Command::new(script).arg(file.path()).env("CVMM_ACPI_TOOLS", tools).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.code() {
        Some(0) => Ok(Ok(text)),
        Some(1) => Ok(Err(text)),
        _ => panic!("{text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

const TPM: Option<TpmRegion> = Some(TpmRegion { base: 0xfed4_0000, len: 0x2000, control_area: 0xfed4_0040 });

pub fn iasl_and_fwts_find_no_error() -> suite::Result {
    for config in
        [AcpiConfig { mem64: 0..0, ..config(1, false) }, AcpiConfig { tpm: TPM, ..config(300, true) }]
    {
        check(&tables(&config))?.unwrap();
    }
    Ok(())
}

pub fn iasl_and_fwts_find_earlier_errors() -> suite::Result {
    let good = tables(&AcpiConfig { tpm: TPM, ..config(2, true) });
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut tables = good.clone();
        let (.., table) = tables.iter_mut().find(|(found, ..)| found == name).unwrap();
        change(table);
        let len = u32::try_from(table.len()).unwrap();
        table[4..8].copy_from_slice(&len.to_le_bytes());
        table[9] = 0;
        table[9] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
        check(&tables)
    };
    let short = changed("TPM2", &|table| table.truncate(52))?;
    assert!(short.as_ref().is_err_and(|found| found.contains("iasl -d tpm2")), "{short:?}");
    let replace = |table: &mut Vec<u8>, old: &[u8], new: &[u8]| {
        let at = table.windows(old.len()).position(|window| window == old).unwrap();
        table[at..at + new.len()].copy_from_slice(new);
    };
    let identity = changed("DSDT", &|table| replace(table, b"CVMM0001", b"VMGENCTR"))?;
    assert!(identity.as_ref().is_err_and(|found| found.contains("6035")), "{identity:?}");
    let processors = changed("DSDT", &|table| replace(table, b"ACPI0007", b"CVMM0007"))?;
    assert!(processors.as_ref().is_err_and(|found| found.contains("MADTLAPICUidMismatch")), "{processors:?}");
    Ok(())
}

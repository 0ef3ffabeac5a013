// SPDX-License-Identifier: Apache-2.0
//! The ACPI tables that a guest has, for checkers outside of this host: `tests/boot/run` shows them every
//! `acpi.log`.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};

use super::Ctx;
use super::eventlog::hex;
use super::vm::Ended;

/// Writes the tables that the guest printed as acpidump would.
pub fn hand_out(ctx: &Ctx, ended: &Ended) -> Result<()> {
    let mut text = String::new();
    let mut names = Vec::new();
    for (key, digits) in ended.facts() {
        let Some(name) = key.strip_prefix("acpi_") else { continue };
        let table = hex(digits).with_context(|| format!("ACPI table {name}"))?;
        ensure!(
            table.get(..4).is_some_and(|found| name.as_bytes().starts_with(found)),
            "{name} is another table"
        );
        let signature = &name[..4];
        writeln!(text, "{signature} @ {:#018x}", 0)?;
        for (at, line) in (0..).step_by(16).zip(table.chunks(16)) {
            let bytes: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
            let shown = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' };
            writeln!(text, "  {at:04x}: {bytes:<48} {}", line.iter().map(shown).collect::<String>())?;
        }
        text.push('\n');
        names.push(signature.to_owned());
    }
    for needed in ["APIC", "DSDT", "FACP", "TPM2"] {
        ensure!(names.iter().any(|name| name == needed), "no ACPI table {needed} among {names:?}");
    }
    fs::write(ctx.own_path("acpi.log"), text)?;
    Ok(())
}

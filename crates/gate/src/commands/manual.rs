// SPDX-License-Identifier: Apache-2.0
//! The manual page and the completions, made from the grammar.

use std::io::{self, Write};

use anyhow::Result;
use clap::Command;

use super::{Ended, print};

/// One page with all commands.
pub fn man(mut command: Command) -> Result<Ended> {
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    sections(&mut page, &command, "cvmm-gate")?;
    print(&String::from_utf8(page)?)?;
    Ok(Ended::Done)
}

fn sections(page: &mut Vec<u8>, command: &Command, path: &str) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let path = format!("{path} {}", inner.get_name());
        if inner.has_subcommands() {
            sections(page, inner, &path)?;
            continue;
        }
        writeln!(page, ".SH {}", path.to_uppercase())?;
        let man = clap_mangen::Man::new(inner.clone());
        man.render_synopsis_section(page)?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
    }
    Ok(())
}

/// A shell's completions.
pub fn completions(mut command: Command, shell: clap_complete::Shell) -> Result<Ended> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "cvmm-gate", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(Ended::Done)
}

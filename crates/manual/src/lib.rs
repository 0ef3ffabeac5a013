// SPDX-License-Identifier: Apache-2.0
//! The commands `man` and `completions`, generated from the grammar of a program.

#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

/// Arguments of `man`.
#[derive(Args, Clone, Debug, Default)]
pub struct ManArgs {
    /// Command whose page to print, such as: config check. Default: the page of the program
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Write the pages of all commands into this folder, as NAME.1; files that exist are not overwritten
    #[arg(long, value_name = "FOLDER", conflicts_with = "command")]
    pub out: Option<PathBuf>,
}

/// Arguments of `completions`.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionArgs {
    /// The shell
    pub shell: Shell,
}

/// A page that cannot be printed or written.
#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    /// The program has no such command.
    #[error("there is no command '{0}'")]
    Command(String),
    /// A page cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A page cannot be generated.
    #[error("cannot generate the page: {0}")]
    Render(#[from] io::Error),
}

/// Returns the table of exit codes for a help text: `codes` with their meanings, right-aligned in `width`
/// columns.
pub fn exit_codes<'a>(width: usize, codes: impl IntoIterator<Item = (u8, &'a str)>) -> String {
    codes.into_iter().fold("Exit codes:\n".to_owned(), |table, (code, meaning)| {
        format!("{table}  {code:>width$}  {meaning}\n")
    })
}

/// Returns the output of `man`: a page, or the names of the files that were written.
///
/// # Errors
/// If the command does not exist, or a file cannot be written.
pub fn man(mut command: Command, args: &ManArgs) -> Result<Vec<u8>, ManualError> {
    command.build();
    if let Some(folder) = &args.out {
        let mut written = String::new();
        for path in write_pages(&command, folder)? {
            written += &format!("{}\n", path.display());
        }
        return Ok(written.into_bytes());
    }
    let mut inner = &command;
    for word in &args.command {
        inner = inner
            .get_subcommands()
            .find(|inner| inner.get_name() == word)
            .ok_or_else(|| ManualError::Command(args.command.join(" ")))?;
    }
    Ok(page(inner)?)
}

/// The page of one command.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    // The pages are named by dashes, the commands by spaces.
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

/// The pages of all commands, with their names.
fn pages(command: &Command, name: &str, found: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    found.push((name.to_owned(), page(command)?));
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        pages(inner, &format!("{name}-{}", inner.get_name()), found)?;
    }
    Ok(())
}

fn write_pages(command: &Command, folder: &Path) -> Result<Vec<PathBuf>, ManualError> {
    let mut found = Vec::new();
    pages(command, command.get_name(), &mut found)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ManualError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let mut written = Vec::new();
    for (name, page) in found {
        let path = folder.join(format!("{name}.1"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(&page)).map_err(failed(&path))?;
        written.push(path);
    }
    Ok(written)
}

/// A shell's completion script for the program.
#[must_use]
pub fn completions(mut command: Command, args: CompletionArgs) -> Vec<u8> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        let check = Command::new("check").about("Check a file").after_help("Exit codes:\n   0  good\n");
        let config = Command::new("config").about("Files").subcommand_required(true).subcommand(check);
        Command::new("prog").about("A program").subcommand(config).subcommand(Command::new("run"))
    }

    fn text(words: &[&str]) -> Result<String, ManualError> {
        let args = ManArgs { command: words.iter().map(ToString::to_string).collect(), out: None };
        Ok(String::from_utf8(man(program(), &args)?).unwrap())
    }

    #[test]
    fn each_command_has_a_page() {
        let own = text(&[]).unwrap();
        assert!(own.contains(".TH prog") && own.contains("config"), "{own}");
        let check = text(&["config", "check"]).unwrap();
        assert!(check.contains(".TH prog-config-check") && check.contains("Exit codes"), "{check}");
        let error = text(&["config", "nothing"]).unwrap_err();
        assert_eq!(error.to_string(), "there is no command 'config nothing'");
    }

    #[test]
    fn all_pages_are_written_once_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("man1");
        let args = ManArgs { command: Vec::new(), out: Some(out.clone()) };
        let written = String::from_utf8(man(program(), &args).unwrap()).unwrap();
        let names: Vec<_> = written.lines().map(|path| path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["prog.1", "prog-config.1", "prog-config-check.1", "prog-run.1"]);
        assert!(fs::read_to_string(out.join("prog-config-check.1")).unwrap().contains("Check a file"));
        fs::write(out.join("prog.1"), "mine").unwrap();
        assert!(matches!(man(program(), &args), Err(ManualError::Write { .. })));
        assert_eq!(fs::read(out.join("prog.1")).unwrap(), b"mine");
    }

    #[test]
    fn completions_name_the_commands() {
        let script = completions(program(), CompletionArgs { shell: Shell::Bash });
        assert!(String::from_utf8(script).unwrap().contains("config"));
    }
}

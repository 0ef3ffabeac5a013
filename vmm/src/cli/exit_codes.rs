// SPDX-License-Identifier: Apache-2.0
//! Which exit codes each command has: its help and its manual page show these and no others.

use clap::{Command, CommandFactory};

use super::args::Cli;
use crate::exit_code::ExitStatus::{self, *};

/// Commands whose only result is what they print.
const PRINTS: &[ExitStatus] = &[Success, Internal, Usage, File];
const MEASURES: &[ExitStatus] = &[Success, Internal, Usage, LaunchRefused, File];
const STATE: &[ExitStatus] = &[Success, Internal, Usage, File, State];
const VERIFIES: &[ExitStatus] = &[Success, Internal, Usage, File, NotMet, Unverified];

/// Exit codes by command. A command that is not here has those of the one above it.
const COMMANDS: &[(&str, &[ExitStatus])] = &[
    (
        "run",
        &[
            Success,
            Internal,
            Usage,
            Host,
            LaunchRefused,
            File,
            Unmeasured,
            NotAdmitted,
            TripleFault,
            KvmInternalError,
            Stopped,
            Reset,
            Terminated,
            MemoryViolation,
            Silent,
            GateUnreachable,
            GateSilent,
            GateDenied,
            GateAnswer,
            Ticket,
            State,
        ],
    ),
    ("config check", &[Success, Internal, Usage, Host, LaunchRefused, File, State]),
    ("config", PRINTS),
    ("measure", &[Success, Internal, Usage, LaunchRefused, File, Differs]),
    ("policy test", &[Success, Internal, Usage, LaunchRefused, File, NotMet]),
    ("policy import", PRINTS),
    ("policy", MEASURES),
    ("state", STATE),
    ("attest", VERIFIES),
    ("doctor", &[Success, Internal, Usage, Host, File]),
    ("timeline", PRINTS),
    ("uki", MEASURES),
    ("completions", PRINTS),
    ("man", PRINTS),
];

/// The exit codes of the command with this path, such as `config check`.
fn of(path: &str) -> Option<&'static [ExitStatus]> {
    let exact = |path: &str| COMMANDS.iter().find(|(name, _)| *name == path).map(|(_, codes)| *codes);
    exact(path).or_else(|| exact(path.split_once(' ')?.0))
}

/// The grammar, with each command's exit codes below its help.
pub(super) fn grammar() -> Command {
    annotate(Cli::command(), "")
}

fn annotate(command: Command, path: &str) -> Command {
    let command = match of(path) {
        Some(codes) => command.after_help(ExitStatus::table_of(codes)),
        None => command,
    };
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        let path = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command.mut_subcommand(name, |inner| annotate(inner, &path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(command: &Command, path: &str, found: &mut Vec<(String, String)>) {
        for inner in command.get_subcommands() {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            let help = inner.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.push((path.clone(), help));
            commands(inner, &path, found);
        }
    }

    #[test]
    fn the_help_of_each_command_has_its_own_exit_codes() {
        let mut found = Vec::new();
        commands(&grammar(), "", &mut found);
        let codes = |help: &str| -> Vec<u8> {
            let rows = help.lines().skip(1);
            rows.map(|row| row.split_whitespace().next().unwrap().parse().unwrap()).collect()
        };
        let mut all = std::collections::BTreeSet::new();
        for (path, help) in &found {
            assert!(help.starts_with("Exit codes:\n"), "{path}: {help}");
            let codes = codes(help);
            assert!(codes.starts_with(&[0, 1, 2]), "{path}: {codes:?}");
            // What becomes of a guest is the concern of `run` alone.
            let allowed = |code: &u8| *code < 10 || [30, 40].contains(code);
            assert!(path == "run" || codes.iter().all(allowed), "{path}: {codes:?}");
            all.extend(codes);
        }
        let every: std::collections::BTreeSet<u8> =
            ExitStatus::ALL.iter().map(|status| status.code()).collect();
        assert_eq!(all, every);
        let table = |path: &str| codes(&found.iter().find(|(name, _)| name == path).unwrap().1);
        assert_eq!(table("doctor"), [0, 1, 2, 3, 5]);
        assert_eq!(table("config check"), [0, 1, 2, 3, 4, 5, 30]);
        for (name, _) in COMMANDS {
            assert!(found.iter().any(|(path, _)| path == name), "there is no command {name}");
        }
    }
}

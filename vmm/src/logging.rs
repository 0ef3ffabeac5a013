// SPDX-License-Identifier: Apache-2.0
//! Log output: `tracing` events on standard error, as text for people or one JSON object per line for
//! programs.
//!
//! Standard output belongs to the guest's console and to commands' results. The filter comes from
//! `--log-level`, else from the variable `CVMM_LOG`, else it is `info`; both take a level or directives such
//! as `cvmm::run=debug,warn`.

use std::ffi::OsStr;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Name of the environment variable with the log filter.
pub const VARIABLE: &str = "CVMM_LOG";
const DEFAULT: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error(
        "log filter \"{filter}\" from {origin} is not valid: {source}; write error, warn, info, debug, trace or target=level,…"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// Where it came from.
        origin: &'static str,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another subscriber is installed.
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// Chooses the filter: the option before the variable before the default.
///
/// # Errors
/// [`LogError::Filter`] with the origin.
pub fn filter(option: Option<&str>, variable: Option<&str>) -> Result<EnvFilter, LogError> {
    let (filter, origin) = match (option, variable) {
        (Some(option), _) => (option, "--log-level"),
        (None, Some(variable)) if !variable.is_empty() => (variable, VARIABLE),
        _ => (DEFAULT, "the default"),
    };
    EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        origin,
        source,
    })
}

/// Whether log lines have colours: on a terminal, unless the user wants none (NO_COLOR,
/// https://no-color.org).
fn colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Installs the process's log output.
///
/// # Errors
/// The filter is not valid, or logging is set up already.
pub fn init(format: LogFormat, option: Option<&str>) -> Result<(), LogError> {
    let variable = std::env::var(VARIABLE).ok();
    let filter = filter(option, variable.as_deref())?;
    // A log on a full disk loses lines. To say so on the same standard error would panic, and that ends a VM.
    let builder = tracing_subscriber::fmt()
        .with_ansi(colours(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref()))
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    match format {
        LogFormat::Text => tracing::subscriber::set_global_default(builder.finish())?,
        LogFormat::Json => {
            let flat = builder.json().flatten_event(true).with_current_span(false);
            tracing::subscriber::set_global_default(flat.finish())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_has_colours() {
        assert!(colours(true, None) && colours(true, Some(OsStr::new(""))));
        assert!(!colours(false, None) && !colours(true, Some(OsStr::new("1"))));
    }

    #[test]
    fn the_option_wins_over_the_variable() {
        let chosen = |option, variable| filter(option, variable).unwrap().to_string();
        assert_eq!(chosen(None, None), "info");
        assert_eq!(chosen(None, Some("")), "info");
        assert_eq!(chosen(None, Some("debug")), "debug");
        assert_eq!(chosen(Some("cvmm::run=trace"), Some("debug")), "cvmm::run=trace");
        let error = filter(None, Some("cvmm=loud")).unwrap_err().to_string();
        assert!(error.contains("CVMM_LOG") && error.contains("cvmm=loud"), "{error}");
    }
}

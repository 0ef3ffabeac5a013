// SPDX-License-Identifier: Apache-2.0
//! The log, as configured by swtpm's `--log`.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::fmt::MakeWriter;

use super::options::{Log, LogTo};

/// A file whose lines begin with a prefix.
#[derive(Clone)]
struct Lines {
    file: Arc<File>,
    prefix: Arc<str>,
}

impl Write for Lines {
    /// Each call writes one event.
    fn write(&mut self, event: &[u8]) -> Result<usize> {
        let line = [self.prefix.as_bytes(), event].concat();
        (&*self.file).write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn open(to: &LogTo) -> anyhow::Result<File> {
    match to {
        LogTo::Stderr => crate::daemon::inherited(2).context("standard error is not open for the log"),
        LogTo::Fd(fd) => crate::daemon::inherited(*fd).with_context(|| format!("--log: fd={fd} is not open")),
        LogTo::File { path, truncate } => {
            let mut options = OpenOptions::new();
            if *truncate {
                options.write(true).truncate(true);
            } else {
                options.append(true);
            }
            let file = options.create(true).open(path);
            file.with_context(|| format!("cannot open the log file {}", path.display()))
        }
    }
}

/// Starts logging.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let level = match log.level {
        0 => tracing::Level::ERROR,
        1..=4 => tracing::Level::WARN,
        5..=19 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    let lines = Lines { file: Arc::new(open(&log.to)?), prefix: log.prefix.as_str().into() };
    // On a full disk lines are lost. Reporting that on standard error, which may be on the same disk, would
    // panic.
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(lines)
        .init();
    Ok(())
}

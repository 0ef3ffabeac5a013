// SPDX-License-Identifier: Apache-2.0
//! `cvmm timeline`.

use std::path::{Path, PathBuf};

use cvmm_output::Existing;
use cvmm_timeline::{Recording, draw, is_drawing, is_trace, table, trace};

use super::args::TimelineArgs;
use super::session::Session;
use crate::exit_code::ExitStatus;

impl Session<'_> {
    pub(super) fn timeline(&mut self, args: &TimelineArgs) -> ExitStatus {
        let mut recordings = Vec::new();
        for file in &args.files {
            match Recording::read(file) {
                Ok(recording) => recordings.push((label(file, &args.files), recording)),
                Err(error) => {
                    self.error(ExitStatus::File, &error);
                    return ExitStatus::File;
                }
            }
        }
        if args.text {
            let tables: Vec<_> = recordings.iter().map(|(_, recording)| table(recording)).collect();
            return self.print(tables.join("\n").as_bytes());
        }
        let text = if args.trace { trace(&recordings) } else { draw(&recordings) };
        let Some(path) = &args.output else { return self.print(text.as_bytes()) };
        let is_own = |content: &[u8]| if args.trace { is_trace(content) } else { is_drawing(content) };
        self.write(Some(path), &text, Existing::ReplaceOwn(&is_own).or_forced(args.force))
    }
}

/// A file's name in a comparison: without folder and extension, unless another file has the same.
pub(super) fn label(file: &Path, all: &[PathBuf]) -> String {
    let stem = |file: &Path| file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = stem(file);
    let alike = all.iter().filter(|other| stem(other) == own).count();
    own.filter(|_| alike == 1).unwrap_or_else(|| file.display().to_string())
}

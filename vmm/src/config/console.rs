// SPDX-License-Identifier: Apache-2.0
//! `[console]`: the guest's console and where its bytes go.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paths::{Paths, text};
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;
use super::size::RawSize;
use super::table::Table;
use crate::console_file;

/// Bytes of a console's file when `max_size` is absent.
pub const DEFAULT_CONSOLE_SIZE: u64 = 16 << 20;
/// The least `max_size` of a console's file.
pub const MIN_CONSOLE_SIZE: u64 = 64 << 10;
/// The greatest `max_size` of a console's file.
pub const MAX_CONSOLE_SIZE: u64 = 64 << 30;

pub(super) const TABLE: Table = Table { name: "console", repeated: false, example };

/// The guest's console.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Console")]
pub(super) struct RawConsole {
    /// The device in the guest. Default "serial".
    pub(super) device: Option<ConsoleDevice>,
    /// Where its bytes go on the host. Default "stdio".
    pub(super) mode: Option<ConsoleMode>,
    /// Mode `file`: the file output is appended to, relative to this file. A new one can be read by its
    /// owner only.
    #[schemars(length(min = 1))]
    pub(super) path: Option<String>,
    /// Mode `file`: the most the file holds, 64 KiB to 64 GiB. When it is full, its content moves to a
    /// second file with ".1" after the name, which replaces what was there, so that both together hold the
    /// newest output. Default 16 MiB.
    pub(super) max_size: Option<RawSize>,
}

/// The device the guest's console is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleDevice {
    /// 16550, `ttyS0` in Linux.
    #[default]
    Serial,
    /// virtio-console, `hvc0` in Linux: far fewer exits.
    Virtio,
}

/// Where the console's bytes go on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleMode {
    /// cvmm's own standard input and output.
    #[default]
    Stdio,
    /// Output to a file of limited size, no input.
    File,
    /// A new pseudo-terminal, whose path is logged.
    Pty,
    /// Nowhere.
    None,
}

/// The guest's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// The device in the guest.
    pub device: ConsoleDevice,
    /// Where its bytes go on the host.
    pub mode: ConsoleMode,
    /// The file of [`ConsoleMode::File`]; `None` in every other mode.
    pub path: Option<PathBuf>,
    /// The most bytes of the file of [`ConsoleMode::File`], and of the one with older output; `None` in
    /// every other mode.
    pub max_size: Option<u64>,
}

impl RawConsole {
    pub(super) fn check(self, rules: &mut Rules<'_>) -> Console {
        let Self { device, mode, path, max_size } = self;
        let mode = mode.unwrap_or_default();
        if mode != ConsoleMode::File && !rules.is_cut("console.mode") {
            for (key, given) in [("path", path.is_some()), ("max_size", max_size.is_some())] {
                if given {
                    let message = format!("{key} requires console mode \"file\"");
                    rules.add(
                        Problem::at(&format!("console.{key}"), "mode", message)
                            .help(format!("remove {key} or set mode = \"file\"")),
                    );
                }
            }
        }
        let file = mode == ConsoleMode::File;
        Console {
            device: device.unwrap_or_default(),
            mode,
            path: file.then(|| rules.required_path("console.path", path.as_deref())),
            max_size: file.then(|| {
                let range = MIN_CONSOLE_SIZE..=MAX_CONSOLE_SIZE;
                let size = max_size.and_then(|size| rules.bytes("console.max_size", &size, &range, ""));
                size.unwrap_or(DEFAULT_CONSOLE_SIZE)
            }),
        }
    }
}

impl From<&Console> for RawConsole {
    fn from(console: &Console) -> Self {
        let Console { device, mode, path, max_size } = console;
        Self {
            device: Some(*device),
            mode: Some(*mode),
            path: path.as_deref().map(text),
            max_size: max_size.map(RawSize::from),
        }
    }
}

/// Checks a file that `run` appends to: it may be absent, its folder may not.
pub(super) fn check_files(console: &Console, paths: &mut Paths) {
    const KEY: &str = "console.path";
    let Some(path) = console.path.as_deref().filter(|path| !path.as_os_str().is_empty()) else { return };
    if !path.parent().unwrap_or(Path::new("/")).is_dir() {
        let message = format!("cannot create {}: its folder does not exist", path.display());
        paths.add(Problem::at(KEY, "unwritable", message));
    } else if let Err((path, error)) = console_file::check(path) {
        let message = format!("cannot write {}: {error}", path.display());
        paths.add(Problem::at(KEY, "unwritable", message).allowed("a new file, or one that cvmm wrote"));
    }
}

fn example(_: Profile) -> String {
    EXAMPLE.to_owned()
}

const EXAMPLE: &str = r#"[console]
# The device: "serial" (ttyS0) or "virtio" (hvc0).
device = "serial"
# Where it goes: "stdio", "file" (with path), "pty" or "none".
mode = "stdio"
# path = "console.log"
# max_size = "16MiB"      # of the file; older output moves to console.log.1
"#;

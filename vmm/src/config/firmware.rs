// SPDX-License-Identifier: Apache-2.0
//! `firmware`: the build that this cvmm knows, or a file.

use std::path::PathBuf;

use super::paths::{Paths, text};
use super::problem::Problem;
use super::profile::Profile;
use super::rules::Rules;

/// The value that means the build that this cvmm knows.
pub(super) const BUILTIN: &str = "builtin";

/// Where the firmware image comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FirmwareSource {
    /// OVMF.cvmm.fd, whose SHA-256 is compiled in ([`crate::builtin`]). Also where no firmware is read
    /// because an IGVM file has its own.
    #[default]
    Builtin,
    /// A file.
    File(PathBuf),
}

pub(super) fn check(given: Option<&str>, rules: &mut Rules<'_>) -> FirmwareSource {
    const KEY: &str = "firmware";
    let builtin = given.is_none_or(|given| given == BUILTIN);
    if builtin && rules.vm.profile == Some(Profile::Hashes) && !rules.is_cut(KEY) {
        let message = "the built-in firmware starts no kernel by its hashes: profile hashes requires a file";
        rules.add(Problem::at(KEY, "profile", message).allowed("OVMF.amdsev.fd of Debian's ovmf-amdsev"));
    }
    if given.is_some() && rules.vm.profile == Some(Profile::Igvm) {
        let message = "firmware conflicts with profile igvm: the IGVM file has its own";
        rules.add(Problem::at(KEY, "profile", message).help("remove the key"));
        return FirmwareSource::Builtin;
    }
    match given {
        Some(path) if !builtin => FirmwareSource::File(rules.path(KEY, path)),
        _ => FirmwareSource::Builtin,
    }
}

/// Checks its file. The built-in one is looked for when it is opened, with its digest.
pub(super) fn check_files(source: &FirmwareSource, paths: &mut Paths) {
    if let FirmwareSource::File(path) = source {
        paths.image("firmware", path);
    }
}

/// As in the file.
pub(super) fn as_text(source: &FirmwareSource) -> String {
    match source {
        FirmwareSource::Builtin => BUILTIN.to_owned(),
        FirmwareSource::File(path) => text(path),
    }
}

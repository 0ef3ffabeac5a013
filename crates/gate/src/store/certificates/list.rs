// SPDX-License-Identifier: Apache-2.0
//! Listing the certificate store: `cvmm-gate certs list`.

use std::fs;
use std::path::{Path, PathBuf};

use cvmm_attest::claims::{Product, SigningKey};
use cvmm_attest::inspect::{Inspected, inspect};
use cvmm_attest::roots::Trust;
use cvmm_reason::Reason;
use cvmm_snp::tcb::TcbParts;
use serde::Serialize;

use super::{MAX_CRL, cannot, crl_name, refuse, split, vek_name};
use crate::files::{self, FileError};

/// Files that are listed.
const MAX_LISTED: usize = 100_000;

/// A file in the store.
#[derive(Debug, Serialize)]
pub struct StoreEntry {
    /// Its name in the store.
    pub file: PathBuf,
    /// `vcek`, `vlek` or `crl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<&'static str>,
    /// The product line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<Product>,
    /// The chip's identifier, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<String>,
    /// The cloud's identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csp_id: Option<String>,
    /// The TCB that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcb: Option<Tcb>,
    /// Start of its validity in Unix time; for a list, when it was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// End of its validity; for a list, when the next one is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Number of certificates that a list revokes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<usize>,
    /// `good`, `expired`, `not-yet-valid`, `overdue`, `undated`, `bad` or `misplaced`.
    pub state: &'static str,
    /// Why it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Reason>,
}

/// Security version numbers, with the names that policies use.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "AMD's names")]
pub struct Tcb {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    pub bootloader: u8,
    pub tee: u8,
    pub snp: u8,
    pub microcode: u8,
}

impl From<TcbParts> for Tcb {
    fn from(TcbParts { fmc, bootloader, tee, snp, microcode }: TcbParts) -> Self {
        Self { fmc, bootloader, tee, snp, microcode }
    }
}

/// Lists the store in `folder`, by name.
pub fn list(folder: &Path, trust: &Trust, now: i64) -> Result<Vec<StoreEntry>, FileError> {
    let mut paths = Vec::new();
    // vcek/CHIP/NAME; vlek/NAME, crl/NAME.
    for (name, depth) in [("vcek", 2), ("vlek", 1), ("crl", 1)] {
        walk(&folder.join(name), depth, &mut paths)?;
    }
    paths.sort();
    Ok(paths.iter().map(|path| entry(folder, path, trust, now)).collect())
}

fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), FileError> {
    let failed = |source| FileError { what: "read", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if paths.len() >= MAX_LISTED {
            return Err(failed(std::io::Error::other(format!("it has more than {MAX_LISTED} files"))));
        }
        if path.is_dir() && depth > 1 {
            walk(&path, depth - 1, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

fn entry(folder: &Path, path: &Path, trust: &Trust, now: i64) -> StoreEntry {
    let file = path.strip_prefix(folder).unwrap_or(path).to_owned();
    let mut entry = StoreEntry {
        file,
        what: None,
        product: None,
        chip: None,
        csp_id: None,
        tcb: None,
        from: None,
        until: None,
        revoked: None,
        state: "bad",
        problem: None,
    };
    let inspected =
        files::read(path, MAX_CRL).map_err(|error| cannot(&error)).and_then(split).and_then(|all| match all
            .as_slice()
        {
            [der] => inspect(der, trust).map_err(|refusal| refusal.reason()),
            _ => Err(refuse("it has to contain exactly one certificate")),
        });
    let (expected, judged) = match inspected {
        Err(reason) => {
            entry.problem = Some(reason);
            return entry;
        }
        Ok(Inspected::Authority(product)) => {
            entry.product = Some(product);
            entry.state = "misplaced";
            entry.problem = Some(refuse("authorities are built in and never read from the store"));
            return entry;
        }
        Ok(Inspected::Key(key)) => {
            entry.what = Some(key.kind.name());
            entry.product = Some(key.product);
            entry.tcb = Some(key.tcb.into());
            (entry.from, entry.until) = (Some(key.not_before), Some(key.not_after));
            let chip = key.chip.as_deref().unwrap_or_default();
            entry.chip = key.chip.as_ref().map(hex::encode);
            let exact = vek_name(key.kind, chip, &key.tcb);
            let any = exact.with_file_name(format!("{}.der", key.kind.name()));
            let judged = key.check_time(now);
            entry.csp_id = key.csp_id;
            (vec![exact, any], judged)
        }
        Ok(Inspected::List(list)) => {
            entry.what = Some("crl");
            entry.product = Some(list.product);
            (entry.from, entry.until) = (Some(list.this_update), list.next_update);
            entry.revoked = Some(list.revoked);
            let names = [SigningKey::Vcek, SigningKey::Vlek].map(|kind| crl_name(list.product, kind));
            (names.to_vec(), list.check_time(now))
        }
    };
    let (state, problem) = match judged {
        _ if !expected.contains(&entry.file) => {
            let name = expected.first().map(|name| name.display().to_string()).unwrap_or_default();
            ("misplaced", Some(refuse(format!("the gate looks for it as {name}"))))
        }
        Ok(()) => ("good", None),
        Err(refusal) => {
            let state = match refusal.code() {
                "chain.expired" => "expired",
                "crl.stale" => "overdue",
                "crl.undated" => "undated",
                _ => "not-yet-valid",
            };
            (state, Some(refusal.reason()))
        }
    };
    (entry.state, entry.problem) = (state, problem);
    entry
}

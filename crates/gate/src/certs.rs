// SPDX-License-Identifier: Apache-2.0
//! Filling and listing the certificate store: `cvmm-gate certs import|list`.
//!
//! A file is what its content says, whatever it is called: the certificate of a chip's or a cloud's key, a revocation list, or one of
//! the authorities that are built in anyway. It enters the store if one of those signed it and it is valid now, under the name that
//! follows from its extensions. Of a revocation list, only the address it came from says for which kind of keys it is: that has to
//! be said, or be in its file's name.

use std::fs;
use std::path::{Path, PathBuf};

use cvmm_attest::claims::{Product, SigningKey};
use cvmm_attest::encoding;
use cvmm_attest::inspect::{Inspected, KeyCertificate, List, inspect};
use cvmm_attest::roots::Trust;
use cvmm_reason::Reason;
use cvmm_snp::tcb::TcbParts;
use serde::Serialize;

use crate::certificates::{MAX_CERTIFICATE, MAX_CRL, crl_name, vek_name};
use crate::files::{self, FileError};

/// Files that are listed.
const MOST_LISTED: usize = 100_000;

/// What became of a file that was to be imported.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The file.
    pub file: PathBuf,
    /// What is in it: `vcek`, `vlek`, `crl`, `authority`; nothing if it is refused.
    pub what: Option<&'static str>,
    /// Its place in the store.
    pub stored: Option<PathBuf>,
    /// What is to be known of it, such as that it was there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Reason>,
}

fn refuse(message: impl Into<String>) -> Reason {
    Reason::new("gate.certificate", message)
}

fn cannot(error: &FileError) -> Reason {
    refuse(error.to_string())
}

/// Imports what is in `file` into the store in `folder`: one answer for each certificate and list in it. `crl_for` says for which
/// keys a revocation list is.
pub fn import(
    folder: &Path,
    file: &Path,
    crl_for: Option<SigningKey>,
    trust: &Trust,
    now: i64,
) -> Vec<Imported> {
    let answer = |result: Result<(&'static str, Option<PathBuf>, Option<String>), Reason>| {
        let file = file.to_owned();
        match result {
            Ok((what, stored, note)) => Imported { file, what: Some(what), stored, note, refused: None },
            Err(reason) => Imported { file, what: None, stored: None, note: None, refused: Some(reason) },
        }
    };
    let blobs = match files::read(file, MAX_CRL).map_err(|error| cannot(&error)).and_then(split) {
        Ok(blobs) => blobs,
        Err(reason) => return vec![answer(Err(reason))],
    };
    let import = |der: &Vec<u8>| -> Result<_, Reason> {
        match inspect(der, trust).map_err(|refusal| refusal.reason())? {
            Inspected::Authority(product) => {
                Ok(("authority", None, Some(format!("of {product}: it is built in, and not stored"))))
            }
            Inspected::Key(key) => {
                let (path, note) = key_certificate(folder, &key, der, now)?;
                Ok((key.kind.name(), Some(path), note))
            }
            Inspected::List(list) => {
                let kind = crl_for.or_else(|| kind_in_name(file)).ok_or_else(|| {
                    refuse("it does not say whether it is for VCEKs or VLEKs: --crl-for, or vcek or vlek in its name")
                })?;
                let (path, note) = revocation_list(folder, &list, kind, der, trust, now)?;
                Ok(("crl", Some(path), note))
            }
        }
    };
    blobs.iter().map(|der| answer(import(der))).collect()
}

fn key_certificate(
    folder: &Path,
    key: &KeyCertificate,
    der: &[u8],
    now: i64,
) -> Result<(PathBuf, Option<String>), Reason> {
    key.judge_time(now).map_err(|refusal| refusal.reason())?;
    let path = folder.join(vek_name(key.kind, key.chip.as_deref().unwrap_or_default(), &key.tcb));
    let note = store(&path, MAX_CERTIFICATE, der)?;
    Ok((path, note))
}

fn revocation_list(
    folder: &Path,
    list: &List,
    kind: SigningKey,
    der: &[u8],
    trust: &Trust,
    now: i64,
) -> Result<(PathBuf, Option<String>), Reason> {
    let overdue = match list.judge_time(now) {
        // What it revokes stays revoked; a policy may demand a newer one.
        Err(refusal) if refusal.code() == "crl.stale" => Some("overdue: fetch a newer one".to_owned()),
        Err(refusal) if refusal.code() == "crl.undated" => {
            Some("it does not say when it is overdue: a policy may refuse it".to_owned())
        }
        judged => judged.map(|()| None).map_err(|refusal| refusal.reason())?,
    };
    let path = folder.join(crl_name(list.product, kind));
    let old = files::read_if_there(&path, MAX_CRL).map_err(|error| cannot(&error))?;
    // What is there and is no list is better replaced.
    if let Some(Ok(Inspected::List(old))) = old.map(|old| inspect(&old, trust))
        && old.this_update > list.this_update
    {
        return Err(refuse(format!("{} is a newer list than this one", path.display())));
    }
    let note = store(&path, MAX_CRL, der)?;
    Ok((path, overdue.or(note)))
}

/// Puts `der` at `path`.
fn store(path: &Path, most: u64, der: &[u8]) -> Result<Option<String>, Reason> {
    let old = files::read_if_there(path, most).unwrap_or_default();
    if old.as_deref() == Some(der) {
        return Ok(Some("it was there already".to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)
        .map_err(|source| cannot(&FileError { what: "make", path: folder.to_owned(), source }))?;
    files::replace(path, der, 0o644).map_err(|error| cannot(&error))?;
    Ok(old.map(|_| "it replaces another".to_owned()))
}

fn kind_in_name(file: &Path) -> Option<SigningKey> {
    let name = file.file_name()?.to_string_lossy().to_ascii_lowercase();
    match (name.contains("vcek"), name.contains("vlek")) {
        (true, false) => Some(SigningKey::Vcek),
        (false, true) => Some(SigningKey::Vlek),
        _ => None,
    }
}

/// The DER of everything in a file, which is DER or PEM.
fn split(bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, Reason> {
    let items = encoding::items(&bytes).map_err(|problem| refuse(problem.to_string()))?;
    Ok(items.into_iter().map(|item| item.der.into_owned()).collect())
}

/// A file of the store.
#[derive(Debug, Serialize)]
pub struct Stored {
    /// Its name in the store.
    pub file: PathBuf,
    /// `vcek`, `vlek` or `crl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<&'static str>,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<Product>,
    /// The chip's identifier, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<String>,
    /// The cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csp_id: Option<String>,
    /// For which TCB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcb: Option<Tcb>,
    /// From when, in seconds of Unix time; of a list: when it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Until when; of a list: when there is a newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// How many certificates a list revokes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<usize>,
    /// `good`, `expired`, `not-yet-valid`, `overdue`, `undated`, `bad` or `misplaced`.
    pub state: &'static str,
    /// Why it is not good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Reason>,
}

/// Security version numbers, as policies have them.
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

/// Everything in the store in `folder`, by name.
pub fn list(folder: &Path, trust: &Trust, now: i64) -> Result<Vec<Stored>, FileError> {
    let mut paths = Vec::new();
    // vcek/CHIP/NAME; vlek/NAME, crl/NAME.
    for (name, depth) in [("vcek", 2), ("vlek", 1), ("crl", 1)] {
        walk(&folder.join(name), depth, &mut paths)?;
    }
    paths.sort();
    Ok(paths.iter().map(|path| stored(folder, path, trust, now)).collect())
}

fn walk(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), FileError> {
    let failed = |source| FileError { what: "read", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if paths.len() >= MOST_LISTED {
            return Err(failed(std::io::Error::other(format!("it has more than {MOST_LISTED} files"))));
        }
        if path.is_dir() && depth > 1 {
            walk(&path, depth - 1, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

fn stored(folder: &Path, path: &Path, trust: &Trust, now: i64) -> Stored {
    let file = path.strip_prefix(folder).unwrap_or(path).to_owned();
    let mut entry = Stored {
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
            _ => Err(refuse("it has not one certificate in it, and only one is looked for")),
        });
    let (expected, judged) = match inspected {
        Err(reason) => {
            entry.problem = Some(reason);
            return entry;
        }
        Ok(Inspected::Authority(product)) => {
            entry.product = Some(product);
            entry.state = "misplaced";
            entry.problem = Some(refuse("authorities are built in, and none is read from the store"));
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
            let judged = key.judge_time(now);
            entry.csp_id = key.csp_id;
            (vec![exact, any], judged)
        }
        Ok(Inspected::List(list)) => {
            entry.what = Some("crl");
            entry.product = Some(list.product);
            (entry.from, entry.until) = (Some(list.this_update), list.next_update);
            entry.revoked = Some(list.revoked);
            let names = [SigningKey::Vcek, SigningKey::Vlek].map(|kind| crl_name(list.product, kind));
            (names.to_vec(), list.judge_time(now))
        }
    };
    let (state, problem) = match judged {
        _ if !expected.contains(&entry.file) => {
            let name = expected.first().map(|name| name.display().to_string()).unwrap_or_default();
            ("misplaced", Some(refuse(format!("it is looked for as {name}"))))
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

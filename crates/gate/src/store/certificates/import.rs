// SPDX-License-Identifier: Apache-2.0
//! Filling the certificate store: `cvmm-gate certs import`.
//!
//! A file is identified by its content, not by its name: the certificate of a chip or cloud key, a revocation
//! list, or one of the authorities that are built in. It is stored if one of these signed it and it is valid
//! now, under the name that follows from its extensions. A revocation list does not say for which kind of
//! keys it is, only the address that it came from does: it has to be given, or be in the file's name.

use std::fs;
use std::path::{Path, PathBuf};

use cvmm_attest::claims::SigningKey;
use cvmm_attest::inspect::{Inspected, KeyCertificate, List, inspect};
use cvmm_attest::roots::Trust;
use cvmm_reason::Reason;
use serde::Serialize;

use super::{MAX_CERTIFICATE, MAX_CRL, cannot, crl_name, refuse, split, vek_name};
use crate::files::{self, FileError};

/// What became of a certificate or list that was to be imported.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ImportResult {
    /// The file.
    pub file: PathBuf,
    /// Its kind: `vcek`, `vlek`, `crl` or `authority`; `None` if it is refused.
    pub what: Option<&'static str>,
    /// Where it was stored.
    pub stored: Option<PathBuf>,
    /// A remark, such as that it was there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Reason>,
}

/// Imports the content of `file` into the store in `folder`: one result for each certificate and list in it.
/// `crl_for` is the kind of keys that a revocation list applies to.
pub fn import(
    folder: &Path,
    file: &Path,
    crl_for: Option<SigningKey>,
    trust: &Trust,
    now: i64,
) -> Vec<ImportResult> {
    let answer = |result: Result<(&'static str, Option<PathBuf>, Option<String>), Reason>| {
        let file = file.to_owned();
        match result {
            Ok((what, stored, note)) => ImportResult { file, what: Some(what), stored, note, refused: None },
            Err(reason) => ImportResult { file, what: None, stored: None, note: None, refused: Some(reason) },
        }
    };
    let blobs = match files::read(file, MAX_CRL).map_err(|error| cannot(&error)).and_then(split) {
        Ok(blobs) => blobs,
        Err(reason) => return vec![answer(Err(reason))],
    };
    let import = |der: &Vec<u8>| -> Result<_, Reason> {
        match inspect(der, trust).map_err(|refusal| refusal.reason())? {
            Inspected::Authority(product) => {
                Ok(("authority", None, Some(format!("authority for {product}: built in, not stored"))))
            }
            Inspected::Key(key) => {
                let (path, note) = key_certificate(folder, &key, der, now)?;
                Ok((key.kind.name(), Some(path), note))
            }
            Inspected::List(list) => {
                let kind = crl_for.or_else(|| kind_in_name(file)).ok_or_else(|| {
                    refuse("a revocation list does not say whether it is for VCEKs or VLEKs: give --crl-for, or put vcek or vlek into its name")
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
    key.check_time(now).map_err(|refusal| refusal.reason())?;
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
    let overdue = match list.check_time(now) {
        // What it revokes stays revoked; a policy may require a newer one.
        Err(refusal) if refusal.code() == "crl.stale" => Some("overdue: fetch a newer one".to_owned()),
        Err(refusal) if refusal.code() == "crl.undated" => {
            Some("it has no nextUpdate: a policy may refuse it".to_owned())
        }
        judged => judged.map(|()| None).map_err(|refusal| refusal.reason())?,
    };
    let path = folder.join(crl_name(list.product, kind));
    let old = files::read_if_there(&path, MAX_CRL).map_err(|error| cannot(&error))?;
    // A file that is not a list is replaced.
    if let Some(Ok(Inspected::List(old))) = old.map(|old| inspect(&old, trust))
        && old.this_update > list.this_update
    {
        return Err(refuse(format!("{} is newer than this list", path.display())));
    }
    let note = store(&path, MAX_CRL, der)?;
    Ok((path, overdue.or(note)))
}

/// Stores `der` at `path`.
fn store(path: &Path, max: u64, der: &[u8]) -> Result<Option<String>, Reason> {
    let old = files::read_if_there(path, max).unwrap_or_default();
    if old.as_deref() == Some(der) {
        return Ok(Some("already stored".to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)
        .map_err(|source| cannot(&FileError { what: "make", path: folder.to_owned(), source }))?;
    files::replace(path, der, 0o644).map_err(|error| cannot(&error))?;
    Ok(old.map(|_| "replaced a different one".to_owned()))
}

fn kind_in_name(file: &Path) -> Option<SigningKey> {
    let name = file.file_name()?.to_string_lossy().to_ascii_lowercase();
    match (name.contains("vcek"), name.contains("vlek")) {
        (true, false) => Some(SigningKey::Vcek),
        (false, true) => Some(SigningKey::Vlek),
        _ => None,
    }
}

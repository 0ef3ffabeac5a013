// SPDX-License-Identifier: Apache-2.0
//! How many records of a folder in `state` each client has added. A folder holds 65,536 records; without
//! this, one client could use them all up with names of VMs that it makes up.
//!
//! The records themselves do not say which client they are for, and a VM may move from one host to another.
//! So who added a record is kept beside the folder, a JSON line per record. The file is only bookkeeping: if
//! it is lost, older records count for no client.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cvmm_reason::Reason;
use serde::{Deserialize, Serialize};

use crate::clients::Client;
use crate::files::{self, FileError};
use crate::reasons::{Code, state_error};

/// Records that a folder holds.
pub(crate) const MAX_RECORDS: usize = 65_536;
/// Longest file: a line has a client's name (256 bytes) and a record's (129 bytes). Names of removed records
/// stay until the gate starts again or a client reaches its limit, hence twice.
const MAX_FILE: u64 = 2 * 512 * MAX_RECORDS as u64;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    client: String,
    record: String,
}

/// Who added which records of a folder.
#[derive(Debug)]
pub(crate) struct RecordQuota {
    folder: PathBuf,
    file: PathBuf,
    /// Records by client.
    added: Mutex<HashMap<String, HashSet<String>>>,
}

impl RecordQuota {
    /// For the records in `folder`; the file has the folder's name with `.clients` at its end.
    pub(crate) fn open(folder: &Path) -> Result<Self, FileError> {
        let quota = Self::read_only(folder)?;
        let text = quota.text(&quota.added.lock().unwrap_or_else(PoisonError::into_inner));
        if quota.file.exists() {
            files::replace(&quota.file, &text, 0o600)?;
        }
        Ok(quota)
    }

    /// Opens it without writing.
    pub(crate) fn read_only(folder: &Path) -> Result<Self, FileError> {
        let mut name = folder.as_os_str().to_owned();
        name.push(".clients");
        let file = PathBuf::from(name);
        let text = files::read_if_there(&file, MAX_FILE)?.unwrap_or_default();
        let mut added: HashMap<String, HashSet<String>> = HashMap::new();
        // A crash may have cut a line short; that record counts for no client.
        for Line { client, record } in
            text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
        {
            added.entry(client).or_default().insert(record);
        }
        let quota = Self { folder: folder.to_owned(), file, added: Mutex::default() };
        for records in added.values_mut() {
            quota.forget_removed(records);
        }
        *quota.added.lock().unwrap_or_else(PoisonError::into_inner) = added;
        Ok(quota)
    }

    fn forget_removed(&self, records: &mut HashSet<String>) {
        records.retain(|record| self.folder.join(format!("{record}.json")).exists());
    }

    fn text(&self, added: &HashMap<String, HashSet<String>>) -> Vec<u8> {
        let lines =
            added.iter().flat_map(|(client, records)| records.iter().map(|record| line(client, record)));
        lines.flatten().collect()
    }

    /// Counts the new record `record` for `client`, which may have added `max`. A record that is not written
    /// in the end is not counted any more once the limit is reached.
    pub(crate) fn add(&self, client: &Client, record: &str, max: usize) -> Result<(), Reason> {
        if client.is_own() {
            return Ok(());
        }
        let mut added = self.added.lock().unwrap_or_else(PoisonError::into_inner);
        let records = added.entry(client.name().to_owned()).or_default();
        if records.contains(record) {
            return Ok(());
        }
        if records.len() >= max {
            self.forget_removed(records);
        }
        if records.len() >= max {
            let message = format!(
                "client {} has {max} VMs on record in {} (limits.client_vms of gate.toml): remove old ones",
                client.name(),
                self.folder.display()
            );
            return Err(Code::GateQuota.reason(message));
        }
        records.insert(record.to_owned());
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.file)
            .and_then(|mut file| file.write_all(&line(client.name(), record)));
        written.map_err(|error| state_error(format!("cannot write {}: {error}", self.file.display())))
    }
}

fn line(client: &str, record: &str) -> Vec<u8> {
    let line = Line { client: client.to_owned(), record: record.to_owned() };
    // A struct of strings is always JSON.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::clients::{Clients, Table};

    fn client(name: &str) -> Arc<Client> {
        let all = vec!["*".to_owned()];
        let table = Table { name: Some(name.into()), uid: None, policies: all.clone(), vms: all };
        Clients::new(&[table], 0).of_names(&[name.to_owned()]).unwrap()
    }

    #[test]
    fn a_client_adds_so_many_records_and_a_restart_does_not_reset_that() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("vms");
        fs::create_dir(&folder).unwrap();
        let (host_1, host_2) = (client("host-1"), client("host-2"));
        let quota = RecordQuota::open(&folder).unwrap();
        let add = |quota: &RecordQuota, client: &Client, name: &str| {
            quota.add(client, name, 2)?;
            fs::write(folder.join(format!("{name}.json")), "{}").unwrap();
            Ok::<_, Reason>(())
        };
        add(&quota, &host_1, "a").unwrap();
        add(&quota, &host_1, "b").unwrap();
        add(&quota, &host_1, "b").unwrap();
        assert_eq!(add(&quota, &host_1, "c").unwrap_err().code, "gate.quota");
        add(&quota, &host_2, "c").unwrap();
        // One that was never written is no longer counted when it matters.
        quota.add(&host_2, "d", 2).unwrap();
        add(&quota, &host_2, "e").unwrap();
        assert_eq!(add(&quota, &host_2, "f").unwrap_err().code, "gate.quota");
        for number in 0..100 {
            add(&quota, &Client::own(), &format!("own-{number}")).unwrap();
        }
        let file = state.path().join("vms.clients");
        let mut text = fs::read(&file).unwrap();
        text.extend(b"{\"client\":\"host-1\",\"rec");
        fs::write(&file, text).unwrap();
        let quota = RecordQuota::open(&folder).unwrap();
        assert_eq!(add(&quota, &host_1, "c2").unwrap_err().code, "gate.quota");
        fs::remove_file(folder.join("a.json")).unwrap();
        add(&quota, &host_1, "c2").unwrap();
        assert_eq!(add(&quota, &host_1, "c3").unwrap_err().code, "gate.quota");
        let lines = fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().filter(|line| line.contains("host-1")).count(), 3, "{lines}");
        drop(RecordQuota::open(&folder).unwrap());
        let lines = fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().count(), 4, "{lines}");
    }
}

// SPDX-License-Identifier: Apache-2.0
//! `cvmm state`.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cvmm_guest_state::info::Info;
use cvmm_guest_state::{Expected, Kind, StateError, StateKey, Store};
use serde_json::{Value, json};

use super::session::{Sentence, Session};
use super::state_args::{CheckArgs, CreateArgs, ExportArgs, RekeyArgs, StateCommand, StateFile};
use crate::exit_code::ExitStatus;

impl Session<'_> {
    pub(super) fn state(&mut self, command: &StateCommand) -> ExitStatus {
        let done = match command {
            StateCommand::Create(args) => self.state_create(args),
            StateCommand::Info { file, json } => self.state_info(file, *json),
            StateCommand::Check(args) => self.state_check(args),
            StateCommand::Rekey(args) => self.state_rekey(args),
            StateCommand::Export(args) => self.state_export(args),
        };
        done.unwrap_or_else(|status| status)
    }

    fn key(&mut self, path: &Path) -> Result<StateKey, ExitStatus> {
        StateKey::from_file(path).map_err(|error| {
            self.error(ExitStatus::Usage, &error);
            ExitStatus::Usage
        })
    }

    /// Says why a state file is not used: to people, and with `--json` to programs too.
    fn refused(&mut self, file: &Path, error: &StateError, json: bool) -> ExitStatus {
        let status = match error {
            StateError::Io { .. } | StateError::Missing | StateError::Exists | StateError::Locked => {
                ExitStatus::File
            }
            StateError::Crypto => ExitStatus::Internal,
            _ => ExitStatus::State,
        };
        let code = error.code();
        if json {
            let report = json!({ "ok": false, "code": code, "message": error.to_string() });
            self.print(format!("{report:#}\n").as_bytes());
        }
        self.error(status, &Sentence(format!("{}: {code}: {error}", file.display())));
        status
    }

    fn opened(&mut self, opened: &StateFile, writable: bool, json: bool) -> Result<Store, ExitStatus> {
        let key = self.key(&opened.key)?;
        self.opened_with(opened, &[key], writable, json)
    }

    fn opened_with(
        &mut self,
        opened: &StateFile,
        keys: &[StateKey],
        writable: bool,
        json: bool,
    ) -> Result<Store, ExitStatus> {
        Store::open_any(&opened.file, keys, writable)
            .map_err(|error| self.refused(&opened.file, &error, json))
    }

    fn found(&mut self, store: &Store, json: bool) -> ExitStatus {
        for at in store.damaged() {
            tracing::warn!("the copy of a header at byte {at} is damaged or stale; the other copy is used");
        }
        let report = report(store);
        if json {
            return self.print(format!("{report:#}\n").as_bytes());
        }
        let (used, blocks) = store.usage();
        let mut text = format!(
            "VM {}, epoch {}, {} changes, sequence {}, {} key(s), {used} of {blocks} blocks used\n",
            store.vm_id(),
            store.epoch(),
            store.counter(),
            store.sequence(),
            store.key_slots(),
        );
        for (kind, stored) in store.stored() {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{:<14} {:>7} bytes, engine {:#x}, epoch {}, change {}",
                kind.name(),
                stored.len,
                stored.engine,
                stored.epoch,
                stored.counter
            );
        }
        self.print(text.as_bytes())
    }

    fn state_create(&mut self, args: &CreateArgs) -> Result<ExitStatus, ExitStatus> {
        let CreateArgs { opened, vm_id, epoch, json } = args;
        let key = self.key(&opened.key)?;
        let made = Store::create(&opened.file, &key, vm_id, *epoch);
        let store = made.map_err(|error| self.refused(&opened.file, &error, *json))?;
        Ok(if *json { self.found(&store, true) } else { ExitStatus::Success })
    }

    fn state_info(&mut self, path: &Path, json: bool) -> Result<ExitStatus, ExitStatus> {
        let info = File::open(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => StateError::Missing,
            _ => StateError::Io { what: "open", source },
        });
        let info =
            info.and_then(|file| Info::read(&file)).map_err(|error| self.refused(path, &error, json))?;
        let Info { size, sequence, slot, encrypted, key_slots, file_table, files, damaged } = info;
        if json {
            let files: Vec<_> = files
                .iter()
                .map(|file| json!({ "id": file.id, "name": file.name, "offset": file.offset, "size": file.size, "attributes": file.attributes }))
                .collect();
            let damaged: Vec<_> = damaged
                .iter()
                .map(|(at, problem)| json!({ "offset": at, "problem": problem.map_or("is stale".to_owned(), |problem| problem.to_string()) }))
                .collect();
            let report = json!({
                "size": size, "sequence": sequence, "slot": slot, "encrypted": encrypted, "key_slots": key_slots,
                "file_table_block": file_table, "files": files, "damaged_headers": damaged,
            });
            return Ok(self.print(format!("{report:#}\n").as_bytes()));
        }
        let mut text = format!(
            "VMGS 3.0, {size} bytes, sequence {sequence} (slot {slot}), {}, {key_slots} key(s); none of this is verified\n",
            if encrypted { "AES-256-GCM" } else { "NOT ENCRYPTED" },
        );
        for file in files {
            let _ =
                writeln!(text, "{:>2} {:<20} {:>7} bytes at {}", file.id, file.name, file.size, file.offset);
        }
        for (at, problem) in damaged {
            let problem = problem.map_or("is stale".to_owned(), |problem| problem.to_string());
            let _ = writeln!(text, "the copy of a header at byte {at} {problem}");
        }
        Ok(self.print(text.as_bytes()))
    }

    fn state_check(&mut self, args: &CheckArgs) -> Result<ExitStatus, ExitStatus> {
        let CheckArgs { opened, vm_id, least_epoch, least_counter, json } = args;
        let store = self.opened(opened, false, *json)?;
        let expected = Expected {
            vm_id: vm_id.clone().unwrap_or_else(|| store.vm_id().clone()),
            epochs: *least_epoch..=u64::MAX,
            least_counter: *least_counter,
        };
        store.check(&expected).map_err(|error| self.refused(&opened.file, &error, *json))?;
        Ok(self.found(&store, *json))
    }

    fn state_rekey(&mut self, args: &RekeyArgs) -> Result<ExitStatus, ExitStatus> {
        let RekeyArgs { opened, new_key, json } = args;
        let keys = [self.key(&opened.key)?, self.key(new_key)?];
        let mut store = self.opened_with(opened, &keys, true, *json)?;
        let [_, new] = &keys;
        store.rekey(new).map_err(|error| self.refused(&opened.file, &error, *json))?;
        Ok(if *json { self.found(&store, true) } else { ExitStatus::Success })
    }

    fn state_export(&mut self, args: &ExportArgs) -> Result<ExitStatus, ExitStatus> {
        let ExportArgs { opened, kind, out, json } = args;
        let store = self.opened(opened, false, *json)?;
        let kinds: Vec<Kind> = match kind {
            Some(kind) if !store.stored().contains_key(kind) => {
                let sentence = format!("{}: there is no {kind} in it", opened.file.display());
                self.error(ExitStatus::Usage, &Sentence(sentence));
                return Err(ExitStatus::Usage);
            }
            Some(kind) => vec![*kind],
            None => store.stored().keys().copied().filter(|kind| *kind != Kind::Meta).collect(),
        };
        let mut written = Vec::new();
        for kind in kinds {
            let loaded = store.load(kind).map_err(|error| self.refused(&opened.file, &error, *json))?;
            let Some(blob) = loaded else { continue };
            let path = out.join(format!("{kind}.bin"));
            let write = || {
                fs::create_dir_all(out)?;
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
                file.write_all(&blob.content)?;
                file.sync_all()
            };
            write().map_err(|error| {
                let sentence = format!("cannot write {}: {error}", path.display());
                self.error(ExitStatus::File, &Sentence(sentence));
                ExitStatus::File
            })?;
            written.push(path.display().to_string());
        }
        if written.is_empty() && !*json {
            // Standard output has the names of files.
            let _ = writeln!(
                self.err,
                "note: {} holds no state yet: nothing was exported (its VM has not run, or its TPM has stored nothing)",
                opened.file.display()
            );
        }
        let text = if *json {
            format!("{:#}\n", json!({ "written": written }))
        } else {
            written.iter().fold(String::new(), |text, path| text + path + "\n")
        };
        Ok(self.print(text.as_bytes()))
    }
}

fn report(store: &Store) -> Value {
    let files: Vec<_> = store
        .stored()
        .iter()
        .map(|(kind, stored)| {
            json!({
                "name": kind.name(), "id": kind.id(), "size": stored.len, "engine": stored.engine,
                "epoch": stored.epoch, "counter": stored.counter,
            })
        })
        .collect();
    let (used, blocks) = store.usage();
    json!({
        "ok": true, "vm_id": store.vm_id().as_str(), "epoch": store.epoch(), "counter": store.counter(),
        "sequence": store.sequence(), "key_slots": store.key_slots(), "files": files, "blocks": blocks,
        "blocks_used": used, "damaged_headers": store.damaged(),
    })
}

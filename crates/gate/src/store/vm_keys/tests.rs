// SPDX-License-Identifier: Apache-2.0
//! Starts, copies and crashes. A [`File`] is what a state file is to the gate: an epoch and a counter.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

struct Gate {
    folder: TempDir,
}

impl Gate {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        StoreKey::generate(&folder.path().join("store.key")).unwrap();
        fs::create_dir(folder.path().join("keys")).unwrap();
        Self { folder }
    }

    /// Also a restart: what was in memory is gone.
    fn open(&self) -> VmKeys {
        let store_key = StoreKey::load(&self.folder.path().join("store.key")).unwrap();
        VmKeys::open(&self.folder.path().join("keys"), store_key).unwrap()
    }

    fn record(&self, vm_id: &str) -> PathBuf {
        self.folder.path().join("keys").join(format!("{vm_id}.json"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    epoch: u64,
    counter: u64,
}

const NEW: File = File { epoch: 0, counter: 1 };

/// As cvmm does: opens the file with what it was given; `false` if it is refused.
fn accepts(release: &Release, file: File) -> bool {
    release.accepted.contains(&file.epoch) && file.counter >= release.least_counter
}

fn write(release: &Release, file: &mut File) {
    assert!(accepts(release, *file) && release.epoch > file.epoch, "{release:?} {file:?}");
    *file = File { epoch: release.epoch, counter: file.counter + 1 };
}

/// A whole start.
fn start(keys: &VmKeys, file: &mut File) -> Release {
    let release = keys.release("vm", "web", |_| false).unwrap();
    write(&release, file);
    keys.confirm("vm", release.epoch).unwrap();
    release
}

fn code<T: fmt::Debug>(result: Result<T, Reason>) -> String {
    result.unwrap_err().code.into_owned()
}

#[test]
fn a_vm_has_one_key_that_no_other_vm_has() {
    let gate = Gate::new();
    let keys = gate.open();
    let first = keys.release("vm", "web", |_| false).unwrap();
    assert!(first.may_create && first.accepted == (0..=0) && first.epoch == 1);
    let other = keys.release("vm2", "web", |_| false).unwrap();
    assert_ne!(first.keys[0].expose(), other.keys[0].expose());
    assert_eq!(code(keys.release("vm", "web", |_| false)), "key.in-use");
    assert_eq!(code(keys.forget("vm")), "key.in-use");
    let key = first.keys[0].clone();
    drop(first);
    assert_eq!(code(keys.release("vm", "db", |_| false)), "key.policy");
    let again = gate.open().release("vm", "web", |_| false).unwrap();
    assert_eq!(again.keys[0].expose(), key.expose());
    assert_eq!(keys.export("vm").unwrap()[0].expose(), key.expose());
    assert_eq!(format!("{key:?} {:?}", keys.store_key), "VmKey(..) StoreKey(..)");
    let text = fs::read(gate.record("vm")).unwrap();
    assert!(!text.windows(KEY_LEN).any(|part| part == key.expose()));
    assert!(!String::from_utf8_lossy(&text).contains(&STANDARD.encode(key.expose())[..40]));
    assert_eq!(fs::metadata(gate.record("vm")).unwrap().permissions().mode() & 0o777, 0o600);
    for name in ["", "../vm", ".vm", "a b"] {
        assert_eq!(code(keys.release(name, "web", |_| false)), "manifest.vm-id");
    }
    assert_eq!(code(keys.confirm("none", 1)), "key.vm");
    assert_eq!(code(keys.export("none")), "key.vm");
}

#[test]
fn a_file_that_was_rolled_back_is_refused() {
    let gate = Gate::new();
    let keys = gate.open();
    let mut file = NEW;
    let first = start(&keys, &mut file);
    let backup = file;
    keys.end(first.lease, file.counter).unwrap();
    let second = start(&keys, &mut file);
    assert!(!second.may_create, "no file is not as good as an empty one any more");
    file.counter += 100;
    keys.end(second.lease, file.counter).unwrap();
    let third = keys.release("vm", "web", |_| false).unwrap();
    assert!(!accepts(&third, backup) && !accepts(&third, NEW));
    // Of the same run, but from before its end.
    assert!(!accepts(&third, File { counter: file.counter - 1, ..file }));
    write(&third, &mut file);
    keys.confirm("vm", third.epoch).unwrap();
    keys.confirm("vm", third.epoch).unwrap();
    let summary = keys.summary("vm").unwrap();
    assert_eq!((summary.issued, summary.confirmed, summary.counter), (3, 3, file.counter - 1));
}

#[test]
fn a_crash_at_any_step_of_a_start_leaves_a_file_that_starts() {
    let gate = Gate::new();
    let mut file = NEW;
    let mut seed = 7_u64;
    let mut confirmed = NEW;
    for round in 0..100 {
        // The gate crashes too, now and then.
        let keys = gate.open();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let release = keys.release("vm", "web", |_| false).unwrap();
        assert!(accepts(&release, file), "round {round}: {release:?} {file:?}");
        let steps = (seed >> 33) % 5;
        // A start that was not confirmed has changed nothing for its guest; the last confirmed one is the
        // oldest that is accepted.
        assert_eq!(*release.accepted.start(), confirmed.epoch);
        if steps > 0 {
            write(&release, &mut file);
        }
        if steps > 1 {
            keys.confirm("vm", release.epoch).unwrap();
            confirmed = file;
            file.counter += 10;
        }
        if steps > 2 {
            keys.checkpoint("vm", release.epoch, file.counter).unwrap();
        }
        if steps > 3 {
            file.counter += 1;
            keys.end(release.lease, file.counter).unwrap();
        }
    }
    assert_eq!(gate.open().summary("vm").unwrap().issued, 100);
}

#[test]
fn of_two_copies_one_goes_on() {
    let gate = Gate::new();
    let keys = gate.open();
    let mut first = NEW;
    drop(start(&keys, &mut first));
    let mut second = first;

    // Both start one after the other: the second one's file is old.
    let release = start(&keys, &mut first);
    assert_eq!(code(keys.release("vm", "web", |_| false)), "key.in-use");
    drop(release);
    assert!(!accepts(&keys.release("vm", "web", |_| false).unwrap(), second));

    // Both are released before either confirms (the gate was restarted): the later release counts.
    second = first;
    let one = gate.open().release("vm", "web", |_| false).unwrap();
    let keys = gate.open();
    let two = keys.release("vm", "web", |_| false).unwrap();
    write(&one, &mut first);
    write(&two, &mut second);
    assert_eq!(code(keys.confirm("vm", one.epoch)), "key.superseded");
    keys.confirm("vm", two.epoch).unwrap();
    drop((one, two));
    let release = keys.release("vm", "web", |_| false).unwrap();
    assert!(!accepts(&release, first) && accepts(&release, second));
    write(&release, &mut second);
    keys.confirm("vm", release.epoch).unwrap();

    // The gate is restarted under a running VM, and a copy of its file is started.
    let mut copy = second;
    let keys = gate.open();
    let other = start(&keys, &mut copy);
    second.counter += 5;
    assert_eq!(code(keys.checkpoint("vm", release.epoch, second.counter)), "key.superseded");
    drop(other);
    let next = keys.release("vm", "web", |_| false).unwrap();
    assert!(!accepts(&next, second) && accepts(&next, copy));
    assert_eq!(code(keys.checkpoint("vm", next.epoch, copy.counter)), "key.order");
}

#[test]
fn a_record_that_was_changed_is_refused() {
    let gate = Gate::new();
    let keys = gate.open();
    for vm_id in ["vm", "vm2"] {
        let release = keys.release(vm_id, "web", |_| false).unwrap();
        keys.confirm(vm_id, release.epoch).unwrap();
    }
    let whole = fs::read(gate.record("vm")).unwrap();
    for at in 0..whole.len() {
        let mut text = whole.clone();
        text[at] ^= 1;
        fs::write(gate.record("vm"), &text).unwrap();
        assert_eq!(code(keys.release("vm", "web", |_| false)), "key.record", "byte {at}");
    }
    for part in [0, 1, whole.len() / 2, whole.len() - 1] {
        fs::write(gate.record("vm"), &whole[..part]).unwrap();
        assert_eq!(code(keys.release("vm", "web", |_| false)), "key.record");
    }
    fs::write(gate.record("vm"), vec![b' '; 5000]).unwrap();
    assert_eq!(code(keys.release("vm", "web", |_| false)), "gate.state");
    fs::copy(gate.record("vm2"), gate.record("vm")).unwrap();
    assert_eq!(code(keys.release("vm", "web", |_| false)), "key.record");
    // Numbers that were turned back by hand.
    let mut record: Record = serde_json::from_slice(&whole).unwrap();
    record.confirmed = 0;
    fs::write(gate.record("vm"), serde_json::to_vec(&record).unwrap()).unwrap();
    assert_eq!(code(keys.release("vm", "web", |_| false)), "key.record");
    fs::write(gate.record("vm"), &whole).unwrap();
    assert!(keys.release("vm", "web", |_| false).is_ok());
    // Another store key.
    fs::remove_file(gate.folder.path().join("store.key")).unwrap();
    StoreKey::generate(&gate.folder.path().join("store.key")).unwrap();
    assert_eq!(code(gate.open().release("vm", "web", |_| false)), "key.record");
}

#[test]
fn a_key_is_changed_and_forgotten() {
    let gate = Gate::new();
    let keys = gate.open();
    let old = keys.release("vm", "web", |_| false).unwrap().keys[0].clone();
    let (first, new) = keys.begin_rekey("vm").unwrap();
    assert_eq!(first.expose(), old.expose());
    // Interrupted: the same two again, and a lease gets both.
    let (_, again) = gate.open().begin_rekey("vm").unwrap();
    assert_eq!(again.expose(), new.expose());
    assert!(keys.summary("vm").unwrap().rekeying);
    let both = keys.release("vm", "web", |_| false).unwrap().keys;
    assert_eq!(both.iter().map(VmKey::expose).collect::<Vec<_>>(), [old.expose(), new.expose()]);
    keys.finish_rekey("vm").unwrap();
    keys.finish_rekey("vm").unwrap();
    assert_eq!(keys.export("vm").unwrap().iter().map(VmKey::expose).collect::<Vec<_>>(), [new.expose()]);
    keys.forget("vm").unwrap();
    assert_eq!(code(keys.forget("vm")), "key.vm");
    let release = keys.release("vm", "web", |_| false).unwrap();
    assert_ne!(release.keys[0].expose(), new.expose());
}

#[test]
fn there_is_an_end_to_new_vms() {
    let gate = Gate::new();
    assert_eq!(gate.open().max_records, 65_536);
    for number in 0..19 {
        fs::write(gate.record(&format!("old-{number}")), "").unwrap();
    }
    fs::write(gate.folder.path().join("keys/.other.new"), "").unwrap();
    let mut keys = gate.open();
    keys.max_records = 20;
    drop(keys.release("last", "web", |_| false).unwrap());
    assert_eq!(code(keys.release("one-more", "web", |_| false)), "gate.state");
    assert!(keys.release("last", "web", |_| false).is_ok(), "those that are there go on");
    keys.forget("old-5").unwrap();
    assert!(keys.release("one-more", "web", |_| false).is_ok());
}

#[test]
fn a_record_that_cannot_be_written_releases_nothing() {
    let gate = Gate::new();
    let keys = gate.open();
    drop(keys.release("vm", "web", |_| false).unwrap());
    // The folder is gone, for root too.
    let folder = gate.folder.path().join("keys");
    fs::rename(&folder, gate.folder.path().join("moved")).unwrap();
    assert_eq!(code(keys.release("vm", "web", |_| false)), "gate.state");
    fs::rename(gate.folder.path().join("moved"), &folder).unwrap();
    assert_eq!(keys.release("vm", "web", |_| false).unwrap().epoch, 2);
}

#[test]
fn the_store_key_is_private() {
    let gate = Gate::new();
    let path = gate.folder.path().join("store.key");
    assert!(matches!(StoreKey::generate(&path), Err(KeysError::Exists(_))));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(StoreKey::load(&path), Err(KeysError::Private(_))));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, [0; 31]).unwrap();
    assert!(matches!(StoreKey::load(&path), Err(KeysError::StoreKey(_))));
}

#[test]
fn a_slow_disk_under_one_vm_delays_no_other() {
    let gate = Gate::new();
    let keys = gate.open();
    for vm_id in ["slow", "vm"] {
        let release = keys.release(vm_id, "web", |_| false).unwrap();
        keys.confirm(vm_id, release.epoch).unwrap();
    }
    // As long as one VM's record is being written.
    let writing = keys.lock("slow");
    keys.checkpoint("vm", 1, 7).unwrap();
    let next = keys.release("vm", "web", |_| false).unwrap();
    assert_eq!((next.epoch, next.least_counter), (2, 7));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| keys.checkpoint("slow", 1, 9));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(writing);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(keys.summary("slow").unwrap().counter, 9);
}

#[test]
fn changes_of_one_vm_at_the_same_time_are_all_kept() {
    let gate = Gate::new();
    let keys = gate.open();
    let release = keys.release("vm", "web", |_| false).unwrap();
    keys.confirm("vm", release.epoch).unwrap();
    std::thread::scope(|scope| {
        for counter in 1..=16 {
            let keys = &keys;
            scope.spawn(move || keys.checkpoint("vm", 1, counter).unwrap());
        }
        scope.spawn(|| keys.begin_rekey("vm").unwrap());
    });
    let summary = keys.summary("vm").unwrap();
    assert!(summary.counter == 16 && summary.rekeying, "{summary:?}");
}

// SPDX-License-Identifier: Apache-2.0

use std::fs;

use cvmm_gate_protocol::ticket::VerdictKey;

use super::rotate::From as RotateFrom;
use super::*;
use crate::keys::generate;

fn open(path: &Path, signer: Signer) -> Result<Audit, AuditError> {
    Audit::open(path, &path.with_file_name("audit-end.json"), signer)
}

fn verify_one(path: &Path, key: &VerdictKey) -> Result<Verification, AuditError> {
    verify(&[path.to_owned()], std::slice::from_ref(key))
}

fn log() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    generate(&key).unwrap();
    let log = folder.path().join("audit.log");
    (folder, log, key)
}

#[test]
fn every_change_shows() {
    let (_folder, path, key) = log();
    let signer = || Signer::load(&key).unwrap();
    let public = signer().public().unwrap();
    let audit = open(&path, signer()).unwrap();
    for number in 0..100 {
        audit.append(number, &json!({ "event": "decision", "number": number })).unwrap();
    }
    audit.close(100).unwrap();
    drop(audit);
    let read = verify_one(&path, &public).unwrap();
    assert_eq!((read.end.seq, read.signed), (102, 102));
    let good = fs::read(&path).unwrap();
    let lines: Vec<_> = good.split_inclusive(|byte| *byte == b'\n').collect();
    let check = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        verify_one(&path, &public).map(|read| read.signed)
    };
    let mut swapped = lines.clone();
    swapped.swap(50, 51);
    assert!(check(&swapped.concat()).is_err());
    assert!(check(&[&lines[..50], &lines[51..]].concat().concat()).is_err());
    assert!(check(&lines[1..].concat()).is_err());
    // An end that is cut off shows by what is signed.
    assert_eq!(check(&lines[..60].concat()).unwrap(), 1);
    assert!(check(&good[..good.len() - 5]).is_err());
    let step = 37;
    for at in (0..good.len()).step_by(step) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(check(&changed).is_err(), "byte {at}");
    }
    let (_other, _, other) = log();
    fs::write(&path, &good).unwrap();
    assert!(verify_one(&path, &Signer::load(&other).unwrap().public().unwrap()).is_err());
}

/// The lines behind `kept` as they can be written without the key: changed by `change`, in a chain, without
/// signatures.
fn forged(kept: &str, lines: &str, change: impl Fn(&mut Map<String, Value>)) -> String {
    let (mut text, mut prev) = (kept.to_owned(), "0".repeat(96));
    if let Some(last) = kept.lines().last() {
        prev = hash(last.as_bytes());
    }
    for line in lines.lines() {
        let Ok(Value::Object(mut line)) = serde_json::from_str(line) else { panic!("{line}") };
        line.remove("signature");
        line.insert("prev".into(), prev.into());
        change(&mut line);
        let line = Value::Object(line).to_string();
        prev = hash(line.as_bytes());
        text = text + &line + "\n";
    }
    text
}

#[test]
fn a_log_written_again_without_signatures_does_not_verify() {
    let (_folder, path, key) = log();
    let signer = Signer::load(&key).unwrap();
    let public = signer.public().unwrap();
    let audit = open(&path, signer).unwrap();
    for number in 0..200 {
        audit.append(number, &json!({ "event": "admitted" })).unwrap();
    }
    audit.close(100).unwrap();
    let good = fs::read_to_string(&path).unwrap();
    let nothing = |_: &mut Map<String, Value>| ();
    // As version 1, too: its lines have no version.
    let older = |line: &mut Map<String, Value>| drop(line.remove("v"));
    let check = |text: &str| {
        fs::write(&path, text).unwrap();
        verify_one(&path, &public).map(|read| read.signed)
    };
    assert_eq!(check(&good).unwrap(), 202);
    assert!(check(&forged("", &good, nothing)).is_err());
    assert!(check(&forged("", &good, older)).is_err());
    assert!(check(&forged("", good.lines().next().unwrap(), older)).is_err(), "a single line");
    // What is left of it up to a signature, and more lines than a gate leaves unsigned.
    let (kept, rest) = good.split_at(good.find('\n').unwrap() + 1);
    let error = check(&forged(kept, rest, nothing)).unwrap_err();
    assert!(matches!(error, AuditError::Chain { line: 65, .. }), "{error}");
}

#[test]
fn a_line_cut_short_by_a_crash_is_taken_off() {
    let (_folder, path, key) = log();
    let signer = || Signer::load(&key).unwrap();
    open(&path, signer()).unwrap().append(1, &json!({ "event": "a" })).unwrap();
    let good = fs::read(&path).unwrap();
    fs::write(&path, [good.as_slice(), b"{\"seq\":2,\"ti"].concat()).unwrap();
    open(&path, signer()).unwrap().append(2, &json!({ "event": "b" })).unwrap();
    assert_eq!(verify_one(&path, &signer().public().unwrap()).unwrap().end.seq, 4);
    assert!(fs::read_to_string(&path).unwrap().contains("\"torn_bytes\":12"));
    // A log that was tampered with is not continued.
    let text = fs::read_to_string(&path).unwrap().replace("\"event\":\"a\"", "\"event\":\"x\"");
    fs::write(&path, text).unwrap();
    assert!(matches!(open(&path, signer()), Err(AuditError::Chain { .. })));
}

#[test]
fn a_full_disk_is_an_error_for_good() {
    let (_folder, path, key) = log();
    let audit = open(&path, Signer::load(&key).unwrap()).unwrap();
    audit.fill_the_disk();
    assert!(matches!(audit.append(1, &json!({})), Err(AuditError::File(_))));
    // What may have got there could not be taken off.
    assert!(matches!(audit.append(1, &json!({})), Err(AuditError::Broken(_))));
}

#[test]
fn lines_of_one_time_share_a_sync_and_keep_the_chain() {
    let (_folder, path, key) = log();
    let signer = || Signer::load(&key).unwrap();
    let audit = open(&path, signer()).unwrap();
    // While the first batch is written, the others gather: with the chain held, it is not done before they
    // are there.
    let held = audit.chain.lock().unwrap();
    std::thread::scope(|scope| {
        for number in 0..32 {
            let audit = &audit;
            scope.spawn(move || {
                for turn in 0..8 {
                    let event = json!({ "event": "decision", "number": number, "turn": turn });
                    audit.append(turn, &event).unwrap();
                    // What `append` has returned for is in the file.
                    let text = fs::read_to_string(&audit.path).unwrap();
                    let written = text.lines().any(|line| {
                        let line: Value = serde_json::from_str(line).unwrap_or_default();
                        line["number"] == number && line["turn"] == turn
                    });
                    assert!(written);
                }
            });
        }
        while audit.queue().lines.len() < 31 {
            std::thread::yield_now();
        }
        drop(held);
    });
    audit.close(9).unwrap();
    let read = verify_one(&path, &signer().public().unwrap()).unwrap();
    assert_eq!((read.end.seq, read.signed), (32 * 8 + 2, 32 * 8 + 2));
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Each line once, and each thread's own in their order.
    for number in 0..32 {
        let turns: Vec<_> = lines.iter().filter(|line| line["number"] == number).collect();
        assert!(turns.iter().enumerate().all(|(turn, line)| line["turn"] == turn) && turns.len() == 8);
    }
}

#[test]
fn a_batch_that_cannot_be_written_is_an_error_for_each_of_its_lines() {
    let (_folder, path, key) = log();
    let signer = || Signer::load(&key).unwrap();
    let audit = open(&path, signer()).unwrap();
    let before = fs::read(&path).unwrap();
    let good = audit.chain.lock().unwrap().file.try_clone().unwrap();
    // A file that may only be read takes no line, and nothing has to be taken off it.
    let mut held = audit.chain.lock().unwrap();
    held.file = File::open(&path).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|number| {
                scope.spawn({
                    let audit = &audit;
                    move || audit.append(1, &json!({ "number": number }))
                })
            })
            .collect();
        while audit.queue().lines.len() < 15 {
            std::thread::yield_now();
        }
        drop(held);
        let errors: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap().unwrap_err()).collect();
        assert!(errors.iter().any(|error| matches!(error, AuditError::Batch(_))), "{errors:?}");
    });
    assert_eq!(fs::read(&path).unwrap(), before);
    // Once the disk has room again, the chain goes on where it was.
    let mut chain = audit.chain.lock().unwrap();
    (chain.file, chain.broken) = (good, None);
    drop(chain);
    audit.append(2, &json!({ "event": "after" })).unwrap();
    assert_eq!(verify_one(&path, &signer().public().unwrap()).unwrap().end.seq, 2);
}

/// A log made by the gate before version 2 (commit 4a6bebc), with a crash in it, and its public key.
const V1: (&[u8], &str) =
    (include_bytes!("../../tests/data/audit-v1.log"), include_str!("../../tests/data/audit-v1.pem.pub"));

#[test]
fn an_old_log_is_read_and_continued_in_the_new_format() {
    let (_folder, path, key) = log();
    fs::write(&path, V1.0).unwrap();
    let old = VerdictKey::from_pem(V1.1).unwrap();
    let read = verify_one(&path, &old).unwrap();
    // The last signature is over what is before its line.
    assert_eq!((read.end.seq, read.signed), (12, 11));
    let signer = Signer::load(&key).unwrap();
    let keys = [old, signer.public().unwrap()];
    let audit = open(&path, signer).unwrap();
    audit.append(1, &json!({ "event": "a" })).unwrap();
    audit.close(2).unwrap();
    let read = verify(std::slice::from_ref(&path), &keys).unwrap();
    assert_eq!((read.end.seq, read.signed), (15, 15));
    // Every byte counts, wherever the format changes; and a line of the old format cannot follow the new.
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(&path, changed).unwrap();
        assert!(verify(std::slice::from_ref(&path), &keys).is_err(), "byte {at}");
    }
    let prev = read.end.hash;
    let line = format!("{{\"event\":\"x\",\"prev\":\"{prev}\",\"seq\":15,\"time\":3}}\n");
    fs::write(&path, [good.as_slice(), line.as_bytes()].concat()).unwrap();
    let error = verify(std::slice::from_ref(&path), &keys).unwrap_err().to_string();
    assert!(error.contains("line 16: it has an older format"), "{error}");
}

#[test]
fn a_signed_line_is_covered_by_its_own_signature() {
    let (_folder, path, key) = log();
    let public = Signer::load(&key).unwrap().public().unwrap();
    let audit = open(&path, Signer::load(&key).unwrap()).unwrap();
    audit.append(1, &json!({ "event": "admitted", "vm": "a" })).unwrap();
    audit.close(2).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for (what, with) in [("\"close\"", "\"opens\""), ("\"time\":2", "\"time\":3")] {
        let (before, last) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(last.contains(what));
        fs::write(&path, format!("{before}\n{}\n", last.replace(what, with))).unwrap();
        let error = verify_one(&path, &public).unwrap_err().to_string();
        assert!(error.contains("signature does not verify"), "{error}");
    }
}

#[test]
fn a_line_is_bounded_whatever_the_event_is() {
    let (_folder, path, key) = log();
    let signer = || Signer::load(&key).unwrap();
    let audit = open(&path, signer()).unwrap();
    let many: Vec<_> = (0..2000).map(|number| json!({ "id": "p".repeat(64), "version": number })).collect();
    for event in [
        json!({ "event": "denied", "reasons": [{ "code": "gate.message", "message": "A".repeat(1 << 20) }] }),
        json!({ "event": "denied", "vm": "\u{1}".repeat(1 << 20) }),
        json!({ "event": "policies", "policies": many }),
        // The log's own members are the log's.
        json!({ "event": "x", "seq": 7, "prev": "", "signature": "", "v": 1, "time": "y" }),
    ] {
        audit.append(1, &event).unwrap();
    }
    drop(audit);
    open(&path, signer()).unwrap().close(2).unwrap();
    assert_eq!(verify_one(&path, &signer().public().unwrap()).unwrap().end.seq, 7);
    assert!(fs::read_to_string(&path).unwrap().lines().all(|line| (line.len() as u64) < MAX_LINE));
}

/// Appends, changes the file, and gives what appending says then.
fn changed(change: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf, Audit, AuditError) {
    let (folder, path, key) = log();
    let audit = open(&path, Signer::load(&key).unwrap()).unwrap();
    audit.append(1, &json!({ "event": "a" })).unwrap();
    change(&path);
    let error = audit.append(2, &json!({ "event": "b" })).unwrap_err();
    assert!(matches!(error, AuditError::Changed { line: 2, .. }), "{error}");
    assert!(error.to_string().contains("cvmm-gate audit rotate"), "{error}");
    (folder, path, audit, error)
}

fn truncate(path: &Path) {
    fs::copy(path, path.with_extension("copy")).unwrap();
    OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
}

fn new_file(path: &Path) -> File {
    OpenOptions::new().read(true).append(true).create(true).open(path).unwrap()
}

#[test]
fn a_log_that_is_changed_under_the_gate_is_not_continued() {
    for change in [
        truncate,
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| fs::write(path, "x").unwrap(),
        |path: &Path| {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"{}\n").unwrap();
        },
    ] {
        let (_folder, _path, audit, _) = changed(change);
        // And stays so.
        assert!(matches!(audit.append(3, &json!({})), Err(AuditError::Changed { .. })));
    }
}

#[test]
fn a_truncated_log_goes_on_from_its_copy_or_says_what_is_lost() {
    let (_folder, path, audit, _) = changed(truncate);
    let copy = path.with_extension("copy");
    let key = audit.signer.public().unwrap();
    let end = verify_one(&copy, &key).unwrap().end;
    let from = RotateFrom::Copy { seq: end.seq - 1, hash: end.hash.clone() };
    let error = audit.rotate(new_file(&path), &from, 3, || Ok(())).unwrap_err().to_string();
    assert!(error.contains("--lost"), "{error}");
    let from = RotateFrom::Copy { seq: end.seq, hash: end.hash };
    assert_eq!(audit.rotate(new_file(&path), &from, 3, || Ok(())).unwrap(), 2);
    audit.append(4, &json!({ "event": "b" })).unwrap();
    audit.close(5).unwrap();
    let read = verify(&[copy, path.clone()], std::slice::from_ref(&key)).unwrap();
    assert_eq!((read.end.seq, read.signed, read.lost.len()), (5, 5, 0));
    // Alone it says that it is not the whole log.
    assert_eq!(verify_one(&path, &key).unwrap().first.seq, 2);

    let (_folder, path, audit, _) = changed(truncate);
    let key = audit.signer.public().unwrap();
    audit.rotate(new_file(&path), &RotateFrom::Lost, 3, || Ok(())).unwrap();
    audit.close(4).unwrap();
    assert_eq!(verify_one(&path, &key).unwrap().lost, [2]);
    // Nothing else is lost.
    let error = audit.rotate(new_file(&path.with_extension("new")), &RotateFrom::Lost, 5, || Ok(()));
    assert!(error.unwrap_err().to_string().contains("omit --lost"));
}

#[test]
fn the_start_misses_what_was_written() {
    for change in [truncate, |path: &Path| fs::remove_file(path).unwrap()] {
        let (_folder, path, key) = log();
        let audit = open(&path, Signer::load(&key).unwrap()).unwrap();
        audit.append(1, &json!({ "event": "a" })).unwrap();
        audit.close(2).unwrap();
        drop(audit);
        change(&path);
        let error = open(&path, Signer::load(&key).unwrap()).unwrap_err();
        assert!(matches!(error, AuditError::Lost { found: 0, written: 3, .. }), "{error}");
        assert!(error.to_string().contains("cvmm-gate audit rotate --previous"), "{error}");
        let own = Signer::load(&key).unwrap().public().unwrap();
        let checked = Audit::check(&path, &path.with_file_name("audit-end.json"), &own);
        assert!(matches!(checked, Err(AuditError::Lost { .. })));
        // What is not there is not made.
        assert_eq!(path.exists(), fs::metadata(path.with_extension("copy")).is_ok());
    }
}

#[test]
fn rotation_continues_the_chain_in_a_new_file_and_can_fail() {
    let (folder, path, key) = log();
    let signer = || Signer::load(&key).unwrap();
    let public = signer().public().unwrap();
    let audit = open(&path, signer()).unwrap();
    audit.append(1, &json!({ "event": "a" })).unwrap();
    let before = fs::read(&path).unwrap();
    let new = folder.path().join("new");
    // A command that goes away, or does nothing, changes nothing.
    for exchange in [|| Err("gone".to_owned()), || Ok(())] {
        let error = audit.rotate(new_file(&new), &RotateFrom::Log, 2, exchange).unwrap_err();
        assert!(matches!(error, AuditError::Rotate { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::metadata(&new).unwrap().len(), 0);
        // Nor is a file with something in it, or one that cannot be read, taken.
        assert!(audit.rotate(new_file(&key), &RotateFrom::Log, 2, || Ok(())).is_err());
        let only = OpenOptions::new().append(true).open(&new).unwrap();
        assert!(audit.rotate(only, &RotateFrom::Log, 2, || Ok(())).is_err());
    }
    audit.append(3, &json!({ "event": "b" })).unwrap();
    let old = folder.path().join("old");
    let exchange = || {
        fs::rename(&path, &old).unwrap();
        fs::rename(&new, &path).map_err(|error| error.to_string())
    };
    assert_eq!(audit.rotate(new_file(&new), &RotateFrom::Log, 4, exchange).unwrap(), 4);
    audit.append(5, &json!({ "event": "c" })).unwrap();
    drop(audit);
    // The lock went with the log.
    let audit = open(&path, signer()).unwrap();
    assert!(matches!(open(&path, signer()), Err(AuditError::Lock(_))));
    audit.close(6).unwrap();
    let read = verify(&[old.clone(), path.clone()], std::slice::from_ref(&public)).unwrap();
    assert_eq!((read.end.seq, read.signed), (8, 8));
    assert_eq!(verify_one(&old, &public).unwrap().signed, 4);
    assert!(verify(&[path, old], &[public]).is_err());
}

#[test]
fn a_log_that_was_moved_is_written_under_its_new_name() {
    let (folder, path, key) = log();
    let audit = open(&path, Signer::load(&key).unwrap()).unwrap();
    let moved = folder.path().join("audit.log.1");
    fs::rename(&path, &moved).unwrap();
    audit.append(1, &json!({ "event": "a" })).unwrap();
    // As logrotate's `create` leaves it.
    assert_eq!(audit.rotate(new_file(&path), &RotateFrom::Log, 2, || Ok(())).unwrap(), 3);
    audit.close(3).unwrap();
    let key = audit.signer.public().unwrap();
    assert_eq!(verify(&[moved, path], &[key]).unwrap().end.seq, 5);
}

#[test]
fn lines_that_are_added_while_the_gate_is_stopped_are_reported() {
    let (_folder, path, key) = log();
    let signer = || Signer::load(&key).unwrap();
    let public = signer().public().unwrap();
    let audit = open(&path, signer()).unwrap();
    audit.append(1, &json!({ "event": "a" })).unwrap();
    audit.close(2).unwrap();
    drop(audit);
    // What is needed to continue the chain is in the log; only the key is not.
    let closed = fs::read_to_string(&path).unwrap();
    let line = |seq: u64| format!("{{\"event\":\"admitted\",\"seq\":{seq},\"time\":3,\"v\":2}}\n");
    let mut with_two = closed.clone();
    for seq in [3, 4] {
        let prev = hash(with_two.lines().last().unwrap().as_bytes());
        let Ok(Value::Object(mut line)) = serde_json::from_str(&line(seq)) else { panic!() };
        line.insert("prev".into(), prev.into());
        with_two += &format!("{}\n", Value::Object(line));
    }
    fs::write(&path, &with_two).unwrap();
    assert_eq!(verify_one(&path, &public).unwrap().appended, [3, 4]);
    let audit = open(&path, signer()).unwrap();
    audit.append(5, &json!({ "event": "b" })).unwrap();
    audit.close(6).unwrap();
    drop(audit);
    let text = fs::read_to_string(&path).unwrap();
    let opened: Value = serde_json::from_str(text.lines().nth(5).unwrap()).unwrap();
    assert_eq!((opened["event"].as_str(), opened["appended_lines"].as_u64()), (Some("open"), Some(2)));
    assert_eq!(verify_one(&path, &public).unwrap().appended, [3, 4]);
    // An older copy of what is remembered does not report the gate's own lines.
    let tail = path.with_file_name("audit-end.json");
    let older = json!({ "format": 1, "seq": 3, "hash": hash(closed.lines().last().unwrap().as_bytes()), "closed": true });
    fs::write(&path, &closed).unwrap();
    fs::write(&tail, older.to_string()).unwrap();
    let audit = open(&path, signer()).unwrap();
    audit.append(7, &json!({ "event": "c" })).unwrap();
    audit.close(8).unwrap();
    drop(audit);
    fs::write(&tail, older.to_string()).unwrap();
    drop(open(&path, signer()).unwrap());
    assert!(!fs::read_to_string(&path).unwrap().contains("appended_lines"));
}

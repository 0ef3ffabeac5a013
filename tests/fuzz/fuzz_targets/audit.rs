// SPDX-License-Identifier: Apache-2.0
//! The gate's audit log. Events that are whatever they are go through the writer, with rotations and new
//! starts between them: all of it is read again and verifies, each event is a line, no line is over the
//! limit, and a bit that is changed afterwards is found. And the reader gets files that are whatever they
//! are.
#![no_main]

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use cvmm_fuzz::Input;
use cvmm_gate::audit::rotate::From;
use cvmm_gate::audit::{Audit, MAX_LINE, verify};
use cvmm_gate::keys::{Signer, generate};
use cvmm_gate_protocol::ticket::VerdictKey;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

struct World {
    folder: tempfile::TempDir,
    signer: Signer,
    key: VerdictKey,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("key.pem");
        generate(&path).expect("a key can be made");
        let signer = Signer::load(&path).expect("it was just made");
        let key = signer.public().expect("it has a public half");
        Self { folder, signer, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A text of up to 64 KiB out of a few bytes, or what comes next.
fn text(input: &mut Input<'_>) -> String {
    let (len, repeat) = (usize::from(input.u8()), usize::from(input.u8()));
    let text = String::from_utf8_lossy(input.bytes(len)).into_owned();
    text.repeat(1 + repeat)
}

fn value(input: &mut Input<'_>, depth: u32) -> Value {
    match input.u8() % 8 {
        0 => json!(input.u16()),
        1 => json!(text(input)),
        2 => json!(vec![text(input); usize::from(input.u8() % 32)]),
        3 if depth < 12 => json!([value(input, depth + 1)]),
        4 if depth < 12 => json!({ text(input): value(input, depth + 1) }),
        5 => (0..input.u16() % 2000)
            .map(|number| (number.to_string(), json!(number)))
            .collect::<Map<_, _>>()
            .into(),
        6 => (0..input.u8()).fold(json!(1), |inner, _| json!([inner])),
        _ => Value::Null,
    }
}

fn event(input: &mut Input<'_>) -> Value {
    const NAMES: [&str; 8] = ["event", "vm", "reasons", "signature", "seq", "prev", "v", "lost"];
    let mut event = Map::new();
    for _ in 0..input.u8() % 8 {
        let name = NAMES[usize::from(input.u8()) % NAMES.len()];
        // Only the log itself says that something was lost.
        let value = if name == "lost" { json!(false) } else { value(input, 0) };
        event.insert(name.to_owned(), value);
    }
    Value::Object(event)
}

fn writer(world: &World, input: &mut Input<'_>) {
    let (log, end) = (world.path("audit.log"), world.path("end.json"));
    for entry in fs::read_dir(world.folder.path()).expect("it is there").flatten() {
        if entry.file_name() != "key.pem" && entry.file_name() != "key.pem.pub" {
            fs::remove_file(entry.path()).expect("it is ours");
        }
    }
    let open = || Audit::open(&log, &end, world.signer.clone()).expect("what was written is read again");
    let (mut audit, mut files, mut lines) = (open(), Vec::new(), 1);
    while input.more() && lines < 200 {
        match input.u8() % 16 {
            0 => {
                // As after a crash in the middle of a line.
                drop(audit);
                let mut bytes = fs::read(&log).expect("it is there");
                bytes.extend(input.bytes(8).iter().filter(|byte| **byte != b'\n'));
                fs::write(&log, bytes).expect("there is room");
                audit = open();
                lines += 1;
            }
            1 if files.len() < 4 => {
                let old = world.path(&format!("audit.log.{}", files.len()));
                fs::rename(&log, &old).expect("it is ours");
                let new = OpenOptions::new()
                    .read(true)
                    .append(true)
                    .create(true)
                    .open(&log)
                    .expect("there is room");
                audit.rotate(new, &From::Log, 1, || Ok(())).expect("nothing is in the way");
                files.push(old);
                lines += 2;
            }
            2 => {
                let events = [event(input), event(input)];
                audit.append_all(2, &events).expect("there is room");
                lines += 2;
            }
            _ => {
                audit.append(i64::from(input.u16()), &event(input)).expect("there is room");
                lines += 1;
            }
        }
    }
    audit.close(3).expect("there is room");
    drop(audit);
    lines += 1;
    files.push(log.clone());
    let read = verify(&files, std::slice::from_ref(&world.key)).expect("what was written verifies");
    assert_eq!((read.end.seq, read.signed, read.lost.len()), (lines, lines, 0));
    for file in &files {
        let bytes = fs::read(file).expect("it is there");
        assert!(bytes.split_inclusive(|byte| *byte == b'\n').all(|line| line.len() as u64 <= MAX_LINE));
    }
    // Every byte counts.
    let mut bytes = fs::read(&log).expect("it is there");
    let at = input.u16() as usize % bytes.len();
    bytes[at] ^= 1 << (input.u8() % 8);
    fs::write(&log, bytes).expect("there is room");
    assert!(verify(&files, std::slice::from_ref(&world.key)).is_err(), "byte {at} of the last file");
}

fn reader(world: &World, bytes: &[u8]) {
    let path = world.path("read.log");
    fs::write(&path, bytes).expect("there is room");
    if let Ok(read) = verify(std::slice::from_ref(&path), std::slice::from_ref(&world.key)) {
        assert!(read.signed <= read.first.seq, "a forged signature: {read:?}");
    }
    // A start reads the same, without the key, and goes on only after what is a log.
    let end = world.path("read.json");
    let _ = fs::remove_file(&end);
    let before = Audit::check(&path, &end, &world.key);
    assert_eq!(fs::read(&path).expect("it is there"), bytes, "a check changes nothing");
    match Audit::open(&path, &end, world.signer.clone()) {
        Ok(audit) => {
            let lines = before.expect("what is opened can be checked");
            audit.close(1).expect("there is room");
            drop(audit);
            assert_eq!(Audit::check(&path, &end, &world.key).expect("it was just written"), lines + 2);
        }
        Err(_) => assert!(before.is_err()),
    }
    remembered(world, &path, bytes);
}

/// What the state folder says of the log may be anything too.
fn remembered(world: &World, path: &Path, bytes: &[u8]) {
    let end = world.path("any.json");
    fs::write(&end, bytes).expect("there is room");
    let _ = Audit::check(path, &end, &world.key);
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        if input.u8() % 2 == 0 { writer(world, &mut input) } else { reader(world, input.rest()) }
    });
});

// SPDX-License-Identifier: Apache-2.0
//! State files on a real disk: processes that are killed, disks that are full, two that want one file, and a
//! reader in Python. The test program starts itself again for what needs a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cvmm_guest_state::{Expected, Kind, StateError, StateKey, Store, VmId};
use cvmm_test_support::needs;
use cvmm_test_support::suite;
use cvmm_test_support::suite::Missing;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PATH: &str = "CVMM_TEST_STATE_PATH";

fn key() -> StateKey {
    StateKey::from_bytes(b"0123456789abcdef0123456789abcdef")
}

fn vm() -> VmId {
    VmId::new("web-1").unwrap()
}

fn expected(first: u64, last: u64) -> Expected {
    Expected { vm_id: vm(), epochs: first..=last, least_counter: 0 }
}

fn code<T>(result: Result<T, StateError>) -> &'static str {
    result.err().map_or("none", |error| error.code())
}

/// A process that runs the function of this name on a path.
fn process(function: &str, path: &Path) -> Command {
    let mut command = suite::process(function);
    command.env(PATH, path);
    command
}

/// The path for which this process was started.
fn path() -> PathBuf {
    std::env::var_os(PATH).unwrap().into()
}

/// What the NV of a TPM looks like: its number, and a length that changes.
fn content(number: u64) -> Vec<u8> {
    let mut content = number.to_le_bytes().to_vec();
    content.resize(1300 + (number * 37 % 5000) as usize, number as u8);
    content
}

fn number(store: &Store) -> u64 {
    let Some(blob) = store.load(Kind::TpmPermanent).unwrap() else { return 0 };
    let number = u64::from_le_bytes(blob.content[..8].try_into().unwrap());
    assert_eq!(*blob.content, content(number), "the content of write {number} is another's");
    number
}

fn write_endlessly() {
    let path = path();
    let epoch: u64 = std::env::var("CVMM_TEST_EPOCH").unwrap().parse().unwrap();
    let mut store = Store::open(&path, &[key()], &expected(0, epoch - 1)).unwrap();
    store.begin(epoch).unwrap();
    let mut next = number(&store) + 1;
    loop {
        store.store(Kind::TpmPermanent, 0x0902, &content(next)).unwrap();
        // The TPM answers.
        println!("acknowledged {next}");
        next += 1;
    }
}

fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let long = std::env::var_os("CVMM_TEST_LONG").is_some();
    let (writes, kills) = if long { (10_000, 200) } else { (600, 12) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.vmgs");
    drop(Store::create(&path, &key(), &vm(), 0).unwrap());
    let (mut acknowledged, mut epoch, mut ahead) = (0, 0, 0);
    let mut seed = u64::from(std::process::id());
    while acknowledged < writes {
        epoch += 1;
        let mut child = process("write_endlessly", &path)
            .env("CVMM_TEST_EPOCH", epoch.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // About so many writes, and then somewhere in the middle of one.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let enough = acknowledged + (seed >> 33) % (2 * writes / kills);
        let mut line = || lines.next().map(Result::unwrap);
        while acknowledged < enough {
            let line = line().expect("the child writes until it is killed");
            if let Some((_, number)) = line.split_once("acknowledged ") {
                acknowledged = number.parse().unwrap();
            }
        }
        let wait = Instant::now() + Duration::from_micros((seed >> 40) % 1500);
        while Instant::now() < wait {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        // What it said before it was killed counts.
        while let Some(line) = line() {
            if let Some(number) = line.split_once("acknowledged ").and_then(|(_, number)| number.parse().ok())
            {
                acknowledged = number;
            }
        }
        child.wait().unwrap();
        let store = Store::open(&path, &[key()], &expected(0, epoch)).unwrap();
        let found = number(&store);
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "{acknowledged} acknowledged, {found} there"
        );
        ahead += found - acknowledged;
        acknowledged = found;
    }
    println!("{acknowledged} writes, killed {epoch} times, {ahead} times between a write and its answer");
}

fn two_on_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.vmgs");
    let first = Store::create(&path, &key(), &vm(), 0).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(code(Store::open(&path, &[key()], &expected(0, 0))), "state.locked");
    assert_eq!(code(Store::open_any(&path, &[key()], false)), "state.locked");
    assert_eq!(code(Store::create(&path, &key(), &vm(), 0)), "state.exists");
    drop(first);
    // Two that read do not disturb each other.
    let readers = [(); 2].map(|()| Store::open_any(&path, &[key()], false).unwrap());
    assert_eq!(code(Store::open(&path, &[key()], &expected(0, 0))), "state.locked");
    drop(readers);
    // A copy is another file: only the epoch tells.
    let copy = folder.path().join("copy.vmgs");
    fs::copy(&path, &copy).unwrap();
    let mut first = Store::open(&path, &[key()], &expected(0, 0)).unwrap();
    first.begin(1).unwrap();
    assert_eq!(code(Store::open(&copy, &[key()], &expected(1, 1))), "state.rollback");
    assert_eq!(code(Store::open(&folder.path().join("none"), &[key()], &expected(1, 1))), "state.missing");
    assert_eq!(code(Store::open(folder.path(), &[key()], &expected(1, 1))), "state.io");
    let link = folder.path().join("dangling");
    std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
    assert_eq!(code(Store::create(&link, &key(), &vm(), 0)), "state.exists");
}

/// The kernel refuses writes behind a file size.
fn under_a_limit() {
    let path = path();
    let limit = |bytes: Option<u64>| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
    };
    let other = path.with_extension("other");
    limit(Some(1 << 20));
    assert_eq!(code(Store::create(&other, &key(), &vm(), 0)), "state.io");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left of it");
    let mut store = Store::open(&path, &[key()], &expected(0, 0)).unwrap();
    store.store(Kind::TpmPermanent, 1, b"acknowledged").unwrap();
    // Headers can be written, blocks behind them not; then nothing at all; then some of a write.
    for bytes in [8192, 0, 3 * 4096 + 1000] {
        limit(Some(bytes));
        for _ in 0..3 {
            assert_eq!(code(store.store(Kind::TpmPermanent, 1, &[7; 20_000])), "state.io");
        }
        let blob = store.load(Kind::TpmPermanent).unwrap().unwrap();
        assert_eq!(*blob.content, b"acknowledged");
    }
    limit(None);
    store.store(Kind::TpmPermanent, 1, b"again").unwrap();
}

fn an_io_error_is_an_error_and_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.vmgs");
    drop(Store::create(&path, &key(), &vm(), 0).unwrap());
    let child = process("under_a_limit", &path);
    // The signal that comes with the error would end it.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"]).arg(child.get_program()).args(child.get_args());
    command.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let store = Store::open(&path, &[key()], &expected(0, 0)).unwrap();
    assert_eq!(*store.load(Kind::TpmPermanent).unwrap().unwrap().content, b"again");
}

fn on_a_small_disk() {
    let folder = path();
    let path = folder.join("state.vmgs");
    let mut store = Store::create(&path, &key(), &vm(), 0).unwrap();
    let second = folder.join("second.vmgs");
    assert_eq!(code(Store::create(&second, &key(), &vm(), 0)), "state.io");
    assert!(!second.exists());
    // Not a byte is free, and the file needs none.
    let full = fs::write(folder.join("filler"), vec![1; 8 << 20]);
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    for number in 0..50 {
        store.store(Kind::TpmPermanent, 1, &content(number)).unwrap();
    }
    drop(store);
    assert_eq!(number(&Store::open(&path, &[key()], &expected(0, 0)).unwrap()), 49);
}

fn a_full_disk_stops_new_files_only() -> suite::Result {
    let folder = tempfile::tempdir().unwrap();
    let child = process("on_a_small_disk", folder.path());
    // A tmpfs of its own, for root or in a user namespace.
    let mount = r#"mount -t tmpfs -o size=6m cvmm-test "$0" 2>/dev/null || exit 77; echo mounted; exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]).arg(folder.path());
    command.arg(child.get_program()).args(child.get_args());
    command.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().map_err(|error| Missing::new(format_args!("needs unshare: {error}")))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let mounted = String::from_utf8_lossy(&output.stdout).contains("mounted");
    needs::require(mounted, &format!("needs to mount a tmpfs in a user namespace: {}", errors.trim()))?;
    assert!(output.status.success(), "{errors}");
    Ok(())
}

fn an_independent_reader_reads_it() -> suite::Result {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.vmgs");
    let mut store = Store::create(&path, &key(), &vm(), 0).unwrap();
    store.begin(3).unwrap();
    store.store(Kind::TpmPermanent, 0x0902, &content(5)).unwrap();
    store.store(Kind::TpmDevice, 7, b"manifest").unwrap();
    let (sequence, counter) = (store.sequence(), store.counter());
    drop(store);
    fs::write(folder.path().join("key"), key().expose()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decode.py");
    let run = |key: &Path| Command::new("python3").arg(&script).arg(&path).arg(key).output();
    let output = run(&folder.path().join("key"));
    let output = output.map_err(|error| Missing::new(format_args!("needs python3: {error}")))?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let nv: String = content(5).iter().map(|byte| format!("{byte:02x}")).collect();
    let wanted = [
        format!("sequence {sequence}"),
        format!("33 web-1 epoch 3 counter {} engine {} {nv}", counter - 1, 0x0902),
        format!("35 web-1 epoch 3 counter {} engine 0 ", counter - 2),
        format!("36 web-1 epoch 3 counter {counter} engine 7 6d616e6966657374"),
    ];
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        printed.lines().map(str::trim_end).collect::<Vec<_>>(),
        wanted.each_ref().map(|line| line.trim_end())
    );
    fs::write(folder.path().join("wrong"), [1; 32]).unwrap();
    assert!(!run(&folder.path().join("wrong")).unwrap().status.success());
    Ok(())
}

fn a_new_file_is_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.vmgs");
    drop(Store::create(&path, &key(), &vm(), 9).unwrap());
    let mut file = fs::File::open(&path).unwrap();
    let info = cvmm_guest_state::info::Info::read(&file).unwrap();
    assert_eq!(
        (info.size, info.sequence, info.slot, info.encrypted, info.key_slots),
        ((4 << 20) + 512, 2, 0, true, 1)
    );
    let names: Vec<_> = info.files.iter().map(|file| file.name).collect();
    assert_eq!(names, ["file-table", "meta", "extended-file-table"]);
    assert!(info.damaged.is_empty());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let name = b"web-1";
    assert!(!bytes.windows(name.len()).any(|part| part == name), "not even the VM's name can be read");
    assert_eq!(Store::open_any(&path, &[key()], false).unwrap().epoch(), 9);
}

suite!(
    roles: [write_endlessly, under_a_limit, on_a_small_disk],
    a_killed_process_loses_nothing_that_was_acknowledged,
    two_on_one_file,
    an_io_error_is_an_error_and_no_loss,
    a_full_disk_stops_new_files_only,
    an_independent_reader_reads_it,
    a_new_file_is_what_it_says,
);

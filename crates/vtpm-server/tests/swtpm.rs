// SPDX-License-Identifier: Apache-2.0
//! The program `cvmm-vtpm` at its sockets: the control protocol as a VMM uses it, and invalid input.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::*;
use cvmm_guest_state::{StateKey, Store, VmId};
use cvmm_vtpm_server::swtpm::{Control, Parsed};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

fn blob(ctrl: &UnixStream, kind: u8) -> Vec<u8> {
    let head = ask(ctrl, &[0, 0, 0, 0xc, 0, 0, 0, 1, 0, 0, 0, kind, 0, 0, 0, 0], 16);
    assert_eq!((word(&head, 0), word(&head, 2)), (0, word(&head, 3)));
    let mut bytes = vec![0; word(&head, 3) as usize];
    (&*ctrl).read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_vmm_starts_suspends_migrates_and_stops_it() {
    for sandbox in ["thread", "process"] {
        let server = start(tempfile::tempdir().unwrap(), &["--sandbox", sandbox]);
        let ctrl = server.ctrl();
        assert_eq!(ask(&ctrl, &[0, 0, 0, 1], 8)[..6], [0; 6]);
        assert_eq!(word(&ask(&ctrl, &[0, 0, 0, 4], 8), 0), 38); // off
        let size = ask(&ctrl, &[0, 0, 0, 0x11, 0, 0, 0x0f, 0x80], 16);
        assert_eq!((word(&size, 0), word(&size, 1)), (0, 3968));
        assert_eq!(ask(&ctrl, &[0, 0, 0, 2, 0, 0, 0, 0], 4), [0; 4]);
        assert_eq!(word(&ask(&ctrl, &[0, 0, 0, 0x11, 0, 0, 0x0f, 0x80], 16), 0), 38); // on
        // A VMM gives it the data connection, and pads the locality.
        let (ours, theirs) = UnixStream::pair().unwrap();
        ctrl.send_with_fd(&[0u8, 0, 0, 0x10][..], theirs.try_clone().unwrap().into_raw()).unwrap();
        drop(theirs);
        let mut answer = [9; 4];
        (&ctrl).read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0; 4]);
        assert_eq!(code(&tpm(&ours, &startup(0))), 0);
        assert_eq!(code(&tpm(&ours, &pcr_extend(20, &[1; 32]))), 0x907);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 5, 2, 0, 0, 0], 4), [0; 4]);
        assert_eq!(code(&tpm(&ours, &pcr_extend(20, &[1; 32]))), 0);
        assert_eq!(word(&ask(&ctrl, &[0, 0, 0, 5, 5], 4), 0), 61);
        // D-RTM.
        assert_eq!(ask(&ctrl, &[0, 0, 0, 6], 4), [0; 4]);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 7, 0, 0, 0, 3, b'a', b'b', b'c'], 4), [0; 4]);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 8], 4), [0; 4]);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 4], 8)[4], 1);
        assert_ne!(ask(&ctrl, &[0, 0, 0, 0xb, 0], 4), [0; 4]);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 0xb, 3], 4), [0; 4]);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 9], 4), [0; 4]);
        // Information, as text that ends in a NUL.
        let head = ask(&ctrl, &[0, 0, 0, 0x12, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], 12);
        let mut text = vec![0; word(&head, 2) as usize];
        (&ctrl).read_exact(&mut text).unwrap();
        assert!(String::from_utf8_lossy(&text).contains("TPMSpecification") && text.ends_with(&[0]));
        // Migration to another server.
        assert_eq!(code(&tpm(&ours, &pcr_extend(16, &[7; 32]))), 0);
        let pcr = tpm(&ours, &pcr_read(16));
        let (permanent, volatile) = (blob(&ctrl, 1), blob(&ctrl, 2));
        assert!(permanent.len() > 1000 && volatile.len() > 1000);
        let other = start(tempfile::tempdir().unwrap(), &["--sandbox", sandbox]);
        let other_ctrl = other.ctrl();
        for (kind, bytes) in [(1, &permanent), (2, &volatile)] {
            let mut request = vec![0, 0, 0, 0xd, 0, 0, 0, 1, 0, 0, 0, kind];
            request.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            request.extend_from_slice(bytes);
            assert_eq!(ask(&other_ctrl, &request, 4), [0; 4]);
        }
        assert_eq!(ask(&other_ctrl, &[0, 0, 0, 2, 0, 0, 0, 0], 4), [0; 4]);
        let other_data = other.data();
        assert_eq!(tpm(&other_data, &pcr_read(16))[14..], pcr[14..]);
        // Suspend, stop, end; a new server on the same folder goes on.
        assert_eq!(ask(&ctrl, &[0, 0, 0, 0xa], 4), [0; 4]);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 0xe], 4), [0; 4]);
        assert_eq!(code(&tpm(&ours, &get_random(4))), 0x101);
        assert_eq!(ask(&ctrl, &[0, 0, 0, 3], 4), [0; 4]);
        let mut server = server;
        assert!(server.child.wait().unwrap().success());
        let dir = std::mem::replace(&mut server.dir, tempfile::tempdir().unwrap());
        let again = start(dir, &["--sandbox", sandbox, "--flags", "not-need-init"]);
        assert_eq!(tpm(&again.data(), &pcr_read(16))[14..], pcr[14..]);
    }
}

/// What the program says when it does not start.
fn refused(dir: &Path, options: &[&str]) -> String {
    let output = command(dir, options).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_state_is_in_an_encrypted_file_and_nowhere_else() {
    for sandbox in ["thread", "process"] {
        let keys = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..32).collect();
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = private(keys.path().join("hex"), format!("{digits}\n").as_bytes());
        let raw = private(keys.path().join("raw"), &bytes);
        let hex = format!("file={},mode=aes-256-cbc", hex.display());
        let raw = format!("file={},format=binary,mode=aes-256-gcm,remove", raw.display());
        let options = |key| ["--sandbox", sandbox, "--flags", "startup-clear", "--key", key];
        let server = start(tempfile::tempdir().unwrap(), &options(&hex));
        let data = server.data();
        assert_eq!(code(&tpm(&data, &nv_define(0x0150_0001, 16, 0))), 0);
        assert_eq!(code(&tpm(&data, &nv_write(0x0150_0001, b"sixteen bytes ok"))), 0);
        let names = fs::read_dir(server.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["ctrl", "data", "tpm2.vmgs"]);
        let state = server.dir.path().join("tpm2.vmgs");
        let written = fs::read(&state).unwrap();
        assert!(!written.windows(16).any(|part| part == b"sixteen bytes ok"), "it is not encrypted");
        // Another program on the same file.
        let sockets = tempfile::tempdir().unwrap();
        let uri = format!("backend-uri=file://{}", state.display());
        let mut second = std::process::Command::new(PROGRAM);
        second
            .args(["socket", "--tpm2", "--tpmstate", &uri, "--key", &hex])
            .args(common::sockets(sockets.path()));
        let output = second.output().unwrap();
        assert!(String::from_utf8(output.stderr).unwrap().contains("state.locked: "));

        // The same key in another form; it goes once it has been read.
        let dir = server.kill();
        let server = start(dir, &options(&raw));
        assert_eq!(content(&tpm(&server.data(), &nv_read(0x0150_0001, 16))), b"sixteen bytes ok");
        assert!(!keys.path().join("raw").exists());
        let dir = server.kill();
        // It is a VM's state file like any other.
        let key = StateKey::from_bytes(&bytes.try_into().unwrap());
        let file = Store::open_any(&state, std::slice::from_ref(&key), false).unwrap();
        assert_eq!(file.vm_id(), &VmId::new("cvmm-vtpm").unwrap());
        assert!(file.counter() >= 3);
        drop(file);

        // No key, another key, another VM, not encrypted, damaged, and plain files where this is expected.
        let dir = dir.path();
        assert!(refused(dir, &[]).contains("key-missing: "));
        let wrong = private(keys.path().join("wrong"), &[1; 32]);
        let wrong = format!("file={},format=binary", wrong.display());
        assert!(refused(dir, &options(&wrong)).contains("state.key: "));
        assert!(refused(dir, &[&options(&hex)[..], &["--vm-id", "web-1"]].concat()).contains("state.vm: "));
        let short = format!("file={}", private(keys.path().join("short"), b"00").display());
        assert!(refused(dir, &options(&short)).contains("64 hexadecimal digits"));
        fs::write(&state, &written[..written.len() - 1]).unwrap();
        assert!(refused(dir, &options(&hex)).contains("state.size: "));
        let mut downgraded = written.clone();
        for copy in [0, 512, 1024, 1536] {
            // "No encryption", with the checksum that belongs to it.
            downgraded[copy + 32] = 0;
            downgraded[copy + 12..copy + 16].fill(0);
            let crc = crc32fast::hash(&downgraded[copy..copy + 168]);
            downgraded[copy + 12..copy + 16].copy_from_slice(&crc.to_le_bytes());
        }
        fs::write(&state, &downgraded).unwrap();
        assert!(refused(dir, &options(&hex)).contains("state.plain: "));
        fs::write(&state, &written).unwrap();
        fs::write(dir.join("tpm2-permall.plain"), b"a plain state").unwrap();
        assert!(refused(dir, &options(&hex)).contains("key-plain: "));
        assert_eq!(fs::read(&state).unwrap(), written, "a refused file is left alone");
    }
}

trait IntoRaw {
    fn into_raw(self) -> i32;
}
impl IntoRaw for UnixStream {
    fn into_raw(self) -> i32 {
        use std::os::fd::IntoRawFd;
        self.into_raw_fd()
    }
}

#[test]
fn garbage_ends_a_connection_and_never_the_server() {
    let server = start(tempfile::tempdir().unwrap(), &["--flags", "startup-clear"]);
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..60 {
        // CMD_SHUTDOWN is what it says.
        let mut bytes: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
        if round % 2 == 0 {
            let known = [1, 2, 4, 5, 6, 7, 8, 9, 0xb, 0xc, 0xd, 0x10, 0x11, 0x12, 0x13, 0xff];
            bytes.splice(0..0, [0, 0, 0, known[(random() % 16) as usize]]);
        }
        if bytes.starts_with(&[0, 0, 0, 3]) {
            continue;
        }
        for path in ["ctrl", "data"] {
            let mut stream = connect(&server.dir.path().join(path));
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    // A size that is out of bounds has an answer, and then an end.
    for size in [0u32, 9, 4097, u32::MAX] {
        let data = server.data();
        let mut command = vec![0x80, 1];
        command.extend_from_slice(&size.to_be_bytes());
        command.extend_from_slice(&[0, 0, 1, 0x44]);
        assert_eq!(code(&tpm(&data, &command)), 0x142);
        assert_eq!((&data).read(&mut [0]).unwrap(), 0);
    }
    // A blob of 4 GiB is refused at its header.
    let ctrl = server.ctrl();
    assert_eq!(ask(&ctrl, &[0, 0, 0, 0xd, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], 4), [0, 0, 0, 3]);
    assert_eq!((&ctrl).read(&mut [0]).unwrap(), 0);
    let ctrl = server.ctrl();
    assert_eq!(ask(&ctrl, &[0, 0, 0, 2, 0, 0, 0, 1], 4), [0; 4]);
    assert_eq!(code(&tpm(&server.data(), &get_random(4))), 0);
}

#[test]
fn libvirts_questions_about_swtpm_are_answered() {
    // No other option, and no state folder is touched.
    let output =
        std::process::Command::new(PROGRAM).args(["socket", "--print-capabilities"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["type"], "swtpm");
    assert_eq!(answer["version"], env!("CARGO_PKG_VERSION"));
    let features: Vec<&str> =
        answer["features"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in ["tpm-2.0", "flags-opt-startup", "flags-opt-disable-auto-shutdown", "nvram-backend-dir"] {
        assert!(features.contains(&name), "{name}: {features:?}");
    }
    // What it does not have is not said.
    for name in ["tpm-1.2", "cmdarg-pwd-fd", "cmdarg-key-fd", "cmdarg-migration", "cmdarg-chroot"] {
        assert!(!features.contains(&name), "{name}: {features:?}");
    }
}

#[test]
fn the_log_goes_to_a_descriptor_or_a_file_with_a_prefix() {
    // As tpm2-tss' test harness starts it.
    let dir = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(PROGRAM);
    command.args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", dir.path().display())]);
    command.args(sockets(dir.path())).args(["--log", "fd=1,level=5,prefix=tpm7: "]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Unknown, which is worth a line.
    let ctrl = connect(&dir.path().join("ctrl"));
    assert_eq!(ask(&ctrl, &[0, 0, 0, 0x77], 4), [0, 0, 0, 10]);
    assert_eq!(ask(&ctrl, &[0, 0, 0, 3], 4), [0; 4]);
    assert!(child.wait().unwrap().success());
    let mut text = String::new();
    child.stdout.unwrap().read_to_string(&mut text).unwrap();
    assert!(text.lines().any(|line| line.contains("unknown control command")), "{text}");
    assert!(text.lines().all(|line| line.starts_with("tpm7: ")), "{text}");
    let file = dir.path().join("log");
    fs::write(&file, "old\n").unwrap();
    let option = format!("file={},truncate,level=5", file.display());
    let mut second = command_with_log(dir.path(), &option).spawn().unwrap();
    let ctrl = connect(&dir.path().join("ctrl"));
    assert_eq!(ask(&ctrl, &[0, 0, 0, 0x77], 4), [0, 0, 0, 10]);
    assert_eq!(ask(&ctrl, &[0, 0, 0, 3], 4), [0; 4]);
    assert!(second.wait().unwrap().success());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("unknown control command") && !text.contains("old"), "{text}");
    let output = command_with_log(dir.path(), "fd=77").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("fd=77 is not open"));
}

fn command_with_log(dir: &Path, log: &str) -> std::process::Command {
    let mut command = std::process::Command::new(PROGRAM);
    command.args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", dir.display())]);
    command.args(sockets(dir)).args(["--log", log]);
    command
}

#[test]
fn every_prefix_of_a_request_needs_more_and_never_too_much() {
    let hash = [0, 0, 0, 7, 0, 0, 0, 5, 1, 2, 3, 4, 5];
    let blob = [0, 0, 0, 0xd, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 8, 9];
    for request in [&hash[..], &blob] {
        for length in 0..request.len() {
            match Control::parse(&request[..length]) {
                Parsed::Needs(more) => assert!(more > length && more <= request.len()),
                Parsed::Whole(control) => unreachable!("{control:?} from {length} bytes"),
            }
        }
        assert!(matches!(Control::parse(request), Parsed::Whole(_)));
    }
    assert_eq!(Control::parse(&hash), Parsed::Whole(Control::HashData(&[1, 2, 3, 4, 5])));
    assert_eq!(Control::parse(&[0, 0, 0, 7, 0, 0, 16, 1]), Parsed::Whole(Control::Invalid));
    assert_eq!(Control::parse(&[0, 0, 0, 99]), Parsed::Whole(Control::Unknown(99)));
}

#[test]
fn a_pid_file_replaces_a_pid_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("pid");
    let option = format!("file={}", mine.display());
    fs::write(&mine, "a file of the user").unwrap();
    let said = refused(folder.path(), &["--pid", &option]);
    assert!(said.contains("exists and was not written by this command"), "{said}");
    assert_eq!(fs::read_to_string(&mine).unwrap(), "a file of the user");
    // Of a server that was killed.
    fs::write(&mine, "4711\n").unwrap();
    let server = start(tempfile::tempdir().unwrap(), &["--pid", &option]);
    // It listens before it writes the file, and answers after that.
    ask(&server.ctrl(), &[0, 0, 0, 1], 8);
    assert_eq!(fs::read_to_string(&mine).unwrap(), format!("{}\n", server.child.id()));
}

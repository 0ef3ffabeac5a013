// SPDX-License-Identifier: Apache-2.0
//! The program `cvmm-vtpm` at its sockets: the control protocol as a VMM speaks it, and what is no protocol at all.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use common::*;
use cvmm_vtpm::swtpm::{Control, Parsed};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

struct Server {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(dir: tempfile::TempDir, options: &[&str]) -> Server {
    let path = |name: &str| format!("type=unixio,path={}", dir.path().join(name).display());
    let child = Command::new(env!("CARGO_BIN_EXE_cvmm-vtpm"))
        .args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", dir.path().display())])
        .args(["--ctrl", &path("ctrl"), "--server", &path("data")])
        .args(["--log", "level=0"])
        .args(options)
        .spawn()
        .unwrap();
    Server { child, dir }
}

fn connect(path: &Path) -> UnixStream {
    for _ in 0..1000 {
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    unreachable!("nobody listens on {}", path.display())
}

impl Server {
    fn ctrl(&self) -> UnixStream {
        connect(&self.dir.path().join("ctrl"))
    }
    fn data(&self) -> UnixStream {
        connect(&self.dir.path().join("data"))
    }
}

/// Sends and takes an answer of that many bytes.
fn ask(mut stream: &UnixStream, request: &[u8], length: usize) -> Vec<u8> {
    stream.write_all(request).unwrap();
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_be_bytes(bytes[index * 4..index * 4 + 4].try_into().unwrap())
}

fn tpm(mut stream: &UnixStream, command: &[u8]) -> Vec<u8> {
    stream.write_all(command).unwrap();
    let mut header = vec![0; 10];
    stream.read_exact(&mut header).unwrap();
    let size = word(&header[2..], 0) as usize;
    header.resize(size, 0);
    stream.read_exact(&mut header[10..]).unwrap();
    header
}

fn code(response: &[u8]) -> u32 {
    word(&response[6..], 0)
}

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

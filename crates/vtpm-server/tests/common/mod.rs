// SPDX-License-Identifier: Apache-2.0
//! The program `cvmm-vtpm`, started for a test, and its sockets.
#![allow(dead_code, unused_imports)] // each test file uses its part

mod commands;

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

pub use commands::*;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cvmm-vtpm");

pub struct Server {
    pub child: Child,
    pub dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The options that name the sockets in a folder.
pub fn sockets(dir: &Path) -> Vec<String> {
    let path = |name: &str| format!("type=unixio,path={}", dir.join(name).display());
    vec!["--ctrl".to_owned(), path("ctrl"), "--server".to_owned(), path("data")]
}

pub fn command(dir: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["socket", "--tpm2", "--tpmstate", &format!("dir={}", dir.display())]);
    command.args(sockets(dir)).args(["--log", "level=0"]).args(options);
    command
}

pub fn start(dir: tempfile::TempDir, options: &[&str]) -> Server {
    Server { child: command(dir.path(), options).spawn().unwrap(), dir }
}

/// A file with these bytes that only its owner reads.
pub fn private(path: PathBuf, bytes: &[u8]) -> PathBuf {
    let mut options = std::fs::OpenOptions::new();
    options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .unwrap()
        .write_all(bytes)
        .unwrap();
    path
}

pub fn connect(path: &Path) -> UnixStream {
    for _ in 0..1000 {
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            return stream;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    unreachable!("no server listens on {}", path.display())
}

impl Server {
    pub fn ctrl(&self) -> UnixStream {
        connect(&self.dir.path().join("ctrl"))
    }
    pub fn data(&self) -> UnixStream {
        connect(&self.dir.path().join("data"))
    }
    /// Ends it as a power cut does; its folder is left.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

/// Sends and takes an answer of that many bytes.
pub fn ask(mut stream: &UnixStream, request: &[u8], length: usize) -> Vec<u8> {
    stream.write_all(request).unwrap();
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).unwrap();
    answer
}

pub fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_be_bytes(bytes[index * 4..index * 4 + 4].try_into().unwrap())
}

pub fn try_tpm(mut stream: &UnixStream, command: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(command)?;
    let mut header = vec![0; 10];
    stream.read_exact(&mut header)?;
    let size = word(&header[2..], 0) as usize;
    header.resize(size, 0);
    stream.read_exact(&mut header[10..])?;
    Ok(header)
}

pub fn tpm(stream: &UnixStream, command: &[u8]) -> Vec<u8> {
    try_tpm(stream, command).unwrap()
}

pub fn code(response: &[u8]) -> u32 {
    word(&response[6..], 0)
}

/// The first TPM2B of a response with sessions and no handle.
pub fn content(response: &[u8]) -> &[u8] {
    assert_eq!(code(response), 0);
    let size = u16::from_be_bytes(response[14..16].try_into().unwrap()) as usize;
    &response[16..16 + size]
}

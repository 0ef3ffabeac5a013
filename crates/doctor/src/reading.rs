// SPDX-License-Identifier: Apache-2.0
//! Bounded reads below a root folder, and the reasons why there may be nothing.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes; kernel configurations are the largest with some 300 KiB.
const MAX_TEXT: u64 = 4 << 20;
/// Most of the kernel's log that is read, in bytes.
const MAX_LOG: usize = 16 << 20;
/// Most entries of a folder that are read.
const MAX_ENTRIES: usize = 65_536;

/// Something read, or why not.
pub type Reading<T> = Result<T, Unread>;

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The file, as it is called on the host, or the interface.
    pub what: String,
    /// The reason.
    pub why: Why,
}

/// The kinds of reasons that call for different remedies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none.
    Absent,
    /// This user may not.
    Denied,
    /// The host's answer.
    Failed {
        /// Its errno; 0 if there was none.
        errno: i32,
        /// The same for people, with more if there is more.
        text: String,
    },
    /// It says something that makes no sense.
    Malformed(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match &self.why {
            Why::Absent => write!(f, "{what} does not exist"),
            Why::Denied => write!(f, "no permission to read {what}"),
            Why::Failed { text, .. } => write!(f, "cannot read {what}: {text}"),
            Why::Malformed(text) => write!(f, "{what} is not understood: {text}"),
        }
    }
}

impl Unread {
    pub fn new(what: impl Into<String>, error: &io::Error) -> Self {
        let why = match error.kind() {
            // A device node without its driver is as good as none.
            _ if matches!(error.raw_os_error(), Some(libc::ENXIO)) => Why::Absent,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Why::Absent,
            io::ErrorKind::PermissionDenied => Why::Denied,
            _ => Why::Failed { errno: error.raw_os_error().unwrap_or(0), text: error.to_string() },
        };
        Self { what: what.into(), why }
    }

    pub fn absent(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: Why::Absent }
    }

    pub fn malformed(what: impl Into<String>, text: impl Into<String>) -> Self {
        Self { what: what.into(), why: Why::Malformed(text.into()) }
    }
}

/// A host's file system. Paths are given as they are called there, with the leading slash.
#[derive(Clone, Copy, Debug)]
pub struct Host<'root>(pub &'root Path);

impl Host<'_> {
    /// Where a file of the host is for this process.
    pub fn locate(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// A text file; bytes that are no UTF-8 are replaced.
    pub fn text(&self, path: &str) -> Reading<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            // A pipe somebody put in a file's place does not make this wait.
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(self.locate(path))?;
            file.take(MAX_TEXT).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(Unread::new(path, &error)),
        }
    }

    /// A text file of one line, without white space around it.
    pub fn line(&self, path: &str) -> Reading<String> {
        self.text(path).map(|text| text.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// A text file and what its parser makes of it.
    pub fn parsed<T>(&self, path: &str, parse: impl Fn(&str) -> Result<T, String>) -> Reading<T> {
        parse(&self.text(path)?).map_err(|reason| Unread::malformed(path, reason))
    }

    /// A text file that is compressed with gzip.
    pub fn gunzipped(&self, path: &str) -> Reading<String> {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(self.locate(path));
        let file = file.map_err(|error| Unread::new(path, &error))?;
        let mut bytes = Vec::new();
        // Both are limited: a few bytes can stand for very many.
        flate2::read::GzDecoder::new(file.take(MAX_TEXT))
            .take(MAX_TEXT)
            .read_to_end(&mut bytes)
            .map_err(|error| Unread::malformed(path, format!("cannot be decompressed: {error}")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Names in a folder, sorted.
    pub fn names(&self, path: &str) -> Reading<Vec<String>> {
        let entries = fs::read_dir(self.locate(path)).map_err(|error| Unread::new(path, &error))?;
        let mut names: Vec<_> = entries
            .take(MAX_ENTRIES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Eight bytes at an offset: how the msr driver is read.
    pub fn word_at(&self, path: &str, offset: u64) -> Reading<u64> {
        let mut word = [0; 8];
        File::open(self.locate(path))
            .and_then(|file| file.read_exact_at(&mut word, offset))
            .map_err(|error| Unread::new(path, &error))?;
        Ok(u64::from_le_bytes(word))
    }

    /// The kernel's log, record by record as its device hands it out, up to the last one there is now.
    pub fn kernel_log(&self, path: &str) -> Reading<String> {
        let mut log = Vec::new();
        let mut record = vec![0; 64 << 10];
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.locate(path))
            .map_err(|error| Unread::new(path, &error))?;
        while log.len() < MAX_LOG {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => log.extend(record.iter().take(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The record was overwritten meanwhile; the next read goes on with the oldest one there is.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Unread::new(path, &error)),
            }
        }
        Ok(String::from_utf8_lossy(&log).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_forbidden_or_odd_has_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host(folder.path());
        assert_eq!(host.text("/proc/cmdline").unwrap_err().to_string(), "/proc/cmdline does not exist");
        fs::write(host.locate("/file"), b" a\xff \nb").unwrap();
        assert_eq!(host.line("/file").unwrap(), "a\u{fffd}");
        assert_eq!(host.text("/file/inner").unwrap_err().why, Why::Absent);
        assert!(matches!(host.text("/").unwrap_err().why, Why::Failed { errno: libc::EISDIR, .. }));
        assert_eq!(host.names("/").unwrap(), ["file"]);
        // Shorter than a word: an error, not half a word.
        assert!(matches!(host.word_at("/file", 0).unwrap_err().why, Why::Failed { .. }));
        let denied = Unread::new("/x", &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(denied.to_string(), "no permission to read /x");
        assert_eq!(host.kernel_log("/file").unwrap().len(), " a\u{fffd} \nb".len());
    }
}

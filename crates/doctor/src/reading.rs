// SPDX-License-Identifier: Apache-2.0
//! Bounded reads below a root directory, and the reasons why a read failed.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes; kernel configurations are the largest with some 300 KiB.
const MAX_TEXT: u64 = 4 << 20;
/// Largest part of the kernel log that is read, in bytes.
const MAX_LOG: usize = 16 << 20;
/// Largest number of directory entries that are read.
const MAX_ENTRIES: usize = 65_536;

/// A value, or the reason why it could not be read.
pub type Reading<T> = Result<T, Unread>;

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The file by its path on the host, or the interface.
    pub what: String,
    /// The reason.
    pub why: Why,
}

/// The reasons that need different fixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It does not exist.
    Absent,
    /// Permission denied.
    Denied,
    /// The operating system's error.
    Failed {
        /// The errno; 0 if there was none.
        errno: i32,
        /// The message, with details if there are any.
        text: String,
    },
    /// The content is not valid.
    Malformed(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match &self.why {
            Why::Absent => write!(f, "{what} does not exist"),
            Why::Denied => write!(f, "no permission to read {what}"),
            Why::Failed { text, .. } => write!(f, "cannot read {what}: {text}"),
            Why::Malformed(text) => write!(f, "{what} is malformed: {text}"),
        }
    }
}

impl Unread {
    pub fn new(what: impl Into<String>, error: &io::Error) -> Self {
        let why = match error.kind() {
            // A device node without its driver counts as absent.
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

/// The file system of a host. Paths are absolute paths on the host.
#[derive(Clone, Copy, Debug)]
pub struct Host<'root>(pub &'root Path);

impl Host<'_> {
    /// The path by which this process reaches a file of the host.
    pub fn locate(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// Reads a text file; invalid UTF-8 is replaced.
    pub fn text(&self, path: &str) -> Reading<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            // Does not block if the file is a pipe.
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(self.locate(path))?;
            file.take(MAX_TEXT).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(Unread::new(path, &error)),
        }
    }

    /// Reads the first line of a text file, without surrounding white space.
    pub fn line(&self, path: &str) -> Reading<String> {
        self.text(path).map(|text| text.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Reads and parses a text file.
    pub fn parsed<T>(&self, path: &str, parse: impl Fn(&str) -> Result<T, String>) -> Reading<T> {
        parse(&self.text(path)?).map_err(|reason| Unread::malformed(path, reason))
    }

    /// Reads a text file that is compressed with gzip.
    pub fn gunzipped(&self, path: &str) -> Reading<String> {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(self.locate(path));
        let file = file.map_err(|error| Unread::new(path, &error))?;
        let mut bytes = Vec::new();
        // Both sizes are limited: few compressed bytes can expand to very many.
        flate2::read::GzDecoder::new(file.take(MAX_TEXT))
            .take(MAX_TEXT)
            .read_to_end(&mut bytes)
            .map_err(|error| Unread::malformed(path, format!("cannot be decompressed: {error}")))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Lists the names in a directory, sorted.
    pub fn names(&self, path: &str) -> Reading<Vec<String>> {
        let entries = fs::read_dir(self.locate(path)).map_err(|error| Unread::new(path, &error))?;
        let mut names: Vec<_> = entries
            .take(MAX_ENTRIES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Reads eight bytes at an offset: the interface of the msr driver.
    pub fn word_at(&self, path: &str, offset: u64) -> Reading<u64> {
        let mut word = [0; 8];
        File::open(self.locate(path))
            .and_then(|file| file.read_exact_at(&mut word, offset))
            .map_err(|error| Unread::new(path, &error))?;
        Ok(u64::from_le_bytes(word))
    }

    /// Reads the kernel log record by record, up to the last one that exists now.
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
                // The record has been overwritten; the next read continues with the oldest record.
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

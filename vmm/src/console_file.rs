// SPDX-License-Identifier: Apache-2.0
//! A console in a file that does not grow without limit: the guest decides how much it prints.
//!
//! `PATH` takes the output up to `max_size` bytes. Then its content is copied to `PATH.1`, which held what
//! was older, and `PATH` begins again from its start. Both files are opened when the console is, and keep
//! their inodes: `tail -F PATH` goes on, and no folder is needed later. `PATH.1` begins with a line that says
//! that it is ours, from the moment it is made. A `PATH` with content and no such file beside it was written
//! by another program, and is refused: the first rotation would truncate it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// First line of the file with older output.
const MARK: &[u8] = b"--- cvmm: older console output; the file without .1 has what follows ---\n";
/// Console output is the guest's: it may hold what others must not read.
const MODE: u32 = 0o600;

/// The writer.
#[derive(Debug)]
pub struct ConsoleFile {
    current: File,
    older: File,
    max_size: u64,
}

/// The file with older output that belongs to `path`.
#[must_use]
pub fn older_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Finds why `path` cannot be a console's file, without making it.
///
/// # Errors
/// The path, and why.
pub fn check(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let older_path = older_path(path);
    let existing = |path: &Path| match open_existing(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(file) => Ok(Some(file)),
        Err(error) => Err((path.to_owned(), error)),
    };
    let current = existing(path)?;
    let older = existing(&older_path)?;
    let marked = older.map_or(Ok(false), |file| is_marked(&file)).map_err(|error| (older_path, error))?;
    current.map_or(Ok(()), |file| check_ours(&file, marked)).map_err(|error| (path.to_owned(), error))
}

impl ConsoleFile {
    /// Opens or makes the files of `path`.
    ///
    /// # Errors
    /// The path, and why it cannot be used.
    pub fn open(path: &Path, max_size: u64) -> Result<Self, (PathBuf, io::Error)> {
        let of = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        let older_path = older_path(path);
        // Existing files first: nothing is made beside a file that is refused.
        check(path)?;
        let mut older = open(&older_path).map_err(of(&older_path))?;
        let marked = is_marked(&older).map_err(of(&older_path))?;
        let current = open(path).map_err(of(path))?;
        check_ours(&current, marked).map_err(of(path))?;
        if !marked {
            older.write_all(MARK).map_err(of(&older_path))?;
        }
        Ok(Self { current, older, max_size })
    }

    /// Moves the output to the other file.
    fn rotate(&mut self, len: u64) -> io::Result<()> {
        let mut older = &self.older;
        older.set_len(0)?;
        older.seek(SeekFrom::Start(0))?;
        older.write_all(MARK)?;
        // A file from before may be longer than allowed: its end is kept.
        let room = self.max_size.saturating_sub(MARK.len() as u64);
        let mut current = &self.current;
        current.seek(SeekFrom::Start(len.saturating_sub(room)))?;
        let copied = io::copy(&mut current.take(room), &mut older);
        // Even if the disk is full: the limit is what counts.
        self.current.set_len(0)?;
        copied.map(drop)
    }
}

impl Write for ConsoleFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Checked each time: the file may have been truncated, or a second VM may write it.
        let mut len = self.current.metadata()?.len();
        if len >= self.max_size {
            self.rotate(len)?;
            len = 0;
        }
        let room = usize::try_from(self.max_size - len).unwrap_or(usize::MAX);
        let mut current = &self.current;
        current.write(bytes.get(..room).unwrap_or(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A symbolic link could lead to any file that this user can write. Without O_NONBLOCK, opening a FIFO
    // waits for its reader.
    options.read(true).append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

fn open_existing(path: &Path) -> io::Result<File> {
    let file = options().open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link; name the file itself"),
        Some(libc::ENXIO | libc::EISDIR) => not_regular(),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

/// Opens a regular file, or makes one that only its owner can read.
fn open(path: &Path) -> io::Result<File> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(not_regular());
    }
    match options().create_new(true).mode(MODE).open(path) {
        Ok(file) => {
            // The umask can only have taken permissions away; the owner's are needed for the next run.
            file.set_permissions(std::fs::Permissions::from_mode(MODE))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open_existing(path),
        Err(error) => Err(error),
    }
}

/// Whether the file with older output has its first line; an empty one has not. Other content is an error.
fn is_marked(file: &File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut start = [0; MARK.len()];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) if start == MARK => Ok(true),
        Ok(()) | Err(_) => Err(io::Error::other(
            "older console output would go there, but cvmm did not write this file; move it away",
        )),
    }
}

/// Refuses a current file that another program wrote, or that has a second name.
fn check_ours(file: &File, marked: bool) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.nlink() > 1 {
        Err(io::Error::other("it has another name too (a hard link); name a file of its own"))
    } else if metadata.len() > 0 && !marked {
        Err(io::Error::other("it has content that cvmm did not write; move it away, or name another file"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const MAX: u64 = 64 << 10;

    fn content(path: &Path) -> Vec<u8> {
        fs::read(path).unwrap()
    }

    #[test]
    fn the_newest_output_is_kept_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let mut console = ConsoleFile::open(&path, MAX).unwrap();
        let mut all = Vec::new();
        for line in 0..40_000 {
            let line = format!("line {line}\r\n");
            console.write_all(line.as_bytes()).unwrap();
            all.extend_from_slice(line.as_bytes());
            let sizes = [&path, &older_path(&path)].map(|path| fs::metadata(path).unwrap().len());
            assert!(sizes.iter().all(|size| *size <= MAX), "{sizes:?}");
        }
        console.write_all(&[b'x'; 3 * MAX as usize]).unwrap();
        all.extend_from_slice(&[b'x'; 3 * MAX as usize]);
        let older = content(&older_path(&path));
        let kept = [older.strip_prefix(MARK).unwrap(), &content(&path)].concat();
        assert!(kept.len() as u64 > MAX - MARK.len() as u64 && all.ends_with(&kept));
    }

    #[test]
    fn output_is_appended_and_a_file_from_before_is_bounded_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        for text in ["first\n", "second\n"] {
            ConsoleFile::open(&path, MAX).unwrap().write_all(text.as_bytes()).unwrap();
        }
        assert_eq!(content(&path), b"first\nsecond\n");
        fs::write(&path, vec![b'a'; 5 * MAX as usize]).unwrap();
        let mut console = ConsoleFile::open(&path, MAX).unwrap();
        console.write_all(b"new").unwrap();
        assert_eq!((content(&path), fs::metadata(older_path(&path)).unwrap().len()), (b"new".to_vec(), MAX));
        // Shortened by another program: it goes on at the new end.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        console.write_all(b"after").unwrap();
        assert_eq!(content(&path), b"after");
    }

    #[test]
    fn only_the_owner_can_read_it_whatever_the_umask_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        drop(ConsoleFile::open(&path, MAX).unwrap());
        for path in [&path, &older_path(&path)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o600);
        }
        // One that is there keeps what its owner gave it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        drop(ConsoleFile::open(&path, MAX).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn nothing_but_a_regular_file_of_ours_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("victim"), "precious").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("absent"), at("dangling")).unwrap();
        let fifo = std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap();
        assert!(fifo.success());
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("log.1"), "another program's").unwrap();
        fs::write(at("linked"), "").unwrap();
        fs::write(at("notes"), "not a console's").unwrap();
        symlink(at("victim"), at("linked.1")).unwrap();
        fs::hard_link(at("victim"), at("hard")).unwrap();
        for (name, culprit, words) in [
            ("link", "link", "symbolic link"),
            ("dangling", "dangling", "symbolic link"),
            ("fifo", "fifo", "not a regular file"),
            ("folder", "folder", "not a regular file"),
            ("log", "log.1", "cvmm did not write this file"),
            ("linked", "linked.1", "symbolic link"),
            ("victim", "victim", "another name"),
            ("hard", "hard", "another name"),
            ("notes", "notes", "content that cvmm did not write"),
        ] {
            for found in [check(&at(name)), ConsoleFile::open(&at(name), MAX).map(drop)] {
                let (path, error) = found.unwrap_err();
                assert_eq!(path, at(culprit));
                assert!(error.to_string().contains(words), "{name}: {error}");
            }
        }
        assert!(ConsoleFile::open(Path::new("/dev/null"), MAX).is_err());
        assert_eq!(
            (content(&at("victim")), content(&at("log.1"))),
            (b"precious".to_vec(), b"another program's".to_vec())
        );
        assert!(["absent", "log", "notes.1", "hard.1"].iter().all(|name| !at(name).exists()));
        check(&at("new")).unwrap();
        assert!(!at("new").exists());
    }
}

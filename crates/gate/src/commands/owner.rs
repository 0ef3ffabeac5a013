// SPDX-License-Identifier: Apache-2.0
//! Whose a gate's files are. A command that root runs on the gate of another user would write files that this user cannot read, and
//! reads keys that are not root's: it is told to run as that user instead.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Root, where it should be the gate's user.
#[derive(Debug, Error)]
#[error(
    "{path} belongs to another user than root, and what root writes there the gate cannot use; run: {command}"
)]
pub struct OwnerError {
    path: PathBuf,
    command: String,
}

/// Whether this process may work on `paths`, which it does unless it is root's and one of them another user's. One that is not there is
/// nobody's yet.
///
/// # Errors
/// With the command to run instead.
pub fn check<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), OwnerError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    for path in paths {
        let Ok(metadata) = fs::metadata(path) else { continue };
        if metadata.uid() != 0 {
            let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
            let arguments: Vec<_> = std::env::args().map(|argument| quoted(&argument)).collect();
            let command =
                format!("{} {}", as_user(&passwd, metadata.uid(), metadata.gid()), arguments.join(" "));
            return Err(OwnerError { path: path.to_owned(), command });
        }
    }
    Ok(())
}

/// What becomes a user and runs a command.
fn as_user(passwd: &str, uid: u32, gid: u32) -> String {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    match name {
        Some(name) => format!("runuser -u {name} --"),
        None => format!("setpriv --reuid {uid} --regid {gid} --clear-groups --"),
    }
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_copied() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ncvmm-gate:x:990:989::/:/usr/sbin/nologin\n";
        assert_eq!(as_user(passwd, 990, 989), "runuser -u cvmm-gate --");
        assert_eq!(as_user(passwd, 7, 8), "setpriv --reuid 7 --regid 8 --clear-groups --");
        for (argument, expected) in
            [("/etc/a-b.toml", "/etc/a-b.toml"), ("a b", "'a b'"), ("it's", r"'it'\''s'"), ("", "''")]
        {
            assert_eq!(quoted(argument), expected);
        }
    }
}

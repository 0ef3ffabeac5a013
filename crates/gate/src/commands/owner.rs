// SPDX-License-Identifier: Apache-2.0
//! Ownership of a gate's files. A command that root runs on the gate of another user would write files that
//! this user cannot read: it is refused with the command to run instead.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Root runs a command that the gate's user should run.
#[derive(Debug, Error)]
#[error("{path} belongs to another user, and the gate could not use what root writes there; run: {command}")]
pub struct OwnerError {
    path: PathBuf,
    command: String,
}

/// Refuses root if one of `paths` exists and belongs to another user.
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

/// The start of a command line that runs a command as another user.
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

/// An argument, quoted for a shell.
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

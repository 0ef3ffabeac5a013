// SPDX-License-Identifier: Apache-2.0
//! The process itself: its end, its allocator, its limit of open files, and its service manager.
#![expect(unsafe_code, reason = "mallopt() and _exit() have no safe interface")]

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Ends the process with success, without exit handlers: a PKCS#11 module takes itself apart in one while our
/// threads may still be inside it (SoftHSM then crashes). Files are on the disk by now, and standard error is
/// not buffered.
pub fn exit_immediately() -> ! {
    // SAFETY: nothing of this process is used afterwards.
    unsafe { libc::_exit(0) }
}

/// Limits the C library's allocator to two arenas; call it before threads are started. By default there are
/// eight per processor, and each keeps what its threads freed: with as many threads as the gate has, memory
/// then grows over a hundred thousand verdicts.
pub fn limit_malloc_arenas() {
    // SAFETY: sets a number in the allocator; nothing is freed or moved. If it fails, the process is larger,
    // and that is all.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// Raises the soft limit of open files, and so of connections, to the hard limit. If that fails, the limit
/// stays and a warning is logged.
pub fn raise_nofile_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, ?maximum, "cannot raise the limit of open files");
    }
}

/// The service manager (sd_notify(3)), if `NOTIFY_SOCKET` names one. Its socket is opened once, before the
/// sandbox forbids new ones; the `sd-notify` crate opens one for each message.
#[derive(Debug, Default)]
pub struct ServiceManager(Option<UnixDatagram>);

impl ServiceManager {
    /// Connects to the service manager that the environment names.
    pub fn from_env() -> io::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(Self(Some(socket)))
    }

    /// Reports that the gate serves.
    pub fn ready(&self) {
        self.notify("READY=1");
    }

    /// Reports that the gate is about to stop.
    pub fn stopping(&self) {
        self.notify("STOPPING=1");
    }

    fn notify(&self, state: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(state.as_bytes())) {
            tracing::warn!(%error, state, "cannot notify the service manager");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_hard_one() {
        raise_nofile_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }
}

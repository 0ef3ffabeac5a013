// SPDX-License-Identifier: Apache-2.0
//! Words to the service manager (sd_notify(3)): a datagram to the socket in `NOTIFY_SOCKET`, which is opened before the sandbox
//! forbids sockets.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify(Option<UnixDatagram>);

impl Notify {
    /// The one that the environment names.
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

    /// The gate answers from now on.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// It is about to stop.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, word: &str) {
        if let Some(Err(error)) = self.0.as_ref().map(|socket| socket.send(word.as_bytes())) {
            tracing::warn!(%error, word, "the service manager was not told");
        }
    }
}

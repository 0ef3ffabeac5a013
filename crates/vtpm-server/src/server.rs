// SPDX-License-Identifier: Apache-2.0
//! The sockets. One control and one data connection are served at a time; further ones wait. Each has a
//! thread; they share the [`Service`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cvmm_output::Existing;
use cvmm_vtpm::command::rc;
use cvmm_vtpm::{LibraryEngine, ProcessEngine, ProcessOptions, Response, Tpm, TpmEngine};
use cvmm_vtpm_server::swtpm::{self, Control, Parsed, Service, Then};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use zeroize::Zeroizing;

use crate::daemon::{self, StopSignals};
use crate::options::{Listen, Sandbox, Settings, Socket};

/// How long the rest of a request may take once it has begun. The next client is served only after that.
const PATIENCE: Duration = Duration::from_secs(10);

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn open(place: &Listen) -> Result<Self> {
        match place {
            Listen::Tcp { address, port } => {
                let listener = TcpListener::bind((address.as_str(), *port));
                Ok(Self::Tcp(listener.with_context(|| format!("cannot listen on {address} port {port}"))?))
            }
            Listen::Unix { path, mode } => {
                // A socket left by an earlier server. A running server loses its clients, as with swtpm.
                if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
                    std::fs::remove_file(path)
                        .with_context(|| format!("cannot replace {}", path.display()))?;
                }
                let listener = UnixListener::bind(path)
                    .with_context(|| format!("cannot listen on {}", path.display()))?;
                let mode = std::fs::Permissions::from_mode(mode.unwrap_or(0o600));
                std::fs::set_permissions(path, mode)
                    .with_context(|| format!("cannot set the mode of {}", path.display()))?;
                Ok(Self::Unix(listener))
            }
        }
    }

    fn accept(&self) -> std::io::Result<Connection> {
        match self {
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nodelay(true)?; // commands and answers are single small messages
                Ok(Connection::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Connection::Unix(listener.accept()?.0)),
        }
    }
}

enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Receives bytes, and on a Unix socket possibly a descriptor.
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
        loop {
            let result = match self {
                Self::Tcp(stream) => (&*stream).read(buffer).map(|count| (count, None)),
                Self::Unix(stream) => stream
                    .recv_with_fd(buffer)
                    .map(|(count, file)| (count, file.map(OwnedFd::from)))
                    .map_err(|error| std::io::Error::from_raw_os_error(error.errno())),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(bytes),
            Self::Unix(stream) => (&*stream).write_all(bytes),
        }
    }

    /// Sets the timeout: none until a request begins, [`PATIENCE`] for the rest of it.
    fn patience(&self, begun: bool) -> std::io::Result<()> {
        let time = begun.then_some(PATIENCE);
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(time),
            Self::Unix(stream) => stream.set_read_timeout(time),
        }
    }

    fn close(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// Appends received bytes to `buffer`; `false` at the end of the connection.
fn more(
    connection: &Connection,
    buffer: &mut Zeroizing<Vec<u8>>,
    fd: &mut Option<OwnedFd>,
) -> std::io::Result<bool> {
    let mut chunk = Zeroizing::new([0; 8192]);
    let (count, received) = connection.receive(&mut chunk[..])?;
    buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
    if received.is_some() {
        *fd = received;
    }
    Ok(count != 0)
}

/// Serves requests until the connection ends; `true` if the program must end.
fn serve_control(
    service: &Arc<Service>,
    connection: &Connection,
    data: &DataConnection,
) -> std::io::Result<bool> {
    loop {
        let mut request = Zeroizing::new(Vec::new());
        let mut fd = None;
        let (answer, then) = loop {
            match Control::parse(&request) {
                Parsed::Whole(control) => break service.control(control),
                Parsed::Needs(_) => {
                    connection.patience(!request.is_empty())?;
                    if !more(connection, &mut request, &mut fd)? {
                        return Ok(false);
                    }
                }
            }
        };
        // The rest of the message is padding, and dropped.
        let answer = match (then, fd) {
            (Then::TakeDataFd, Some(fd)) => {
                data.replace(service, fd);
                answer
            }
            (Then::TakeDataFd, None) => Zeroizing::new(vec![0, 0, 0, 3]),
            _ => answer,
        };
        connection.send(&answer)?;
        match then {
            Then::Continue | Then::TakeDataFd => {}
            Then::Close => return Ok(false),
            Then::Exit => return Ok(true),
        }
    }
}

/// Executes commands until the connection ends.
fn serve_data(service: &Service, connection: &Connection) -> std::io::Result<()> {
    let mut buffer = Zeroizing::new(Vec::new());
    loop {
        match swtpm::command_length(&buffer) {
            Some(Ok(length)) if buffer.len() >= length => {
                let response = service.execute(&buffer[..length]); // in bounds, see the guard
                connection.send(&response)?;
                buffer.drain(..length);
            }
            Some(Err(size)) => {
                cvmm_log_limit::warn!(size, "command size out of bounds: closing the connection");
                return connection.send(&Response::code_only(rc::COMMAND_SIZE));
            }
            _ => {
                connection.patience(!buffer.is_empty())?;
                if !more(connection, &mut buffer, &mut None)? {
                    return Ok(());
                }
            }
        }
    }
}

/// The data connection received over the control connection; a new one replaces it.
#[derive(Default)]
struct DataConnection(Mutex<Option<Arc<Connection>>>);

impl DataConnection {
    fn replace(&self, service: &Arc<Service>, fd: OwnedFd) {
        let connection = Arc::new(Connection::Unix(UnixStream::from(fd)));
        let old = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&connection));
        if let Some(old) = old {
            old.close();
        }
        let service = Arc::clone(service);
        let thread = std::thread::Builder::new().name("data".to_owned()).spawn(move || {
            if let Err(error) = serve_data(&service, &connection) {
                cvmm_log_limit::warn!(%error, "data connection failed");
            }
            connection.close();
        });
        if let Err(error) = thread {
            cvmm_log_limit::error!(%error, "cannot start the thread of the data connection");
        }
    }
}

fn engine(settings: &Settings) -> Result<Box<dyn TpmEngine>> {
    let store = super::state::open(&settings.state)?;
    Ok(match settings.sandbox {
        Sandbox::Thread => Box::new(LibraryEngine::new(store)?),
        Sandbox::Process => Box::new(ProcessEngine::new(ProcessOptions::default(), store)?),
    })
}

/// Whether this is the content of a PID file.
fn is_pid(content: &[u8]) -> bool {
    content.len() <= 12 && content.trim_ascii().iter().all(u8::is_ascii_digit)
}

/// Serves until a client sends `CMD_SHUTDOWN`, or closes its connection and `terminate` was given, or a stop
/// signal arrives. Then performs an orderly shutdown of the TPM.
pub(crate) fn run(options: &Socket) -> Result<()> {
    let settings = options.settings()?;
    if let Some(path) = &settings.pid {
        cvmm_output::reserve(path, 0o644, Existing::ReplaceOwn(&is_pid))?;
    }
    let server = settings.server.as_ref().map(Listener::open).transpose()?;
    let ctrl = settings.ctrl.as_ref().map(Listener::open).transpose()?;
    // The parent waits until the TPM is ready. There are no threads yet.
    let background = match settings.daemon {
        true => Some(daemon::fork().context("cannot run in the background")?),
        false => None,
    };
    super::log::start(&settings.log)?;
    // Before the first thread: threads inherit the signal mask.
    let signals = StopSignals::block().context("cannot block the stop signals")?;
    let service = Arc::new(Service::new(Tpm::new(engine(&settings)?)?, settings.startup, settings.rules));
    if settings.power_on {
        service.init(false).context("cannot start the TPM")?;
    }
    if let Some(path) = &settings.pid {
        let line = format!("{}\n", std::process::id());
        cvmm_output::write(path, line.as_bytes(), 0o644, Existing::ReplaceOwn(&is_pid))?;
    }
    if let Some(background) = background {
        background.ready();
    }
    let result = serve(&settings, &service, signals, server, ctrl);
    service.end();
    for place in [&settings.server, &settings.ctrl].into_iter().flatten() {
        if let Listen::Unix { path, .. } = place {
            let _ = std::fs::remove_file(path);
        }
    }
    if let Some(path) = &settings.pid {
        let _ = std::fs::remove_file(path);
    }
    result
}

fn serve(
    settings: &Settings,
    service: &Arc<Service>,
    signals: StopSignals,
    server: Option<Listener>,
    ctrl: Option<Listener>,
) -> Result<()> {
    let (end, ended) = std::sync::mpsc::channel::<Result<()>>();
    let stop = end.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let stopped = signals.wait().map(|signal| cvmm_log_limit::info!(signal, "stop signal"));
        let _ = stop.send(stopped.context("cannot wait for signals"));
    })?;
    let mut threads = 0;
    if let Some(listener) = server {
        let (service, end, terminate) = (Arc::clone(service), end.clone(), settings.terminate);
        std::thread::Builder::new().name("server".to_owned()).spawn(move || {
            let _ = end.send(each(&listener, terminate, |connection| {
                serve_data(&service, connection).map(|()| false)
            }));
        })?;
        threads += 1;
    }
    if let Some(listener) = ctrl {
        let (service, end, terminate) = (Arc::clone(service), end.clone(), settings.terminate_ctrl);
        std::thread::Builder::new().name("ctrl".to_owned()).spawn(move || {
            let data = DataConnection::default();
            let _ =
                end.send(each(&listener, terminate, |connection| serve_control(&service, connection, &data)));
        })?;
        threads += 1;
    }
    if threads == 0 {
        bail!("no socket to serve");
    }
    ended.recv().context("a thread ended unexpectedly")?
}

/// Serves one connection after the other until `serve` returns `true` or, with `terminate`, the first
/// connection ends.
fn each(
    listener: &Listener,
    terminate: bool,
    serve: impl Fn(&Connection) -> std::io::Result<bool>,
) -> Result<()> {
    loop {
        let connection = match listener.accept() {
            Ok(connection) => connection,
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error).context("cannot accept a connection"),
        };
        match serve(&connection) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => cvmm_log_limit::warn!(%error, "connection failed"),
        }
        connection.close();
        if terminate {
            return Ok(());
        }
    }
}

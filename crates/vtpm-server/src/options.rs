// SPDX-License-Identifier: Apache-2.0
//! swtpm's options. Most take a list `name=value,name,...`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cvmm_guest_state::{KeyFormat, VmId};
use cvmm_vtpm_server::swtpm::{Rules, Startup};

/// As clap reads them.
#[derive(clap::Args)]
pub(crate) struct Socket {
    /// Emulate a TPM 2.0, the only supported version.
    #[arg(long)]
    tpm2: bool,
    /// Location of the state: dir=FOLDER or backend-uri=dir://FOLDER; with --key also
    /// backend-uri=file://PATH, the state file itself.
    #[arg(
        long,
        value_name = "dir=FOLDER",
        alias = "tpmstatedir",
        required_unless_present = "print_capabilities"
    )]
    tpmstate: Option<String>,
    /// Print the supported features of swtpm in swtpm's format (JSON), and exit.
    #[arg(long)]
    pub print_capabilities: bool,
    /// Data socket: type=tcp,port=N[,bindaddr=A] or type=unixio,path=P[,mode=M].
    #[arg(long, value_name = "SPEC")]
    server: Option<String>,
    /// Short for --server type=tcp,port=N.
    #[arg(short, long)]
    port: Option<u16>,
    /// Control socket, specified as for --server.
    #[arg(long, value_name = "SPEC")]
    ctrl: Option<String>,
    /// not-need-init, startup-clear, startup-state, startup-none, disable-auto-shutdown (send no
    /// TPM2_Shutdown when the TPM is stopped or reset).
    #[arg(long, value_name = "LIST")]
    flags: Option<String>,
    /// reject-locality-4, allow-set-locality.
    #[arg(long, value_name = "LIST")]
    locality: Option<String>,
    /// file=PATH or fd=N, level=N (0 errors .. 20 everything), prefix=TEXT before each line, truncate.
    #[arg(long, value_name = "LIST")]
    log: Option<String>,
    /// Write the process ID to a file: file=PATH.
    #[arg(long, value_name = "file=PATH")]
    pid: Option<String>,
    /// action=none|log|kill. Accepted for compatibility with swtpm and ignored: --sandbox decides whether
    /// libtpms is sandboxed.
    #[arg(long, value_name = "action=A")]
    seccomp: Option<String>,
    /// Encrypt the state with a 256-bit key, in the same kind of state file that VMs have:
    /// file=PATH, and with commas between them format=hex|binary, mode=aes-256-gcm and remove.
    /// mode=aes-256-cbc is accepted for compatibility and means the same.
    #[arg(long, value_name = "LIST")]
    key: Option<String>,
    /// Name of the VM that the encrypted state belongs to.
    #[arg(long, value_name = "NAME", default_value = "cvmm-vtpm")]
    vm_id: VmId,
    /// Run in the background.
    #[arg(short, long)]
    daemon: bool,
    /// Exit when the client closes its connection.
    #[arg(short, long)]
    terminate: bool,
    /// Where libtpms runs: in this process, or in a sandboxed child process.
    #[arg(long, value_enum, default_value = "thread")]
    pub sandbox: Sandbox,
}

/// Where libtpms runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sandbox {
    /// In this process.
    Thread,
    /// In a sandboxed child process.
    Process,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Tcp { address: String, port: u16 },
    Unix { path: PathBuf, mode: Option<u32> },
}

/// Where the state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Plain files in a folder.
    Plain { dir: PathBuf },
    /// An encrypted state file.
    Encrypted { path: PathBuf, key: KeyFile, vm_id: VmId },
}

/// Where its key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyFile {
    pub path: PathBuf,
    pub format: KeyFormat,
    /// Whether to remove the file once it has been read.
    pub remove: bool,
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogTo {
    /// Standard error.
    Stderr,
    /// A file, emptied first or not.
    File { path: PathBuf, truncate: bool },
    /// An inherited descriptor.
    Fd(i32),
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub to: LogTo,
    pub level: u32,
    /// Before each line.
    pub prefix: String,
}

fn log(text: &str) -> Result<Log> {
    let map = list("log", text, &["file", "fd", "level", "prefix", "truncate"])?;
    let truncate = map.contains_key("truncate");
    let to = match (map.get("file"), map.get("fd")) {
        (Some(_), Some(_)) => bail!("--log {text}: give only one of file= and fd="),
        (Some(&""), None) => bail!("--log {text}: file= names no file"),
        (Some(path), None) => LogTo::File { path: PathBuf::from(path), truncate },
        (None, Some(fd)) => LogTo::Fd(number("log", "fd", fd)?),
        (None, None) => LogTo::Stderr,
    };
    if truncate && !matches!(to, LogTo::File { .. }) {
        bail!("--log {text}: truncate needs file=");
    }
    Ok(Log {
        to,
        level: map.get("level").map_or(Ok(1), |level| number("log", "level", level))?,
        prefix: map.get("prefix").copied().unwrap_or_default().to_owned(),
    })
}

/// As the server uses them.
#[derive(Debug)]
pub(crate) struct Settings {
    pub state: Place,
    pub server: Option<Listen>,
    pub ctrl: Option<Listen>,
    pub terminate: bool,
    pub terminate_ctrl: bool,
    pub power_on: bool,
    pub startup: Startup,
    pub rules: Rules,
    pub log: Log,
    pub pid: Option<PathBuf>,
    pub daemon: bool,
    pub sandbox: Sandbox,
}

/// Splits `name=value,name`; only the known names are allowed.
fn list<'a>(option: &str, text: &'a str, known: &[&str]) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut map = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').unwrap_or((item, ""));
        if !known.contains(&name) {
            bail!("--{option} {text}: '{name}' is not one of {}", known.join(", "));
        }
        if map.insert(name, value).is_some() {
            bail!("--{option} {text}: '{name}' is given twice");
        }
    }
    Ok(map)
}

fn number<T: std::str::FromStr>(option: &str, name: &str, value: &str) -> Result<T> {
    value.parse().ok().with_context(|| format!("--{option}: {name}={value} is not a number that fits"))
}

fn listen(option: &str, text: &str) -> Result<(Listen, bool)> {
    let known = ["type", "port", "bindaddr", "path", "mode", "terminate", "disconnect"];
    let map = list(option, text, &known)?;
    let terminate = map.contains_key("terminate");
    // swtpm takes `port=N` alone for TCP.
    let place = match (map.get("type").copied(), map.get("port"), map.get("path")) {
        (Some("tcp") | None, Some(port), None) => Listen::Tcp {
            address: map.get("bindaddr").copied().unwrap_or("127.0.0.1").to_owned(),
            port: number(option, "port", port)?,
        },
        (Some("unixio"), None, Some(path)) => {
            let mode = match map.get("mode") {
                None => None,
                Some(mode) => match u32::from_str_radix(mode, 8) {
                    Ok(mode) if mode <= 0o777 => Some(mode),
                    _ => bail!("--{option}: mode={mode} is not an octal number up to 777"),
                },
            };
            Listen::Unix { path: PathBuf::from(path), mode }
        }
        _ => bail!("--{option} {text}: give type=tcp,port=N or type=unixio,path=P"),
    };
    Ok((place, terminate))
}

/// The encrypted state's name in its folder.
pub(crate) const STATE_FILE: &str = "tpm2.vmgs";

fn key_file(text: &str) -> Result<KeyFile> {
    let names = ["file", "format", "mode", "remove", "fd", "pwdfile", "pwdfd", "kdf"];
    let map = list("key", text, &names)?;
    if ["pwdfile", "pwdfd", "kdf"].iter().any(|name| map.contains_key(name)) {
        bail!(
            "key-password: --key {text}: keys are not derived from passwords, whose strength is unknown; \
             give file= with 32 random bytes"
        );
    }
    if map.contains_key("fd") {
        bail!("key-fd: --key {text}: reading the key from a descriptor is not supported; give file=");
    }
    let Some(path) = map.get("file").filter(|path| !path.is_empty()) else {
        bail!("--key {text}: give file=PATH")
    };
    match map.get("mode").copied() {
        None | Some("aes-256-gcm" | "aes-256-cbc") => {}
        Some(mode) => bail!(
            "key-mode: --key: mode={mode}: the state is encrypted with AES-256-GCM; give mode=aes-256-gcm, \
             or omit mode"
        ),
    }
    let format = match map.get("format").copied() {
        // swtpm's default.
        None | Some("hex") => KeyFormat::Hex,
        Some("binary") => KeyFormat::Raw,
        Some(format) => bail!("--key: format={format}: give hex or binary"),
    };
    let remove = match map.get("remove").copied() {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(value) => bail!("--key: remove={value}: give true or false"),
    };
    Ok(KeyFile { path: PathBuf::from(path), format, remove })
}

impl Socket {
    fn place(&self) -> Result<Place> {
        let tpmstate = self.tpmstate.as_deref().unwrap_or_default();
        let map = list("tpmstate", tpmstate, &["dir", "backend-uri"])?;
        let uri = match (map.get("dir"), map.get("backend-uri")) {
            (Some(dir), None) => ("dir", *dir),
            (None, Some(uri)) => uri
                .split_once("://")
                .with_context(|| format!("--tpmstate: backend-uri={uri} is not dir:// or file://"))?,
            _ => bail!("--tpmstate {tpmstate}: give dir=FOLDER"),
        };
        let key = self.key.as_deref().map(key_file).transpose()?;
        let place = PathBuf::from(uri.1);
        Ok(match (uri.0, key) {
            ("dir", None) => Place::Plain { dir: place },
            ("dir", Some(key)) => {
                Place::Encrypted { path: place.join(STATE_FILE), key, vm_id: self.vm_id.clone() }
            }
            ("file", Some(key)) => Place::Encrypted { path: place, key, vm_id: self.vm_id.clone() },
            ("file", None) => {
                bail!(
                    "key-missing: --tpmstate file://: a state file is always encrypted; give --key file=PATH"
                )
            }
            (scheme, _) => bail!("--tpmstate: unknown backend '{scheme}'; give dir:// or file://"),
        })
    }

    /// Checks all options.
    pub(crate) fn settings(&self) -> Result<Settings> {
        if !self.tpm2 {
            bail!("give --tpm2: TPM 1.2 is not supported");
        }
        let state = self.place()?;
        let mut terminate = self.terminate;
        let mut server = None;
        if let Some(text) = &self.server {
            let (place, ends) = listen("server", text)?;
            server = Some(place);
            terminate |= ends;
        }
        if let Some(port) = self.port {
            if server.is_some() {
                bail!("--port and --server: give only one");
            }
            server = Some(Listen::Tcp { address: "127.0.0.1".to_owned(), port });
        }
        let (mut ctrl, mut terminate_ctrl) = (None, false);
        if let Some(text) = &self.ctrl {
            let (place, ends) = listen("ctrl", text)?;
            (ctrl, terminate_ctrl) = (Some(place), ends || self.terminate);
        }
        if server.is_none() && ctrl.is_none() {
            bail!("give --server, --port or --ctrl: without a socket the TPM is not reachable");
        }
        let flags = self.flags.as_deref().unwrap_or_default();
        let flags = list(
            "flags",
            flags,
            &["not-need-init", "startup-clear", "startup-state", "startup-none", "disable-auto-shutdown"],
        )?;
        let startup = match (flags.contains_key("startup-clear"), flags.contains_key("startup-state")) {
            (true, true) => bail!("--flags: give only one of startup-clear and startup-state"),
            (true, false) => Startup::Clear,
            (false, true) => Startup::State,
            _ => Startup::None,
        };
        let localities = self.locality.as_deref().unwrap_or_default();
        let localities = list("locality", localities, &["reject-locality-4", "allow-set-locality"])?;
        let log = log(self.log.as_deref().unwrap_or_default())?;
        if let Some(text) = &self.seccomp {
            let action = list("seccomp", text, &["action"])?.get("action").copied().unwrap_or_default();
            if !["none", "log", "kill"].contains(&action) {
                bail!("--seccomp: action is none, log or kill");
            }
        }
        let pid = match &self.pid {
            None => None,
            Some(text) => Some(PathBuf::from(
                list("pid", text, &["file"])?.get("file").context("--pid: give file=PATH")?,
            )),
        };
        Ok(Settings {
            state,
            server,
            ctrl,
            terminate,
            terminate_ctrl,
            power_on: startup != Startup::None || flags.contains_key("not-need-init"),
            startup,
            rules: Rules {
                reject_locality_4: localities.contains_key("reject-locality-4"),
                set_locality_command: localities.contains_key("allow-set-locality"),
                disable_auto_shutdown: flags.contains_key("disable-auto-shutdown"),
            },
            log,
            pid,
            daemon: self.daemon,
            sandbox: self.sandbox,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        socket: Socket,
    }

    fn settings(text: &str) -> Result<Settings> {
        Cli::try_parse_from(std::iter::once("swtpm").chain(text.split(' ')))?.socket.settings()
    }

    #[test]
    fn command_lines_for_swtpm_are_understood() {
        let got = settings(
            "--tpm2 --tpmstate dir=/s --server type=tcp,port=2321 --ctrl type=tcp,port=2322 --flags \
             startup-clear",
        );
        let got = got.unwrap();
        assert_eq!(got.server, Some(Listen::Tcp { address: "127.0.0.1".to_owned(), port: 2321 }));
        assert_eq!((got.startup, got.power_on), (Startup::Clear, true));
        let got = settings(
            "--tpm2 --server port=5 --ctrl type=tcp,port=6 --flags not-need-init --tpmstate dir=/s --seccomp \
             action=none",
        );
        let got = got.unwrap();
        assert_eq!((got.startup, got.power_on), (Startup::None, true));
        let got = settings(
            "--tpm2 --tpmstate dir=/s --ctrl type=unixio,path=/p,mode=0600,terminate -d --pid file=/f --log \
             file=/l,level=20",
        );
        let got = got.unwrap();
        assert_eq!(got.ctrl, Some(Listen::Unix { path: "/p".into(), mode: Some(0o600) }));
        assert!(got.terminate_ctrl && !got.terminate && got.daemon && !got.power_on);
        assert_eq!(got.log.to, LogTo::File { path: "/l".into(), truncate: false });
        assert_eq!(got.log.level, 20);
        assert_eq!(got.state, Place::Plain { dir: "/s".into() });
    }

    #[test]
    fn a_log_goes_where_swtpm_would_send_it() {
        let of = |text: &str| settings(&format!("--tpm2 --tpmstate dir=/s --port 1 --log {text}"));
        // As tpm2-tss' test harness gives it.
        assert_eq!(
            of("fd=1,level=5").unwrap().log,
            Log { to: LogTo::Fd(1), level: 5, prefix: String::new() }
        );
        let file = LogTo::File { path: "/l".into(), truncate: true };
        assert_eq!(
            of("file=/l,truncate,prefix=[id=1]").unwrap().log,
            Log { to: file, level: 1, prefix: "[id=1]".to_owned() }
        );
        assert_eq!(of("level=0").unwrap().log.to, LogTo::Stderr);
        for (text, reason) in [
            ("fd=1,file=/l", "one of file= and fd="),
            ("fd=x", "not a number"),
            ("file=", "no file"),
            ("fd=1,truncate", "truncate needs file="),
            ("colour", "not one of"),
        ] {
            let error = format!("{:#}", of(text).unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
        let got = settings("--tpm2 --tpmstate dir=/s --port 1 --flags disable-auto-shutdown").unwrap();
        assert!(got.rules.disable_auto_shutdown);
    }

    #[test]
    fn a_key_makes_the_state_an_encrypted_file() {
        let place = |text: &str| settings(&format!("--tpm2 --port 1 {text}")).unwrap().state;
        let of = |path: &str, format, remove, vm_id| Place::Encrypted {
            path: path.into(),
            key: KeyFile { path: "/k".into(), format, remove },
            vm_id: VmId::new(vm_id).unwrap(),
        };
        assert_eq!(
            place("--tpmstate dir=/s --key file=/k,format=hex,mode=aes-256-cbc"),
            of("/s/tpm2.vmgs", KeyFormat::Hex, false, "cvmm-vtpm")
        );
        assert_eq!(
            place("--tpmstate backend-uri=dir:///s --key file=/k,format=binary,remove=true"),
            of("/s/tpm2.vmgs", KeyFormat::Raw, true, "cvmm-vtpm")
        );
        assert_eq!(
            place("--tpmstate backend-uri=file:///s/web.vmgs --key file=/k,mode=aes-256-gcm --vm-id web-1"),
            of("/s/web.vmgs", KeyFormat::Hex, false, "web-1")
        );
        assert_eq!(place("--tpmstate backend-uri=dir:///s"), Place::Plain { dir: "/s".into() });
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, reason) in [
            ("--tpmstate dir=/s --port 1", "--tpm2"),
            ("--tpm2 --tpmstate dir=/s", "not reachable"),
            ("--tpm2 --tpmstate backend=x --port 1", "not one of dir"),
            ("--tpm2 --tpmstate backend-uri=x --port 1", "not dir://"),
            ("--tpm2 --tpmstate backend-uri=nvme:///x --port 1", "unknown backend 'nvme'"),
            ("--tpm2 --tpmstate dir=/s,backend-uri=dir:///s --port 1", "give dir="),
            ("--tpm2 --tpmstate backend-uri=file:///s --port 1", "key-missing: "),
            ("--tpm2 --tpmstate dir=/s --port 70000", "70000"),
            ("--tpm2 --tpmstate dir=/s --server type=udp,port=1", "type=tcp"),
            ("--tpm2 --tpmstate dir=/s --server type=tcp,port=x", "not a number"),
            ("--tpm2 --tpmstate dir=/s --ctrl type=unixio,path=/p,mode=9", "octal"),
            ("--tpm2 --tpmstate dir=/s --port 1 --server port=2", "give only one"),
            ("--tpm2 --tpmstate dir=/s --port 1 --flags startup-clear,startup-state", "one of"),
            ("--tpm2 --tpmstate dir=/s --port 1 --flags startup-clear,startup-clear", "twice"),
            ("--tpm2 --tpmstate dir=/s --port 1 --key pwdfile=/p", "key-password: "),
            ("--tpm2 --tpmstate dir=/s --port 1 --key pwdfd=3,mode=aes-256-cbc", "key-password: "),
            ("--tpm2 --tpmstate dir=/s --port 1 --key file=/k,kdf=pbkdf2", "key-password: "),
            ("--tpm2 --tpmstate dir=/s --port 1 --key fd=3", "key-fd: "),
            ("--tpm2 --tpmstate dir=/s --port 1 --key format=hex", "give file="),
            ("--tpm2 --tpmstate dir=/s --port 1 --key file=/k,mode=aes-cbc", "key-mode: "),
            ("--tpm2 --tpmstate dir=/s --port 1 --key file=/k,mode=none", "key-mode: "),
            ("--tpm2 --tpmstate dir=/s --port 1 --key file=/k,format=base64", "hex or binary"),
            ("--tpm2 --tpmstate dir=/s --port 1 --key file=/k,remove=perhaps", "true or false"),
            ("--tpm2 --tpmstate dir=/s --port 1 --key file=/k --vm-id a/b", "vm-id"),
        ] {
            let error = format!("{:#}", settings(text).unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}

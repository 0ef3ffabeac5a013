// SPDX-License-Identifier: Apache-2.0
//! swtpm's options: most take a list `name=value,name,...`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cvmm_vtpm::swtpm::Startup;

/// As clap reads them.
#[derive(clap::Args)]
pub struct Socket {
    /// A TPM 2.0; there is no other here.
    #[arg(long)]
    tpm2: bool,
    /// dir=FOLDER: where the state is.
    #[arg(long, value_name = "dir=FOLDER", alias = "tpmstatedir")]
    tpmstate: String,
    /// Commands: type=tcp,port=N[,bindaddr=A] or type=unixio,path=P[,mode=M].
    #[arg(long, value_name = "SPEC")]
    server: Option<String>,
    /// Short for --server type=tcp,port=N.
    #[arg(short, long)]
    port: Option<u16>,
    /// Control: as --server.
    #[arg(long, value_name = "SPEC")]
    ctrl: Option<String>,
    /// not-need-init, startup-clear, startup-state, startup-none.
    #[arg(long, value_name = "LIST")]
    flags: Option<String>,
    /// reject-locality-4, allow-set-locality.
    #[arg(long, value_name = "LIST")]
    locality: Option<String>,
    /// file=PATH, level=N (0 errors .. 20 everything), truncate.
    #[arg(long, value_name = "LIST")]
    log: Option<String>,
    /// file=PATH for the process id.
    #[arg(long, value_name = "file=PATH")]
    pid: Option<String>,
    /// action=none|log|kill. Accepted for swtpm's sake: the engine's process is always jailed with
    /// --sandbox process, and nothing is with --sandbox thread.
    #[arg(long, value_name = "action=A")]
    seccomp: Option<String>,
    /// Encrypted state is the state container's; plain files here have no key.
    #[arg(long, value_name = "LIST")]
    key: Option<String>,
    /// Go to the background.
    #[arg(short, long)]
    daemon: bool,
    /// End when the client closes its connection.
    #[arg(short, long)]
    terminate: bool,
    /// Where libtpms runs: in this process, or in a jailed child of it.
    #[arg(long, value_enum, default_value = "thread")]
    pub sandbox: Sandbox,
}

/// Where libtpms runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sandbox {
    /// In this process.
    Thread,
    /// In a process of its own.
    Process,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp { address: String, port: u16 },
    Unix { path: PathBuf, mode: Option<u32> },
}

/// As the server uses them.
#[derive(Debug)]
pub struct Settings {
    pub dir: PathBuf,
    pub server: Option<Listen>,
    pub ctrl: Option<Listen>,
    pub terminate: bool,
    pub terminate_ctrl: bool,
    pub power_on: bool,
    pub startup: Startup,
    pub reject_locality_4: bool,
    pub set_locality_command: bool,
    pub log: Option<PathBuf>,
    pub log_level: u32,
    pub log_truncate: bool,
    pub pid: Option<PathBuf>,
    pub daemon: bool,
    pub sandbox: Sandbox,
}

/// `name=value,name` taken apart; only the names known are allowed.
fn list<'a>(option: &str, text: &'a str, known: &[&str]) -> Result<BTreeMap<&'a str, &'a str>> {
    let mut map = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').unwrap_or((item, ""));
        if !known.contains(&name) {
            bail!("--{option} {text}: '{name}' is not one of {}", known.join(", "));
        }
        if map.insert(name, value).is_some() {
            bail!("--{option} {text}: '{name}' twice");
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

impl Socket {
    /// Checks them all.
    pub fn settings(&self) -> Result<Settings> {
        if !self.tpm2 {
            bail!("give --tpm2: there is no TPM 1.2 here");
        }
        if self.key.is_some() {
            bail!(
                "key-unsupported: --key: state in plain files has no key; there is no encrypted state here yet"
            );
        }
        let dir = list("tpmstate", &self.tpmstate, &["dir"])?.get("dir").map(PathBuf::from);
        let dir = dir.context("--tpmstate: give dir=FOLDER")?;
        let mut terminate = self.terminate;
        let mut server = None;
        if let Some(text) = &self.server {
            let (place, ends) = listen("server", text)?;
            server = Some(place);
            terminate |= ends;
        }
        if let Some(port) = self.port {
            if server.is_some() {
                bail!("--port and --server: give one");
            }
            server = Some(Listen::Tcp { address: "127.0.0.1".to_owned(), port });
        }
        let (mut ctrl, mut terminate_ctrl) = (None, false);
        if let Some(text) = &self.ctrl {
            let (place, ends) = listen("ctrl", text)?;
            (ctrl, terminate_ctrl) = (Some(place), ends || self.terminate);
        }
        if server.is_none() && ctrl.is_none() {
            bail!("give --server, --port or --ctrl: nobody could talk to this TPM");
        }
        let flags = self.flags.as_deref().unwrap_or_default();
        let flags = list(
            "flags",
            flags,
            &["not-need-init", "startup-clear", "startup-state", "startup-none", "disable-auto-shutdown"],
        )?;
        let startup = match (flags.contains_key("startup-clear"), flags.contains_key("startup-state")) {
            (true, true) => bail!("--flags: one of startup-clear and startup-state"),
            (true, false) => Startup::Clear,
            (false, true) => Startup::State,
            _ => Startup::None,
        };
        let localities = self.locality.as_deref().unwrap_or_default();
        let localities = list("locality", localities, &["reject-locality-4", "allow-set-locality"])?;
        let log = self.log.as_deref().unwrap_or_default();
        let log = list("log", log, &["file", "level", "truncate", "prefix", "fd"])?;
        if log.contains_key("fd") {
            bail!("--log: fd= is not supported; use file=PATH, or standard error without it");
        }
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
            dir,
            server,
            ctrl,
            terminate,
            terminate_ctrl,
            power_on: startup != Startup::None || flags.contains_key("not-need-init"),
            startup,
            reject_locality_4: localities.contains_key("reject-locality-4"),
            set_locality_command: localities.contains_key("allow-set-locality"),
            log: log.get("file").map(PathBuf::from),
            log_level: log.get("level").map_or(Ok(1), |level| number("log", "level", level))?,
            log_truncate: log.contains_key("truncate"),
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
    fn lines_that_people_write_for_swtpm_are_understood() {
        let got = settings(
            "--tpm2 --tpmstate dir=/s --server type=tcp,port=2321 --ctrl type=tcp,port=2322 --flags startup-clear",
        );
        let got = got.unwrap();
        assert_eq!(got.server, Some(Listen::Tcp { address: "127.0.0.1".to_owned(), port: 2321 }));
        assert_eq!((got.startup, got.power_on), (Startup::Clear, true));
        let got = settings(
            "--tpm2 --server port=5 --ctrl type=tcp,port=6 --flags not-need-init --tpmstate dir=/s --seccomp action=none",
        );
        let got = got.unwrap();
        assert_eq!((got.startup, got.power_on), (Startup::None, true));
        let got = settings(
            "--tpm2 --tpmstate dir=/s --ctrl type=unixio,path=/p,mode=0600,terminate -d --pid file=/f --log file=/l,level=20",
        );
        let got = got.unwrap();
        assert_eq!(got.ctrl, Some(Listen::Unix { path: "/p".into(), mode: Some(0o600) }));
        assert!(got.terminate_ctrl && !got.terminate && got.daemon && !got.power_on);
        assert_eq!((got.log, got.log_level), (Some("/l".into()), 20));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, reason) in [
            ("--tpmstate dir=/s --port 1", "--tpm2"),
            ("--tpm2 --tpmstate dir=/s", "nobody could talk"),
            ("--tpm2 --tpmstate backend-uri=x --port 1", "not one of dir"),
            ("--tpm2 --tpmstate dir=/s --port 70000", "70000"),
            ("--tpm2 --tpmstate dir=/s --server type=udp,port=1", "type=tcp"),
            ("--tpm2 --tpmstate dir=/s --server type=tcp,port=x", "not a number"),
            ("--tpm2 --tpmstate dir=/s --ctrl type=unixio,path=/p,mode=9", "octal"),
            ("--tpm2 --tpmstate dir=/s --port 1 --server port=2", "give one"),
            ("--tpm2 --tpmstate dir=/s --port 1 --flags startup-clear,startup-state", "one of"),
            ("--tpm2 --tpmstate dir=/s --port 1 --flags startup-clear,startup-clear", "twice"),
            ("--tpm2 --tpmstate dir=/s --port 1 --key file=/k", "key-unsupported"),
        ] {
            let error = format!("{:#}", settings(text).unwrap_err());
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}

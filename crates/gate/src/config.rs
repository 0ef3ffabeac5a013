// SPDX-License-Identifier: Apache-2.0
//! `gate.toml`. Paths are relative to its folder.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::files::{self, FileError};
use crate::keys::pkcs11;
use crate::sandbox;
use crate::store::quota::MAX_RECORDS;
use crate::{clients, tls};

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
}

/// The configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where VMMs connect.
    pub socket: PathBuf,
    /// Folder of policies.
    pub policies: PathBuf,
    /// Public keys that policies may be signed with, PEM.
    pub policy_keys: Vec<PathBuf>,
    /// Folder of private keys.
    pub keys: PathBuf,
    /// Folder of firmware images and UKIs.
    pub artifacts: PathBuf,
    /// Folder of certificates and revocation lists.
    pub certificates: PathBuf,
    /// Folder that the gate writes.
    pub state: PathBuf,
    /// The audit log.
    pub audit: PathBuf,
    /// Clients and the VMs that they may ask about. Without a table, only the gate's own user.
    #[serde(default, rename = "client")]
    pub clients: Vec<clients::Table>,
    /// From earlier gates; refused, since `client` says what a user may ask.
    allow_uids: Option<toml::Value>,
    /// Address and port of `/metrics` and `/healthz`, such as `127.0.0.1:9464`. There is no access control.
    pub status: Option<std::net::SocketAddr>,
    /// Folder of secrets for admitted guests.
    pub secrets: Option<PathBuf>,
    /// Trustee's protocol, for guests that speak it.
    pub rcar: Option<crate::rcar::config::Config>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// What happens if the sandbox is not complete.
    #[serde(default)]
    pub sandbox: sandbox::Mode,
    /// Serves as root too. Code that takes over such a gate has the machine if the sandbox does not hold.
    #[serde(default)]
    pub unsafe_run_as_root: bool,
    /// The gate's protocol over TLS.
    pub tls: Option<tls::Settings>,
    /// Keys in a PKCS#11 token instead of the folder of keys.
    pub pkcs11: Option<pkcs11::Settings>,
    /// Folder with `LINE_ark.der`, `LINE_ask.der`, `LINE_asvk.der` of a test PKI that is trusted in addition
    /// to AMD's roots.
    pub unsafe_test_roots: Option<PathBuf>,
}

/// Limits of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time; a new one evicts the one that has been silent longest.
    pub connections: usize,
    /// VMs with persistent state that run at a time: each holds a connection, which is not among those.
    pub runs: usize,
    /// Of these, VMs of one client; three quarters unless it is set.
    pub(crate) client_runs: Option<usize>,
    /// Records of new VMs that one client adds; three quarters of those that a folder holds unless it is set.
    pub(crate) client_vms: Option<usize>,
    /// Seconds for a message to arrive once it has begun, and for the first to begin.
    pub message_s: u64,
    /// Seconds a guest has to answer a challenge.
    pub guest_s: u64,
    /// Sessions per second that one guest may begin through its channel, and ten times that at once.
    pub guest_sessions_per_s: u32,
    /// Checkpoints per second of one VM with persistent state, and ten times that at once.
    pub checkpoints_per_s: u32,
}

/// What one client may have of `all`, so that others have something too.
fn share(all: usize) -> usize {
    all - all / 4
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            runs: 1024,
            client_runs: None,
            client_vms: None,
            message_s: 5,
            guest_s: 30,
            guest_sessions_per_s: 2,
            checkpoints_per_s: 1,
        }
    }
}

impl Limits {
    /// VMs with persistent state that one client may run at a time.
    #[must_use]
    pub fn client_runs(&self) -> usize {
        self.client_runs.unwrap_or(share(self.runs))
    }

    /// Records that one client may add, of admitted VMs and of VMs with persistent state each.
    #[must_use]
    pub fn client_vms(&self) -> usize {
        self.client_vms.unwrap_or(share(MAX_RECORDS))
    }

    fn check(&self) -> Result<(), &'static str> {
        let Self {
            connections,
            runs: _, // none run then
            client_runs,
            client_vms,
            message_s,
            guest_s,
            guest_sessions_per_s,
            checkpoints_per_s,
        } = *self;
        let zero = [connections, client_runs.unwrap_or(1), client_vms.unwrap_or(1)].contains(&0)
            || [message_s, guest_s, guest_sessions_per_s.into(), checkpoints_per_s.into()].contains(&0);
        if zero {
            return Err("[limits]: 0 would refuse every client");
        }
        if guest_s > 3600 {
            return Err("limits.guest_s is at most 3600");
        }
        Ok(())
    }
}

impl Config {
    /// What the sandbox leaves possible for this configuration.
    #[must_use]
    pub fn sandbox_rules(&self) -> sandbox::Rules {
        // By name: a path that is added to the configuration does not compile until it is decided here.
        let Self {
            socket,
            policies,
            policy_keys,
            keys,
            artifacts,
            certificates,
            state,
            audit,
            clients: _,
            allow_uids: _,
            status: _,
            secrets,
            rcar,
            limits: _,
            sandbox: _,
            unsafe_run_as_root: _,
            tls,
            pkcs11,
            unsafe_test_roots: _, // read at the start
        } = self;
        let mut read = vec![policies.clone(), artifacts.clone(), certificates.clone()];
        read.extend(policy_keys.iter().chain(secrets).cloned());
        // SIGHUP reads them again.
        read.extend(tls.clone().iter_mut().flat_map(tls::Settings::paths).map(|path| path.clone()));
        read.extend(rcar.as_ref().and_then(|rcar| rcar.resources.clone()));
        let mut write = vec![state.clone()];
        if let Some(pkcs11) = pkcs11 {
            read.extend(pkcs11.read.iter().cloned());
            write.extend(pkcs11.write.iter().cloned());
        }
        // The socket can be removed at the end, if its folder has nothing else that matters.
        let others = [policies, keys, artifacts, certificates, audit];
        let removable = |folder: &&Path| others.iter().all(|path| !path.starts_with(folder));
        let remove = socket.parent().filter(removable).map(Path::to_owned).into_iter().collect();
        sandbox::Rules {
            read,
            write,
            remove,
            unix_sockets: pkcs11.as_ref().is_some_and(|pkcs11| pkcs11.unix_sockets),
        }
    }

    /// Reads `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let content = |problem: String| ConfigError::Content { path: path.to_owned(), problem };
        let bytes = files::read(path, 64 << 10)?;
        let text = String::from_utf8(bytes).map_err(|_| content("not UTF-8".to_owned()))?;
        let mut config: Self = toml::from_str(&text).map_err(|error| content(error.to_string()))?;
        config.limits.check().map_err(|problem| content(problem.to_owned()))?;
        let absolute = std::path::absolute(path).map_err(|source| FileError {
            what: "find",
            path: path.to_owned(),
            source,
        })?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let Self {
            socket,
            policies,
            policy_keys,
            keys,
            artifacts,
            certificates,
            state,
            audit,
            clients,
            allow_uids,
            status: _,
            secrets,
            rcar,
            limits: _,
            sandbox: _,
            unsafe_run_as_root: _,
            tls,
            pkcs11,
            unsafe_test_roots,
        } = &mut config;
        if let Some(rcar) = rcar {
            rcar.settle(base).map_err(content)?;
        }
        if allow_uids.is_some() {
            return Err(content(replaced("allow_uids", "uid = 1000")));
        }
        if tls.as_ref().is_some_and(|tls| tls.clients.is_some()) {
            return Err(content(replaced("tls.clients", "name = \"host-1.example\"")));
        }
        clients.iter().try_for_each(clients::Table::check).map_err(content)?;
        if tls.is_some() && clients.iter().all(|client| client.name.is_none()) {
            return Err(content(
                "[tls] needs at least one [[client]] with a name: without one, no client may ask over TLS"
                    .to_owned(),
            ));
        }
        for path in [socket, policies, keys, artifacts, certificates, state, audit]
            .into_iter()
            .chain(policy_keys)
            .chain(secrets)
            .chain(unsafe_test_roots)
            .chain(tls.iter_mut().flat_map(tls::Settings::paths))
            .chain(pkcs11.iter_mut().flat_map(pkcs11::Settings::paths))
        {
            *path = base.join(&*path);
        }
        Ok(config)
    }
}

/// The error for a key that named who may ask, but not about which VMs.
fn replaced(key: &str, who: &str) -> String {
    format!(
        "{key} let its clients ask about every VM and is no longer supported. Write for each of them what it may ask about:\n\
         [[client]]\n{who}\npolicies = [\"web\"]     # \"*\" matches all\nvms = [\"web-*\"]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(change: impl FnOnce(&str) -> String) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.toml");
        crate::setup::init(folder.path()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, change(&text)).unwrap();
        Config::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn clients_are_named_with_what_they_may_ask() {
        assert_eq!(load(str::to_owned).unwrap().clients, []);
        let table = "[[client]]\nuid = 1000\npolicies = [\"web\"]\nvms = [\"web-*\"]\n";
        assert_eq!(load(|text| format!("{text}{table}")).unwrap().clients.len(), 1);
        let tls = "[tls]\nlisten = \"127.0.0.1:0\"\ncertificate = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n";
        for (text, hint) in [
            (format!("{table}uids = [1]\n"), "unknown field"),
            ("[[client]]\nuid = 1000\nvms = [\"*\"]\n".to_owned(), "policies"),
            ("[[client]]\nuid = 1000\npolicies = [\"a b\"]\nvms = [\"*\"]\n".to_owned(), "uid 1000"),
            (format!("{tls}clients = [\"host-1\"]\n"), "[[client]]\nname = "),
            (format!("{tls}{table}"), "[[client]] with a name"),
        ] {
            let error = load(|config| format!("{config}{text}")).unwrap_err();
            assert!(error.contains(hint), "{error}");
        }
        let error = load(|config| format!("allow_uids = [0]\n{config}")).unwrap_err();
        assert!(error.contains("allow_uids") && error.contains("[[client]]\nuid = "), "{error}");
    }
}

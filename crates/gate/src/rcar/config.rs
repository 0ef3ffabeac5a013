// SPDX-License-Identifier: Apache-2.0
//! `[rcar]` of gate.toml.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cvmm_policy::is_name;
use serde::Deserialize;

/// `[rcar]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port.
    pub listen: SocketAddr,
    /// The policy that every guest has to satisfy.
    pub policy: String,
    /// Which guests may ask at all.
    #[serde(default)]
    pub guests: Guests,
    /// Folder of resources: `REPO/TYPE/TAG`.
    pub resources: Option<PathBuf>,
    /// For each repository, the policy that a guest also has to satisfy to get its resources. Other
    /// repositories are not released.
    #[serde(default)]
    pub release: BTreeMap<String, String>,
    /// Seconds from a challenge to the end of its session.
    #[serde(default = "session_s")]
    pub session_s: u64,
    /// Sessions at a time.
    #[serde(default = "sessions")]
    pub sessions: usize,
    /// Connections at a time.
    #[serde(default = "connections")]
    pub connections: usize,
    /// Requests per second of all clients together.
    #[serde(default = "requests_per_s")]
    pub requests_per_s: u32,
}

/// Which guests may ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guests {
    /// Guests that this gate has admitted, each in its latest launch.
    #[default]
    Admitted,
    /// All guests that satisfy the policy, even if this gate has not admitted them.
    Any,
}

fn session_s() -> u64 {
    300
}

fn sessions() -> usize {
    1024
}

fn connections() -> usize {
    128
}

fn requests_per_s() -> u32 {
    100
}

impl Config {
    /// Checks the values and resolves paths against `base`; the error says what is wrong.
    pub(crate) fn settle(&mut self, base: &Path) -> Result<(), String> {
        let Self {
            listen: _,
            policy,
            guests: _,
            resources,
            release,
            session_s,
            sessions,
            connections,
            requests_per_s,
        } = self;
        if let Some(name) =
            release.keys().chain(release.values()).chain([&*policy]).find(|name| !is_name(name))
        {
            return Err(format!("rcar: the name {name:?} has to be 1 to 64 characters of A-Z a-z 0-9 . _ -"));
        }
        if !(1..=3600).contains(session_s) || !(1..=1 << 20).contains(sessions) {
            return Err("rcar.session_s has to be 1 to 3600, and rcar.sessions 1 to 1048576".to_owned());
        }
        if *connections == 0 || *requests_per_s == 0 {
            return Err("rcar: a limit of 0 would refuse every client".to_owned());
        }
        if resources.is_none() && !release.is_empty() {
            return Err("rcar.release needs rcar.resources, the folder with the resources".to_owned());
        }
        for path in resources.iter_mut() {
            *path = base.join(&*path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_refused() {
        let read = |more: &str| {
            let text = format!("listen = \"127.0.0.1:0\"\npolicy = \"p\"\n{more}");
            let mut config: Config = toml::from_str(&text).map_err(|error| error.to_string())?;
            config.settle(Path::new("/base")).map(|()| config)
        };
        let config = read("").unwrap();
        assert_eq!((config.guests, config.sessions, config.resources), (Guests::Admitted, 1024, None));
        let config = read("resources = \"r\"\nrelease = { default = \"q\" }").unwrap();
        assert_eq!(config.resources.unwrap(), Path::new("/base/r"));
        for bad in [
            "guests = \"all\"",
            "sessions = 0",
            "session_s = 0",
            "session_s = 3601",
            "connections = 0",
            "requests_per_s = 0",
            "more = 1",
            "release = { default = \"q\" }",
            "resources = \"r\"\nrelease = { \"..\" = \"q\" }",
            "resources = \"r\"\nrelease = { default = \"\" }",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(toml::from_str::<Config>("listen = \"127.0.0.1:0\"").is_err());
    }
}

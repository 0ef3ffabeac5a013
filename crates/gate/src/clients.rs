// SPDX-License-Identifier: Apache-2.0
//! Clients, and the VMs that they may ask about. A client is a user on the Unix socket, or a name in a
//! certificate over TLS.
//!
//! A client without a `[[client]]` table is turned away. The gate's own user may ask about everything, unless
//! it has a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use cvmm_reason::Reason;
use serde::Deserialize;

use crate::reasons::Code;

/// Bytes of a client's name: URIs in certificates can be long, lines of the log are not.
const MAX_NAME: usize = 256;
/// Bytes of a pattern.
const MAX_PATTERN: usize = 64;

/// The name of the gate's own user in logs.
const OWN: &str = "own";

/// `[[client]]` of gate.toml.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// DNS name, URI or common name in its certificate; or:
    pub name: Option<String>,
    /// User on the Unix socket.
    pub uid: Option<u32>,
    /// Patterns of policies that it may ask for.
    pub policies: Vec<String>,
    /// Patterns of names of VMs that it may ask about.
    pub vms: Vec<String>,
}

impl Table {
    /// Checks it; the error says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { name, uid, policies, vms } = self;
        let who = match (name, uid) {
            (Some(name), None) if name == OWN || name.starts_with("uid ") => {
                return Err(format!(
                    "a client cannot have the name {name:?}, which logs use for local users"
                ));
            }
            (Some(name), None) if (1..=MAX_NAME).contains(&name.len()) => format!("client {name}"),
            (None, Some(uid)) => format!("client with uid {uid}"),
            (Some(_), None) => return Err(format!("a client's name has to have 1 to {MAX_NAME} bytes")),
            _ => {
                let message = "a [[client]] has to have either name (in its certificate, over TLS) or uid (of its user, on the socket)";
                return Err(message.to_owned());
            }
        };
        for (key, patterns) in [("policies", policies), ("vms", vms)] {
            if patterns.is_empty() {
                return Err(format!("{who}: {key} is empty, so it may not ask about any VM"));
            }
            if let Some(bad) = patterns.iter().find(|pattern| !is_pattern(pattern)) {
                return Err(format!(
                    "{who}: {bad:?} in {key} has to be 1 to {MAX_PATTERN} characters of A-Z a-z 0-9 . _ - *"
                ));
            }
        }
        Ok(())
    }
}

fn is_pattern(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-*".contains(&byte);
    (1..=MAX_PATTERN).contains(&text.len()) && text.bytes().all(known)
}

/// Whether `name` matches `pattern`, in which `*` matches any characters, or none.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            // The first match leaves the most for the rest of the pattern.
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What a table allows: VMs under policies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    policies: Vec<String>,
    vms: Vec<String>,
}

impl Grant {
    fn covers_vm(&self, vm_id: &str) -> bool {
        self.vms.iter().any(|pattern| matches(pattern, vm_id))
    }

    fn covers(&self, policy: &str, vm_id: &str) -> bool {
        self.covers_vm(vm_id) && self.policies.iter().any(|pattern| matches(pattern, policy))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rights {
    All,
    Only(Vec<Grant>),
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    name: String,
    rights: Rights,
}

impl Client {
    /// The gate's own user, which may ask about everything.
    #[must_use]
    pub fn own() -> Arc<Self> {
        Arc::new(Self { name: OWN.to_owned(), rights: Rights::All })
    }

    /// Whether it is the gate's own user.
    pub(crate) fn is_own(&self) -> bool {
        self.rights == Rights::All
    }

    /// Its name in logs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may ask about VM `vm_id` under `policy`.
    pub fn may_ask(&self, policy: &str, vm_id: &str) -> Result<(), Reason> {
        let covered = match &self.rights {
            Rights::All => true,
            Rights::Only(grants) => grants.iter().any(|grant| grant.covers(policy, vm_id)),
        };
        if covered { Ok(()) } else { Err(self.refusal(&format!("VM {vm_id} under policy {policy}"))) }
    }

    /// Whether it may ask about VM `vm_id` under any policy.
    pub fn may_ask_about(&self, vm_id: &str) -> Result<(), Reason> {
        let covered = match &self.rights {
            Rights::All => true,
            Rights::Only(grants) => grants.iter().any(|grant| grant.covers_vm(vm_id)),
        };
        if covered { Ok(()) } else { Err(self.refusal(&format!("VM {vm_id}"))) }
    }

    fn refusal(&self, what: &str) -> Reason {
        let what: String = what.chars().take(200).collect();
        Code::GateClient.reason(format!(
            "client {} may not ask about {what}: its [[client]] in gate.toml does not cover it",
            self.name
        ))
    }
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    own: u32,
    by_uid: BTreeMap<u32, Arc<Client>>,
    by_name: BTreeMap<String, Arc<Client>>,
}

impl Clients {
    /// The clients of `tables`, in a gate whose user is `own`.
    #[must_use]
    pub fn new(tables: &[Table], own: u32) -> Self {
        let (mut by_uid, mut by_name) = (BTreeMap::<u32, Client>::new(), BTreeMap::<String, Client>::new());
        for Table { name, uid, policies, vms } in tables {
            let called = |name: String| Client { name, rights: Rights::Only(Vec::new()) };
            let client = match (name, uid) {
                (Some(name), _) => by_name.entry(name.clone()).or_insert_with(|| called(name.clone())),
                (None, Some(uid)) => by_uid.entry(*uid).or_insert_with(|| called(format!("uid {uid}"))),
                (None, None) => continue,
            };
            if let Rights::Only(grants) = &mut client.rights {
                grants.push(Grant { policies: policies.clone(), vms: vms.clone() });
            }
        }
        Self {
            own,
            by_uid: by_uid.into_iter().map(|(uid, client)| (uid, Arc::new(client))).collect(),
            by_name: by_name.into_iter().map(|(name, client)| (name, Arc::new(client))).collect(),
        }
    }

    /// The client that is this user on the Unix socket.
    #[must_use]
    pub fn of_uid(&self, uid: u32) -> Option<Arc<Client>> {
        let table = self.by_uid.get(&uid).cloned();
        table.or_else(|| (uid == self.own).then(Client::own))
    }

    /// The client with these names in its certificate. If several of them have tables, it may ask what any of
    /// these may.
    #[must_use]
    pub fn of_names(&self, names: &[String]) -> Option<Arc<Client>> {
        let mut known = names.iter().filter_map(|name| self.by_name.get(name));
        let first = known.next()?;
        let more: Vec<_> = known.filter(|client| *client != first).collect();
        if more.is_empty() {
            return Some(Arc::clone(first));
        }
        let grants = [first].into_iter().chain(more).flat_map(|client| match &client.rights {
            Rights::Only(grants) => grants.clone(),
            // Only the gate's own user has all rights, and it has no certificate.
            Rights::All => Vec::new(),
        });
        Some(Arc::new(Client { name: first.name.clone(), rights: Rights::Only(grants.collect()) }))
    }

    /// Whether any client may ask over TLS.
    #[must_use]
    pub fn has_names(&self) -> bool {
        !self.by_name.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: Option<&str>, uid: Option<u32>, policies: &[&str], vms: &[&str]) -> Table {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Table { name: name.map(str::to_owned), uid, policies: list(policies), vms: list(vms) }
    }

    #[test]
    fn a_star_matches_any_characters() {
        for (pattern, name) in [
            ("web", "web"),
            ("*", ""),
            ("*", "anything"),
            ("web-*", "web-"),
            ("web-*", "web-1"),
            ("*-db", "a-db"),
            ("a*b*c", "abc"),
            ("a*b*c", "a-b-b-c"),
            ("a*aa", "aaa"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("web", "web1"),
            ("web", "we"),
            ("web-*", "web"),
            ("web-*", "xweb-1"),
            ("*-db", "a-db1"),
            ("a*b*c", "acb"),
            ("a*a", "a"),
            ("ab*ba", "aba"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_table_covers_its_vms_under_its_policies_only() {
        let clients = Clients::new(
            &[
                table(Some("host-1"), None, &["web"], &["web-*"]),
                table(Some("host-1"), None, &["db"], &["db-1"]),
                table(Some("host-2"), None, &["*"], &["x"]),
                table(None, Some(7), &["web*"], &["*"]),
            ],
            1000,
        );
        let names = |names: &[&str]| {
            clients.of_names(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        let host = names(&["host-1"]).unwrap();
        assert_eq!(host.name(), "host-1");
        assert!(host.may_ask("web", "web-7").is_ok() && host.may_ask("db", "db-1").is_ok());
        // Not the VMs of one table under the policy of another.
        for (policy, vm) in [("db", "web-7"), ("web", "db-1"), ("web", "web"), ("other", "web-7")] {
            assert_eq!(host.may_ask(policy, vm).unwrap_err().code, "gate.client", "{policy} {vm}");
        }
        assert!(host.may_ask_about("web-7").is_ok());
        assert_eq!(host.may_ask_about("x").unwrap_err().code, "gate.client");
        assert!(names(&["other", "host"]).is_none() && names(&[]).is_none());
        let both = names(&["other", "host-2", "host-1"]).unwrap();
        assert!(both.may_ask("any", "x").is_ok() && both.may_ask("web", "web-1").is_ok());
        assert!(both.may_ask("any", "web-1").is_err());

        let user = clients.of_uid(7).unwrap();
        assert!(user.may_ask("web-2", "vm").is_ok() && user.may_ask("db", "vm").is_err());
        assert_eq!(user.name(), "uid 7");
        assert!(clients.of_uid(0).is_none(), "root is a user like others");
        assert!(clients.of_uid(1000).unwrap().may_ask("any", "vm").is_ok());
        // A table for the gate's own user replaces its right to everything.
        let clients = Clients::new(&[table(None, Some(1000), &["web"], &["*"])], 1000);
        assert!(clients.of_uid(1000).unwrap().may_ask("db", "vm").is_err());
        assert!(!clients.has_names());
    }

    #[test]
    fn an_invalid_table_is_refused() {
        assert_eq!(table(Some("host-1"), None, &["*"], &["web-*"]).check(), Ok(()));
        let long = "x".repeat(MAX_NAME + 1);
        for bad in [
            table(None, None, &["*"], &["*"]),
            table(Some("a"), Some(1), &["*"], &["*"]),
            table(Some(""), None, &["*"], &["*"]),
            table(Some("own"), None, &["*"], &["*"]),
            table(Some("uid 1000"), None, &["*"], &["*"]),
            table(Some(&long), None, &["*"], &["*"]),
            table(None, Some(1), &[], &["*"]),
            table(None, Some(1), &["*"], &[]),
            table(None, Some(1), &["*"], &["a/b"]),
            table(None, Some(1), &["*"], &[""]),
            table(None, Some(1), &["web?"], &["*"]),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Limits per client, so that one cannot take what the others need: launches in progress, launches per second
//! (each is computed, signed and logged) and leases of VMs with persistent state. The gate's own user has no
//! such limits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cvmm_gate_protocol::rate::Rate;
use cvmm_reason::Reason;

use crate::clients::Client;

/// Launches that a client may begin at once, and per second after that.
const BURST: u32 = 1000;
const LAUNCHES_PER_S: u32 = 50;

/// The usage of all clients: as many entries as there are `[[client]]` tables.
#[derive(Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<String, Usage>>>);

#[derive(Debug)]
struct Usage {
    rate: Rate,
    launches: usize,
    leases: usize,
}

impl Usage {
    fn new(now: Instant) -> Self {
        Self { rate: Rate::new(BURST, LAUNCHES_PER_S, now), launches: 0, leases: 0 }
    }

    fn count(&mut self, resource: Resource) -> &mut usize {
        match resource {
            Resource::Launch => &mut self.launches,
            Resource::Lease => &mut self.leases,
        }
    }
}

/// What a client uses.
#[derive(Clone, Copy, Debug)]
enum Resource {
    Launch,
    Lease,
}

/// One launch or lease of a client, counted until this is dropped.
#[derive(Debug)]
pub(super) struct ShareGuard {
    shares: Arc<Mutex<HashMap<String, Usage>>>,
    client: String,
    resource: Resource,
}

impl Shares {
    /// Begins a launch of `client` in a gate with so many `connections`: one client's launches take at most
    /// three quarters of them.
    pub(super) fn begin_launch(
        &self,
        client: &Client,
        connections: usize,
        now: Instant,
    ) -> Result<Option<ShareGuard>, Reason> {
        self.take(client, Resource::Launch, now, |client, usage| {
            let max = connections - connections / 4;
            if usage.launches >= max {
                let message = format!("client {client} has {max} launches in progress; try again");
                return Err(Reason::new("gate.busy", message));
            }
            if !usage.rate.take(now) {
                let message = format!(
                    "client {client} begins more than {LAUNCHES_PER_S} launches per second; try again"
                );
                return Err(Reason::new("gate.rate", message));
            }
            Ok(())
        })
    }

    /// Counts a lease of `client`, which may have `max` at a time.
    pub(super) fn begin_lease(&self, client: &Client, max: usize) -> Result<Option<ShareGuard>, Reason> {
        self.take(client, Resource::Lease, Instant::now(), |client, usage| {
            if usage.leases >= max {
                let message = format!(
                    "client {client} already runs {max} VMs with persistent state (limits.client_runs of gate.toml)"
                );
                return Err(Reason::new("gate.busy", message));
            }
            Ok(())
        })
    }

    fn take(
        &self,
        client: &Client,
        resource: Resource,
        now: Instant,
        check: impl FnOnce(&str, &mut Usage) -> Result<(), Reason>,
    ) -> Result<Option<ShareGuard>, Reason> {
        if client.is_own() {
            return Ok(None);
        }
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = shares.entry(client.name().to_owned()).or_insert_with(|| Usage::new(now));
        check(client.name(), usage)?;
        *usage.count(resource) += 1;
        Ok(Some(ShareGuard { shares: Arc::clone(&self.0), client: client.name().to_owned(), resource }))
    }
}

impl Drop for ShareGuard {
    fn drop(&mut self) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = shares.get_mut(&self.client) {
            let count = usage.count(self.resource);
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clients::{Clients, Table};

    fn clients() -> Clients {
        let table = |name: &str| Table {
            name: Some(name.into()),
            uid: None,
            policies: vec!["*".into()],
            vms: vec!["*".into()],
        };
        Clients::new(&[table("host-1"), table("host-2")], 0)
    }

    fn client(clients: &Clients, name: &str) -> Arc<Client> {
        clients.of_names(&[name.to_owned()]).unwrap()
    }

    #[test]
    fn a_client_that_begins_launches_in_a_loop_is_slowed_down_and_others_are_not() {
        let clients = clients();
        let (host_1, host_2) = (client(&clients, "host-1"), client(&clients, "host-2"));
        let (shares, now) = (Shares::default(), Instant::now());
        let begun =
            |client: &Client, now| (0..5000).filter(|_| shares.begin_launch(client, 8, now).is_ok()).count();
        assert_eq!(begun(&host_1, now), BURST as usize);
        assert_eq!(shares.begin_launch(&host_1, 8, now).unwrap_err().code, "gate.rate");
        assert!(shares.begin_launch(&host_2, 8, now).is_ok());
        assert_eq!(begun(&host_1, now + Duration::from_secs(1)), LAUNCHES_PER_S as usize);
        assert_eq!(begun(&Client::own(), now), 5000);
    }

    #[test]
    fn a_client_has_its_share_of_leases_until_it_gives_them_back() {
        let clients = clients();
        let host_1 = client(&clients, "host-1");
        let shares = Shares::default();
        let mut held: Vec<_> = (0..3).map(|_| shares.begin_lease(&host_1, 3).unwrap()).collect();
        assert_eq!(shares.begin_lease(&host_1, 3).unwrap_err().code, "gate.busy");
        // Launches are counted separately, and so are other clients.
        assert!(shares.begin_launch(&host_1, 8, Instant::now()).is_ok());
        assert!(shares.begin_lease(&client(&clients, "host-2"), 3).is_ok());
        assert!((0..9).all(|_| shares.begin_lease(&Client::own(), 0).unwrap().is_none()));
        held.pop();
        assert!(shares.begin_lease(&host_1, 3).is_ok());
    }
}

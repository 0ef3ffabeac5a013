// SPDX-License-Identifier: Apache-2.0
//! What one client may have of the gate, so that others have theirs: launches in progress, which keep their places, and launches a
//! second, each of which is computed, signed and written down. The gate's own user has no such limits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cvmm_gate_protocol::rate::Rate;
use cvmm_reason::Reason;

use crate::clients::Client;

/// Launches that a client may begin at once, and a second after that.
const BURST: u32 = 1000;
const A_SECOND: u32 = 50;

/// All clients' shares: as many as there are `[[client]]` tables.
#[derive(Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<String, Share>>>);

#[derive(Debug)]
struct Share {
    rate: Rate,
    launches: usize,
}

/// A launch in progress. Ends when dropped.
#[derive(Debug)]
pub(super) struct InProgress {
    shares: Arc<Mutex<HashMap<String, Share>>>,
    client: String,
}

impl Shares {
    /// Begins a launch of `client` in a gate with so many `connections`, of which one client's launches take three in four at most.
    pub(super) fn begin(
        &self,
        client: &Client,
        connections: usize,
        now: Instant,
    ) -> Result<Option<InProgress>, Reason> {
        if client.is_own() {
            return Ok(None);
        }
        let most = connections - connections / 4;
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Share { rate: Rate::new(BURST, A_SECOND, now), launches: 0 };
        let share = shares.entry(client.name().to_owned()).or_insert_with(new);
        if share.launches >= most {
            let message = format!("client {} has {most} launches in progress; try again", client.name());
            return Err(Reason::new("gate.busy", message));
        }
        if !share.rate.take(now) {
            let message =
                format!("client {} begins more than {A_SECOND} launches a second; try again", client.name());
            return Err(Reason::new("gate.rate", message));
        }
        share.launches += 1;
        Ok(Some(InProgress { shares: Arc::clone(&self.0), client: client.name().to_owned() }))
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get_mut(&self.client) {
            share.launches = share.launches.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clients::{Clients, Table};

    #[test]
    fn a_client_that_begins_launches_in_a_loop_is_slowed_down_and_others_are_not() {
        let table = |name: &str| Table {
            name: Some(name.into()),
            uid: None,
            policies: vec!["*".into()],
            vms: vec!["*".into()],
        };
        let clients = Clients::new(&[table("host-1"), table("host-2")], 0);
        let client = |name: &str| clients.of_names(&[name.to_owned()]).unwrap();
        let (shares, now) = (Shares::default(), Instant::now());
        let begun = |client: &Client, now| (0..5000).filter(|_| shares.begin(client, 8, now).is_ok()).count();
        assert_eq!(begun(&client("host-1"), now), BURST as usize);
        assert_eq!(shares.begin(&client("host-1"), 8, now).unwrap_err().code, "gate.rate");
        assert!(shares.begin(&client("host-2"), 8, now).is_ok());
        assert_eq!(begun(&client("host-1"), now + Duration::from_secs(1)), A_SECOND as usize);
        assert_eq!(begun(&Client::own(), now), 5000);
    }
}

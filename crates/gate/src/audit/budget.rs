// SPDX-License-Identifier: Apache-2.0
//! How much of the log a client may fill with denials.
//!
//! A denial grants nothing, so it may be omitted from the log: each client has so many bytes per second, and
//! all clients together have another limit. Omitted denials are counted by client and code, and a line
//! reports them within [`INTERVAL`]. Decisions that grant something are always written.
//!
//! Clients, guests and addresses have separate limits: many addresses, or many guests of one client, use up
//! nothing of what the clients have.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cvmm_reason::Reason;
use serde_json::{Value, json};

/// Bytes of one client: per second, and at once.
pub(crate) const EACH: Rate = Rate { per_s: 4.0 * 1024.0, burst: 128.0 * 1024.0 };
/// The same for all of one kind together.
const ALL: Rate = Rate { per_s: 32.0 * 1024.0, burst: 1024.0 * 1024.0 };
/// Challenges of one client: per second, and at once.
const CHALLENGES: Rate = Rate { per_s: 20.0, burst: 500.0 };
/// Clients of one kind with a budget each; further ones share one.
const MAX_CLIENTS: usize = 1024;
/// Codes that are counted separately per client; further ones are counted together.
const MAX_CODES: usize = 8;
/// Time from the first omitted denial to the line that reports it.
pub const INTERVAL: Duration = Duration::from_secs(60);
const OTHERS: &str = "others";

/// How a client is identified.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// By its certificate or user.
    Client,
    /// By the VM that its VMM named.
    Guest,
    /// By its address only.
    Address,
}

/// Where a request comes from: its name in the log, and the budget that it counts against.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(Kind, Arc<str>);

impl Origin {
    /// A user of this machine.
    #[must_use]
    pub fn user(uid: u32) -> Self {
        Self(Kind::Client, format!("uid {uid}").into())
    }

    /// A client, by its name in the log.
    #[must_use]
    pub fn client(name: &str) -> Self {
        Self(Kind::Client, super::bound::text(name, 128).into())
    }

    /// A guest, through the channel of this VM.
    #[must_use]
    pub fn guest(vm_id: &str) -> Self {
        Self(Kind::Guest, super::bound::text(&format!("guest {vm_id}"), 128).into())
    }

    /// An address. Of an IPv6 address the first 64 bits count: a host has all addresses behind them.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        let text = match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("address {}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address => format!("address {address}"),
        };
        Self(Kind::Address, text.into())
    }
}

impl Default for Origin {
    fn default() -> Self {
        Self(Kind::Address, "unknown".into())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_s: f64,
    pub(crate) burst: f64,
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    left: f64,
    then: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, then: now }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.then).as_secs_f64();
        self.then = self.then.max(now);
        self.left = (self.left + passed * rate.per_s).min(rate.burst);
    }
}

/// The omitted denials of one client.
#[derive(Debug)]
struct OmittedDenials {
    since: Instant,
    /// Unix time of the first.
    time: i64,
    denials: u64,
    codes: BTreeMap<Cow<'static, str>, u64>,
}

#[derive(Debug)]
struct Client {
    bucket: Bucket,
    challenges: Bucket,
    /// Full again within a second, so it does not keep the entry alive.
    requests: Option<Bucket>,
    omitted: Option<OmittedDenials>,
}

/// All clients of one kind.
#[derive(Debug)]
struct Group {
    all: Bucket,
    clients: HashMap<Origin, Client>,
}

#[derive(Debug)]
struct State {
    clients: Group,
    guests: Group,
    addresses: Group,
}

impl State {
    fn of(&mut self, origin: &Origin) -> &mut Group {
        match origin.0 {
            Kind::Client => &mut self.clients,
            Kind::Guest => &mut self.guests,
            Kind::Address => &mut self.addresses,
        }
    }
}

/// The budgets of all clients.
#[derive(Debug)]
pub struct Budget(Mutex<State>);

impl Budget {
    /// Full budgets.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let group = || Group { all: Bucket::full(ALL, now), clients: HashMap::new() };
        Self(Mutex::new(State { clients: group(), guests: group(), addresses: group() }))
    }

    /// Whether to write a line of `bytes` about a denial of `origin` for `reasons`. It is counted if not.
    pub fn spend(&self, origin: &Origin, bytes: usize, reasons: &[Reason], now: Instant, time: i64) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Group { all, clients } = state.of(origin);
        all.fill(ALL, now);
        let client = client(clients, origin, now);
        client.bucket.fill(EACH, now);
        let bytes = bytes as f64;
        if client.bucket.left >= bytes && all.left >= bytes {
            client.bucket.left -= bytes;
            all.left -= bytes;
            return true;
        }
        let omitted = client.omitted.get_or_insert_with(|| OmittedDenials {
            since: now,
            time,
            denials: 0,
            codes: BTreeMap::new(),
        });
        omitted.denials += 1;
        if let Some(reason) = reasons.first() {
            let full = omitted.codes.len() >= MAX_CODES && !omitted.codes.contains_key(&reason.code);
            let code = if full { Cow::Borrowed(OTHERS) } else { reason.code.clone() };
            *omitted.codes.entry(code).or_default() += 1;
        }
        false
    }

    /// Whether `origin` may send one more request, where all together may send `per_s`: one takes at most
    /// three quarters of them.
    pub fn may_ask(&self, origin: &Origin, per_s: u32, now: Instant) -> bool {
        let share = f64::from(per_s - per_s / 4);
        let rate = Rate { per_s: share, burst: share };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client(&mut state.of(origin).clients, origin, now);
        let bucket = client.requests.get_or_insert_with(|| Bucket::full(rate, now));
        bucket.fill(rate, now);
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }

    /// Whether `origin` may have one more challenge: it takes no rights to get one, and each is a line.
    pub fn afford(&self, origin: &Origin, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let client = client(&mut state.of(origin).clients, origin, now);
        client.challenges.fill(CHALLENGES, now);
        let affords = client.challenges.left >= 1.0;
        if affords {
            client.challenges.left -= 1.0;
        }
        affords
    }

    /// The lines about omitted denials that are due; all of them if the log is about to be closed.
    pub fn due(&self, now: Instant, closing: bool) -> Vec<Value> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = |omitted: &mut OmittedDenials| {
            closing || now.saturating_duration_since(omitted.since) >= INTERVAL
        };
        let line = |(origin, client): (&Origin, &mut Client)| {
            let OmittedDenials { since: _, time, denials, codes } = client.omitted.take_if(due)?;
            Some(json!({
                "event": "denials-omitted",
                "client": origin.to_string(),
                "since": time,
                "denials": denials,
                "codes": codes,
            }))
        };
        let State { clients, guests, addresses } = &mut *state;
        [clients, guests, addresses]
            .into_iter()
            .flat_map(|group| group.clients.iter_mut())
            .filter_map(line)
            .collect()
    }

    /// Clients with a budget of their own.
    #[cfg(test)]
    fn clients(&self) -> usize {
        let state = self.0.lock().unwrap();
        [&state.clients, &state.guests, &state.addresses].map(|group| group.clients.len()).iter().sum()
    }
}

fn client<'a>(clients: &'a mut HashMap<Origin, Client>, origin: &Origin, now: Instant) -> &'a mut Client {
    if !clients.contains_key(origin) && clients.len() >= MAX_CLIENTS {
        // A full budget equals a new one.
        clients.retain(|_, client| {
            client.bucket.fill(EACH, now);
            client.challenges.fill(CHALLENGES, now);
            let spent = client.bucket.left < EACH.burst || client.challenges.left < CHALLENGES.burst;
            client.omitted.is_some() || spent
        });
    }
    let full = clients.len() >= MAX_CLIENTS && !clients.contains_key(origin);
    let key = if full { Origin(origin.0, OTHERS.into()) } else { origin.clone() };
    clients.entry(key).or_insert_with(|| Client {
        bucket: Bucket::full(EACH, now),
        challenges: Bucket::full(CHALLENGES, now),
        requests: None,
        omitted: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons() -> Vec<Reason> {
        vec![Reason::new("gate.message", "x")]
    }

    #[test]
    fn a_client_fills_its_budget_only_and_omitted_denials_are_counted() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let (one, other) = (Origin::user(1000), Origin::client("host-1"));
        let mut written = 0;
        // A thousand lines of 400 bytes a second, for a minute.
        for number in 0..60_000_u64 {
            let now = start + Duration::from_millis(number);
            written += u64::from(budget.spend(&one, 400, &reasons(), now, 1_000)) * 400;
        }
        let most = EACH.burst as u64 + 60 * EACH.per_s as u64;
        assert!(written <= most && written > most - 1000, "{written}");
        let end = start + INTERVAL;
        // Other clients are not affected.
        assert!(budget.spend(&other, 400, &reasons(), end, 1_060));
        let lines = budget.due(end + INTERVAL, false);
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["client"], "uid 1000");
        assert_eq!(lines[0]["denials"].as_u64(), Some(60_000 - written / 400));
        assert_eq!(lines[0]["codes"]["gate.message"], lines[0]["denials"]);
        assert!(budget.due(end + INTERVAL, true).is_empty());
    }

    #[test]
    fn many_clients_have_a_limit_together_and_memory_is_bounded() {
        let now = Instant::now();
        let budget = Budget::new(now);
        let mut written = 0;
        for host in 0..100_000_u32 {
            let origin = Origin::address(IpAddr::from(host.to_be_bytes()));
            written += u64::from(budget.spend(&origin, 1000, &reasons(), now, 0));
        }
        assert!(budget.clients() <= MAX_CLIENTS + 1 && written <= ALL.burst as u64 / 1000, "{written}");
        let lines = budget.due(now, true);
        let omitted: u64 = lines.iter().map(|line| line["denials"].as_u64().unwrap()).sum();
        assert!(lines.len() <= MAX_CLIENTS + 1 && omitted == 100_000 - written);
        // Much later they are forgotten.
        let later = now + Duration::from_secs(3600);
        assert!(budget.spend(&Origin::default(), 1000, &reasons(), later, 0));
        assert_eq!(budget.clients(), 1);
    }

    #[test]
    fn addresses_and_guests_do_not_use_up_the_budget_of_clients() {
        let now = Instant::now();
        let budget = Budget::new(now);
        for number in 0..10_000_u32 {
            let address = Origin::address(IpAddr::from(number.to_be_bytes()));
            for origin in [address, Origin::guest(&format!("web-{number}"))] {
                budget.spend(&origin, 1000, &reasons(), now, 0);
            }
        }
        let host = Origin::client("host-1");
        assert!((0..100).all(|_| budget.spend(&host, 1000, &reasons(), now, 0)));
        let lines = budget.due(now, true);
        assert!(lines.iter().all(|line| line["client"] != "host-1"));
    }

    #[test]
    fn one_address_leaves_some_requests_to_others() {
        let now = Instant::now();
        let budget = Budget::new(now);
        let (one, other) = (Origin::default(), Origin::address([10, 0, 0, 1].into()));
        assert_eq!((0..1000).filter(|_| budget.may_ask(&one, 100, now)).count(), 75);
        assert!(budget.may_ask(&other, 100, now) && budget.may_ask(&other, 1, now));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.may_ask(&one, 100, later)).count(), 75);
    }

    #[test]
    fn codes_of_a_client_are_bounded() {
        let now = Instant::now();
        let budget = Budget::new(now);
        for number in 0..1000 {
            let code = Cow::Owned(format!("rego.{number}"));
            budget.spend(&Origin::default(), usize::MAX, &[Reason { code, message: String::new() }], now, 0);
        }
        let line = &budget.due(now, true)[0];
        assert_eq!(line["codes"].as_object().unwrap().len(), MAX_CODES + 1);
        assert_eq!(line["codes"][OTHERS], 1000 - MAX_CODES as u64);
    }

    #[test]
    fn an_ipv6_host_is_its_network() {
        let of = |text: &str| Origin::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! `[gate]`: the attestation gate that decides whether an SNP guest runs.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::paths::{Paths, text};
use super::problem::Problem;
use super::profile::Profile;
use super::rules::{NAME_FORMAT, Rules};
use super::table::Table;

const MAX_TIMEOUT: u32 = 60;
const DEFAULT_TIMEOUT: u32 = 5;

pub(super) const TABLE: Table = Table { name: "gate", repeated: false, example };

/// The attestation gate that decides whether the guest runs.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Gate", extend("oneOf" = [
    {
        "required": ["socket"],
        "properties": { "url": false, "ca": false, "client_certificate": false, "client_key": false },
    },
    { "required": ["url", "ca", "client_certificate", "client_key"], "properties": { "socket": false } },
]))]
pub(super) struct RawGate {
    /// Its Unix socket, relative to this file. Either this or `url`.
    #[schemars(length(min = 1))]
    pub(super) socket: Option<String>,
    /// `tls://HOST:PORT`: TLS 1.3 over TCP, with a certificate on both sides.
    #[schemars(regex(pattern = r"^tls://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$"))]
    pub(super) url: Option<String>,
    /// Authorities that the certificate of the gate at `url` may be of (PEM), relative to this file.
    #[schemars(length(min = 1))]
    pub(super) ca: Option<String>,
    /// The certificate that is shown to the gate at `url` (PEM), relative to this file.
    #[schemars(length(min = 1))]
    pub(super) client_certificate: Option<String>,
    /// Its private key (PEM), relative to this file and readable for its user only.
    #[schemars(length(min = 1))]
    pub(super) client_key: Option<String>,
    /// The public key its verdicts are signed with (P-384, PEM), relative to this file. A different program
    /// that listens there cannot admit a guest without the private half.
    #[schemars(required, length(min = 1))]
    pub(super) verdict_key: Option<String>,
    /// The policy that appraises the guest, by its name at the gate.
    #[schemars(required, length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub(super) policy: Option<String>,
    /// The VM's name at the gate. Default: `name`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub(super) vm_id: Option<String>,
    /// Seconds to wait for each of its answers, 1 to 60. Default 5.
    #[schemars(range(min = 1, max = MAX_TIMEOUT))]
    pub(super) timeout: Option<i64>,
    /// Whether the guest has a virtio console that is connected to the gate, for `cvmm-guest attest`.
    /// Default false.
    pub(super) channel: Option<bool>,
}

/// The attestation gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Where it listens.
    pub endpoint: GateEndpoint,
    /// The public key of its verdicts, PEM.
    pub verdict_key: PathBuf,
    /// The policy that appraises the guest.
    pub policy: String,
    /// The VM's name at the gate.
    pub vm_id: String,
    /// Seconds to wait for each answer.
    pub timeout: u32,
    /// Whether the guest has a line to it.
    pub channel: bool,
}

/// Where a gate listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateEndpoint {
    /// A Unix socket.
    Unix {
        /// Its path.
        socket: PathBuf,
    },
    /// TLS over TCP.
    Tls {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Authorities of the gate's certificate, PEM.
        ca: PathBuf,
        /// The certificate that is shown to the gate, PEM.
        client_certificate: PathBuf,
        /// Its private key, PEM.
        client_key: PathBuf,
    },
}

impl RawGate {
    pub(super) fn check(self, rules: &mut Rules<'_>) -> Option<Gate> {
        if rules.not_snp() {
            let message = "[gate] requires isolation = \"snp\"";
            rules.add(Problem::at("gate", "isolation", message).allowed("isolation = \"snp\""));
        }
        let Self {
            socket,
            url,
            ca,
            client_certificate,
            client_key,
            verdict_key,
            policy,
            vm_id,
            timeout,
            channel,
        } = self;
        let files = [("ca", ca), ("client_certificate", client_certificate), ("client_key", client_key)];
        let endpoint = check_endpoint(socket, url, files, rules);
        let policy = rules.required("gate.policy", policy, NAME_FORMAT);
        if let Some(policy) = &policy {
            rules.check_name("gate.policy", policy);
        }
        if let Some(vm_id) = &vm_id {
            rules.check_name("gate.vm_id", vm_id);
        }
        Some(Gate {
            endpoint,
            verdict_key: rules.required_path("gate.verdict_key", verdict_key.as_deref()),
            policy: policy?,
            vm_id: vm_id.unwrap_or_else(|| rules.vm.name.clone()),
            timeout: rules.integer("gate.timeout", timeout, 1..=MAX_TIMEOUT).unwrap_or(DEFAULT_TIMEOUT),
            channel: channel.unwrap_or(false),
        })
    }
}

fn check_endpoint(
    socket: Option<String>,
    url: Option<String>,
    files: [(&str, Option<String>); 3],
    rules: &mut Rules<'_>,
) -> GateEndpoint {
    let Some(url) = url else {
        let cut = rules.is_cut("gate.url");
        for (key, _) in files.iter().filter(|(_, file)| file.is_some() && !cut) {
            let message = format!("{key} requires url");
            rules.add(Problem::at(&format!("gate.{key}"), "url", message).help("remove it, or add url"));
        }
        if socket.is_none() && !rules.is_cut("gate.socket") && !cut {
            let message = "[gate] has neither socket nor url";
            rules.add(Problem::at("gate.socket", "missing", message).allowed("either socket or url"));
        }
        let path = |socket: String| rules.path("gate.socket", &socket);
        return GateEndpoint::Unix { socket: socket.map(path).unwrap_or_default() };
    };
    if socket.is_some() {
        let message = "[gate] has both socket and url";
        rules.add(Problem::at("gate.url", "socket", message).allowed("either socket or url"));
    }
    let (host, port) = split_url(&url).unwrap_or_else(|| {
        let message = format!("url {} is not a valid gate address", show_url(&url));
        rules.add(
            Problem::at("gate.url", "format", message)
                .allowed("tls://HOST:PORT, such as tls://gate.example:9443"),
        );
        (String::new(), 0)
    });
    let [ca, client_certificate, client_key] =
        files.map(|(key, file)| rules.required_path(&format!("gate.{key}"), file.as_deref()));
    GateEndpoint::Tls { host, port, ca, client_certificate, client_key }
}

/// Host and port of `tls://HOST:PORT`; the host is a name or an address, one of IPv6 in brackets.
fn split_url(url: &str) -> Option<(String, u16)> {
    let (host, port) = url.strip_prefix("tls://")?.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.to_string(),
        None => {
            let label = |label: &str| {
                let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                (1..=63).contains(&label.len()) && label.bytes().all(known)
            };
            let name = host.len() <= 253 && host.split('.').all(label);
            // Digits and dots alone are an address or nothing: 10.0.0 is not a name.
            let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            (name && (!numeric || host.parse::<Ipv4Addr>().is_ok())).then(|| host.to_owned())?
        }
    };
    Some((host, port))
}

/// As much of it as a message can have.
fn show_url(url: &str) -> String {
    format!("{:?}", url.chars().take(80).collect::<String>())
}

impl From<&Gate> for RawGate {
    fn from(gate: &Gate) -> Self {
        let Gate { endpoint, verdict_key, policy, vm_id, timeout, channel } = gate;
        let common = Self {
            verdict_key: Some(text(verdict_key)),
            policy: Some(policy.clone()),
            vm_id: Some(vm_id.clone()),
            timeout: Some((*timeout).into()),
            channel: Some(*channel),
            ..Self::default()
        };
        match endpoint {
            GateEndpoint::Unix { socket } => Self { socket: Some(text(socket)), ..common },
            GateEndpoint::Tls { host, port, ca, client_certificate, client_key } => Self {
                url: Some(if host.contains(':') {
                    format!("tls://[{host}]:{port}")
                } else {
                    format!("tls://{host}:{port}")
                }),
                ca: Some(text(ca)),
                client_certificate: Some(text(client_certificate)),
                client_key: Some(text(client_key)),
                ..common
            },
        }
    }
}

pub(super) fn check_files(gate: &Gate, paths: &mut Paths) {
    paths.image("gate.verdict_key", &gate.verdict_key);
    if let GateEndpoint::Tls { host: _, port: _, ca, client_certificate, client_key } = &gate.endpoint {
        paths.image("gate.ca", ca);
        paths.image("gate.client_certificate", client_certificate);
        paths.image("gate.client_key", client_key);
    }
}

fn example(profile: Profile) -> String {
    match profile {
        // The gate cannot measure these.
        Profile::Igvm => String::new(),
        Profile::Uki | Profile::Hashes | Profile::Disk => EXAMPLE.to_owned(),
    }
}

const EXAMPLE: &str = r#"# The attestation gate that decides whether the guest runs; it makes ID block and HOST_DATA.
# Without it, cvmm run needs --without-gate.
[gate]
socket = "/run/cvmm-gate/gate.sock"
# Or over the network, TLS 1.3 with a certificate on both sides:
# url = "tls://gate.example:9443"
# ca = "gate-ca.pem"                  # authority of the gate's certificate
# client_certificate = "client.pem"   # what is shown to the gate
# client_key = "client.key"           # readable only by its user
verdict_key = "gate-verdict.pem"      # the public key of its verdicts
policy = "production"                 # the policy that appraises this guest
# vm_id = "example"                   # default: name
# timeout = 5                         # seconds for each of its answers
# channel = false                     # a virtio console for cvmm-guest attest
"#;

// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate init`: folders, keys and a configuration to start from.

use std::fs;
use std::path::Path;

use thiserror::Error;

use crate::clock::unix_time;
use crate::files::{self, FileError, create_private_folder};
use crate::keys::{KeysError, generate};
use crate::rcar::token;
use crate::store::vm_keys::StoreKey;
use crate::tpm_ca::{CaError, TpmCa};

/// Why a gate cannot be created.
#[derive(Debug, Error)]
pub enum SetupError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The authority of TPMs.
    #[error(transparent)]
    TpmCa(#[from] CaError),
    /// The folder has one already.
    #[error("{0} exists: this folder has a gate already")]
    Exists(std::path::PathBuf),
}

const CONFIG: &str = r#"# cvmm-gate. Paths start at the folder of this file.
socket = "gate.sock"

# ID.toml with ID.toml.jws beside it; signed by one of the keys: cvmm-gate policy sign
policies = "policies"
policy_keys = ["keys/policy.pem.pub"]

# verdict.pem signs tickets, id.pem ID blocks. Readable by this user only.
keys = "keys"

# Firmware images and UKIs, each named by its SHA-384: cvmm-gate artifact import
artifacts = "artifacts"

# vcek/CHIP/bl.._vcek.der, vlek/.., crl/milan-vcek.der ..
certificates = "certificates"

# Written by the gate.
state = "state"
audit = "audit.log"

# /metrics (Prometheus) and /healthz
# status = "127.0.0.1:9464"

# The sandbox: "require" (or the gate does not serve), "best-effort" or "off"
# sandbox = "require"

# Trustee's protocol, for guests that speak it (docs/reference/rcar.md)
# [rcar]
# listen = "127.0.0.1:8080"
# policy = "web"
# resources = "resources"
# release = { default = "web" }

# [limits]
# connections = 512
# runs = 1024
# client_runs = 768
# client_vms = 49152
# message_s = 5
# guest_s = 30
# guest_sessions_per_s = 2
# checkpoints_per_s = 1

# The gate's protocol over TLS 1.3, for clients with a certificate.
# [tls]
# listen = "0.0.0.0:9443"
# certificate = "tls/gate.pem"
# key = "tls/gate.key"
# client_ca = "tls/client-ca.pem"
# client_crl = "tls/client-crl.pem"

# Clients in addition to the gate's own user, and the VMs that they may ask about. A user on the socket has a uid, a client over TLS a name.
# [[client]]
# name = "host-1.example"
# policies = ["web"]
# vms = ["web-*"]

# Keys in a token instead of the folder of keys: cvmm-gate keys generate
# [pkcs11]
# module = "/usr/lib/softhsm/libsofthsm2.so"
# token = "gate"
# pin_file = "pin"
# verdict = "verdict"
# id = "id"
# author = "author"
# timeout_s = 3
"#;

/// Creates a gate in `folder`.
pub fn init(folder: &Path) -> Result<(), SetupError> {
    let config = folder.join("gate.toml");
    if config.exists() {
        return Err(SetupError::Exists(config));
    }
    let make = |path: &Path| {
        fs::create_dir_all(path).map_err(|source| FileError { what: "create", path: path.to_owned(), source })
    };
    make(folder)?;
    for name in ["policies", "artifacts", "certificates"] {
        make(&folder.join(name))?;
    }
    for name in ["keys", "state", "state/vms", "state/versions", "state/vm-keys", "state/tpms"] {
        create_private_folder(&folder.join(name))?;
    }
    // The policy key is created here to start with; it belongs where policies are written.
    for name in ["verdict.pem", "id.pem", "policy.pem"] {
        generate(&folder.join("keys").join(name))?;
    }
    StoreKey::generate(&folder.join("keys/store.key"))?;
    TpmCa::generate(&folder.join("keys"), unix_time())?;
    token::generate(&folder.join("keys").join(token::KEY))?;
    files::replace(&config, CONFIG.as_bytes(), 0o644)?;
    Ok(())
}
